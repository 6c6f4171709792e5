"""What each package may know. import-linter (pyproject.toml) checks which way imports run."""

import re
import subprocess
import sys

import pytest
from conftest import REPO

from voc12.classes import CLASSES


def test_tool_names_no_dataset_network_or_class():
    names = "|".join(name for name in CLASSES if name != "train")  # which is also a verb
    foreign = re.compile(rf"\bvoc(12)?\b|edam|(?<!torch\.)\b({names})\b", re.IGNORECASE)
    files = sorted((REPO / "tool").glob("*.py"))
    assert len(files) > 10
    found = [(path.name, match[0]) for path in files for match in foreign.finditer(path.read_text(encoding="utf-8"))]
    assert found == []


@pytest.mark.parametrize(
    ("modules", "spared"),
    [
        (
            "eval, colorful, infer_sal, voc12.prepare, voc12.prepare_coco, voc12.pairs, experiment.baselines, demo.draw",
            "torch",
        ),
        ("train_EDAM_cls, infer_cls, train_deeplab, infer_deeplab, train_sal, demo.pretrain", "torchvision"),
    ],
)
def test_scripts_start_without_slow_imports(modules, spared):
    code = f"import sys, {modules}; print({spared!r} in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    assert shown.stdout == "False\n"
