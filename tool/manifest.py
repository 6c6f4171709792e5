"""manifest.json in an output folder: what made its files, so that a rerun continues only its own work."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tool.errors import UserError
from tool.files import atomic_write, make_folder

MANIFEST = "manifest.json"
_LARGEST = 1 << 20


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def claim_folder(folder: Path, settings: Mapping[str, Any], overwrite: bool) -> None:
    """Make `folder` ready for files made with `settings`, JSON values.

    A folder with the same manifest is continued: leftovers of an interrupted write are removed. One with another manifest, or with
    files but no manifest, is refused, or emptied of its .png and .npy files where `overwrite` is set.

    Raises:
        UserError: it holds another run's files.
    """
    make_folder(folder)
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)
    results = [path for path in folder.iterdir() if path.suffix in (".png", ".npy")]
    found = _read(folder / MANIFEST)
    if found != settings:
        if results and not overwrite:
            raise UserError(
                f"{folder} holds {_difference(found, settings)}; name another folder, or replace them with --overwrite"
            )
        for path in results:
            path.unlink()
    elif overwrite:
        for path in results:
            path.unlink()
    with atomic_write(folder / MANIFEST, "w") as file:
        json.dump(dict(settings), file, indent=2)
        file.write("\n")


def _read(path: Path) -> dict[str, Any] | None:
    try:
        if path.stat().st_size > _LARGEST:
            return {}
        value = json.loads(path.read_text(encoding="utf-8"))
        return value if isinstance(value, dict) else {}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        return {}


def _difference(found: Mapping[str, Any] | None, settings: Mapping[str, Any]) -> str:
    if found is None:
        return f"files that no {MANIFEST} accounts for"
    names: Iterable[str] = (name for name in settings if found.get(name) != settings[name])
    name = next(iter(names), None)
    if name is None:
        return "another run's files"
    return f"files made with {name} {found.get(name)}, this run has {settings[name]}"
