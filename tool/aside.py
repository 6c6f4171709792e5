"""Nothing that a user may have made is lost: what is about to be replaced is kept under another name."""

import itertools
from pathlib import Path

from tool.cli import UserError
from tool.files import atomic_write, make_folder


def next_free(path: Path) -> Path:
    """`<path>.1`, `.2`, ...: the first that does not exist."""
    return next(aside for n in itertools.count(1) if not (aside := path.with_name(f"{path.name}.{n}")).exists())


def keep_aside(path: str | Path, folder: str | Path | None = None) -> Path:
    """Copy the file `path` to `<name>.1`, `.2`, ... beside it, or to `<name>` in `folder` if that is free; the copy's path.

    A copy of the same bytes under one of these names is enough. UserError where it cannot be read or copied.
    """
    path = Path(path)
    first = path if folder is None else make_folder(folder) / path.name
    beside = (first.with_name(f"{path.name}.{number}") for number in itertools.count(1))
    try:
        data = path.read_bytes()
        names = beside if folder is None else itertools.chain([first], beside)
        copy = next(name for name in names if not name.exists() or name.read_bytes() == data)
    except OSError as error:
        raise UserError(f"cannot keep {error.filename} aside: {error.strerror}") from error
    if not copy.exists():
        with atomic_write(copy) as file:
            file.write(data)
    return copy
