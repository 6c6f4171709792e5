"""edam_manifest.json in an output folder: what made its files, so that a rerun continues only its own work."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tool.cli import UserError, summarize_ids
from tool.files import atomic_write, make_folder, remove_leftovers
from tool.weight_file import open_weights
from voc12.folders import MANIFEST

_LARGEST = 1 << 20
REMEDY = "name another folder, or replace them with --overwrite"


def check_folder(folder: Path, settings: Mapping[str, Any], overwrite: bool, remedy: str = REMEDY) -> list[Path]:
    """The .png and .npy files in `folder`, which may be missing. Changes nothing. `remedy`: against files of another run.

    Raises:
        UserError: they are not this run's: of one of `settings` their manifest has another value, unless `overwrite` is set, or
            there is no manifest: they may be somebody's photos or ground truth. Or the folder cannot be read.
    """
    try:
        results = [path for path in folder.iterdir() if path.suffix in (".png", ".npy")] if folder.exists() else []
        found = _read(folder / MANIFEST)
    except OSError as error:
        raise UserError(f"cannot use {error.filename}: {error.strerror}") from error
    if results and found is None:
        raise UserError(f"{folder} holds files of which no {MANIFEST} says what made them; name another folder")
    differing = [name for name, value in settings.items() if (found or {}).get(name) != value]
    if results and differing and not overwrite:
        raise UserError(f"{folder} holds {_difference(found or {}, settings, differing)}; {remedy}")
    return results


def claim_folder(folder: Path, settings: Mapping[str, Any], overwrite: bool, remedy: str = REMEDY) -> None:
    """Make `folder` ready for files made with `settings`, JSON values.

    A folder whose manifest has the same value of each of them is continued; what a killed run left half written is removed. Where
    `overwrite` is set, its .png and .npy files are removed.

    Raises:
        UserError: as `check_folder`, or it cannot be written to.
    """
    results = check_folder(folder, settings, overwrite, remedy)
    make_folder(folder)
    remove_leftovers(folder)
    try:
        if overwrite:
            for path in results:
                path.unlink()
    except OSError as error:
        raise UserError(f"cannot use {error.filename}: {error.strerror}") from error
    with atomic_write(folder / MANIFEST, "w") as file:
        json.dump(dict(settings), file, indent=2)
        file.write("\n")


def output_of(folder: Path) -> str | None:
    """What a folder holds (of infer_cls.py "out_cam", ...), if its manifest tells."""
    try:
        output = (_read(folder / MANIFEST) or {}).get("output")
    except OSError:
        return None
    return output if isinstance(output, str) else None


def classes_of(folder: Path) -> tuple[str, ...]:
    """The names of the classes that the files in `folder` are of, if its manifest tells: () for VOC 2012's and for files of others."""
    try:
        names = (_read(folder / MANIFEST) or {}).get("classes")
    except OSError:
        return ()
    return tuple(map(str, names)) if isinstance(names, list) else ()


def check_classes(folder: Path, names: Sequence[str]) -> None:
    """UserError where the manifest in `folder` tells that its files are of other classes than a dataset's `names`."""
    found = classes_of(folder)
    if found and found != tuple(names):
        raise UserError(
            f"{folder} was made for the classes {summarize_ids(found)}; the dataset has {summarize_ids(names)}"
        )


def _read(path: Path) -> dict[str, Any] | None:
    """The manifest; an empty one where it is damaged, None where there is none."""
    try:
        if path.stat().st_size > _LARGEST:
            return {}
        value = json.loads(path.read_text(encoding="utf-8"))
        return value if isinstance(value, dict) else {}
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, RecursionError):
        return {}


def _difference(found: Mapping[str, Any], settings: Mapping[str, Any], differing: list[str]) -> str:
    """What was made with other settings, in words."""
    if not found:
        return f"a damaged {MANIFEST}"
    names = [name for name in differing if name in found] or differing
    before = " and ".join(f"{name} {_short(name, found.get(name))}" for name in names)
    return f"files made with {before}, this run has {' and '.join(_short(name, settings[name]) for name in names)}"


def _short(name: str, value: Any) -> str:
    """A setting as text; of a digest the first digits, which tell files apart."""
    return "none" if value is None else str(value)[:12] if name.endswith("sha256") else str(value)[:200]


def weights_digest(path: str | Path) -> str:
    """SHA-256 of a file of weights, in hexadecimal. UserError: as `open_weights`, or it can't be read to its end."""
    file, _ = open_weights(path)
    with file:
        try:
            return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise UserError(f"cannot read weights {path}: {error.strerror}") from error
