"""edam_manifest.json in an output folder: what made its files, so that a rerun continues only its own work."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tool.errors import UserError
from tool.files import atomic_write, make_folder, remove_leftovers

MANIFEST = "edam_manifest.json"
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

    A folder with the same manifest is continued; what a killed run left half written is removed. One with another manifest is
    refused, or emptied of its .png and .npy files where `overwrite` is set. One with such files and no manifest is refused in any
    case: they may be somebody's photos or ground truth.

    Raises:
        UserError: it holds files that this run did not make, or cannot be written to.
    """
    make_folder(folder)
    remove_leftovers(folder)
    try:
        results = [path for path in folder.iterdir() if path.suffix in (".png", ".npy")]
        found = _read(folder / MANIFEST)
        if results and found is None:
            raise UserError(f"{folder} holds files of which no {MANIFEST} says what made them; name another folder")
        if results and found != settings and not overwrite:
            raise UserError(
                f"{folder} holds {_difference(found, settings)}; name another folder, or replace them with --overwrite"
            )
        if overwrite:
            for path in results:
                path.unlink()
    except OSError as error:
        raise UserError(f"cannot use {error.filename}: {error.strerror}") from error
    with atomic_write(folder / MANIFEST, "w") as file:
        json.dump(dict(settings), file, indent=2)
        file.write("\n")


def _read(path: Path) -> dict[str, Any] | None:
    """The manifest; an empty one where it is damaged, None where there is none."""
    try:
        if path.stat().st_size > _LARGEST:
            return {}
        value = json.loads(path.read_text(encoding="utf-8"))
        return value if isinstance(value, dict) else {}
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError):
        return {}


def _difference(found: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    if not found:
        return f"a damaged {MANIFEST}"
    for name, value in settings.items():
        if found.get(name) != value:
            return f"files made with {name} {str(found.get(name))[:200]}, this run has {value}"
    return "another run's files"
