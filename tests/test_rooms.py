"""What a room may know; which way imports run is checked by import-linter (pyproject.toml)."""

import re
from pathlib import Path

from voc12.classes import CLASSES

REPO = Path(__file__).resolve().parents[1]


def test_tool_names_no_dataset_no_network_and_no_class():
    names = "|".join(name for name in CLASSES if name != "train")  # which is also what one does with a network
    foreign = re.compile(rf"\bvoc(12)?\b|edam|(?<!torch\.)\b({names})\b", re.IGNORECASE)
    files = sorted((REPO / "tool").glob("*.py"))
    assert len(files) > 10
    found = [(path.name, match[0]) for path in files for match in foreign.finditer(path.read_text(encoding="utf-8"))]
    assert found == []
