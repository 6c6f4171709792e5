"""Old names of `tool.files.back_up`, until their users have moved."""

import itertools
from pathlib import Path

from tool.cli import UserError
from tool.files import atomic_write, back_up, make_folder


def next_free(path: Path) -> Path:
    """Return `<path>.1`, `.2`, ...: the first that does not exist."""
    return next(aside for n in itertools.count(1) if not (aside := path.with_name(f"{path.name}.{n}")).exists())


def keep_aside(path: str | Path, folder: str | Path | None = None) -> Path:
    """Copy a file to its first free backup, or into `folder`; return the copy's path."""
    path = Path(path)
    if folder is None:
        if (copy := back_up(path, copy=True)) is None:
            raise UserError(f"{path}: does not exist")
        return copy
    first = make_folder(folder) / path.name
    data = path.read_bytes()
    names = itertools.chain([first], (first.with_name(f"{path.name}.{number}") for number in itertools.count(1)))
    copy = next(name for name in names if not name.exists() or name.read_bytes() == data)
    if not copy.exists():
        with atomic_write(copy) as file:
            file.write(data)
    return copy
