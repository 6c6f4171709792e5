"""Words that messages share: counts, and what was probably meant."""

import difflib
import re
from collections.abc import Iterable
from pathlib import Path

_PLURAL = re.compile(r"^((?:[A-Za-z]+ )?[a-z]+)s(?![a-z])")


def counted(number: int, things: str) -> str:
    """The number and the things, given in the plural: "1 photo of the list", "2 photos of the list"."""
    return f"{number} {_PLURAL.sub(lambda found: found[1], things) if number == 1 else things}"


def nearest(word: str, known: Iterable[str]) -> str:
    """` (did you mean ...?)` where one of the known words is near, or nothing."""
    near = difflib.get_close_matches(word, known, 1)
    return f" (did you mean {near[0]}?)" if near else ""


def nearest_path(path: str | Path) -> str:
    """The same for a file or folder that is not there: the nearest name beside it, or beside the first folder that is missing."""
    path = Path(path)
    try:
        if path.exists():
            return " (it is a file)" if path.is_file() else ""
        while not path.parent.exists():
            path = path.parent
        return nearest(path.name, [other.name for other in path.parent.iterdir()])
    except (OSError, ValueError):  # ValueError: a zero byte in the path
        return ""
