"""edam_manifest.json in an output folder: the settings that made its files, so that a rerun continues its own work only."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tool.cli import UserError, summarize_ids
from tool.files import atomic_write, make_folder, remove_leftovers
from voc12.dataset import MANIFEST, Files

# Either identifies the maps: a dataset may be moved, and older manifests have no digest.
SALIENCY = ("sal_path", "sal_sha256")
REMEDY = "Name another folder, or replace them with --overwrite."


def check_folder(folder: Path, settings: Mapping[str, Any], overwrite: bool, remedy: str = REMEDY) -> list[Path]:
    """Return the .png and .npy files in `folder`, which may be missing. Change nothing.

    UserError: they were made with other settings and `overwrite` is not set, or without a manifest: perhaps the user's own.
    """
    results = [path for path in folder.iterdir() if path.suffix in (".png", ".npy")] if folder.exists() else []
    found = _read(folder)
    if results and found is None:
        raise UserError(f"{folder}: is not empty and has no {MANIFEST}. Name another folder.")
    differing = [name for name, value in settings.items() if (found or {}).get(name) != value]
    if any(settings.get(name) and name not in differing for name in SALIENCY):
        differing = [name for name in differing if name not in SALIENCY]
    if results and differing and not overwrite:
        before, now = (", ".join(f"{n} {values.get(n)}" for n in differing) for values in (found or {}, settings))
        raise UserError(f"{folder}: its files were made with {before}; this run has {now}. {remedy}")
    return results


def claim_folder(folder: Path, settings: Mapping[str, Any], overwrite: bool, remedy: str = REMEDY) -> None:
    """Make `folder` ready for files made with `settings`; with `overwrite`, delete its results. UserError: as `check_folder`."""
    results = check_folder(folder, settings, overwrite, remedy)
    make_folder(folder)
    remove_leftovers(folder)
    for path in results if overwrite else ():
        path.unlink()
    with atomic_write(folder / MANIFEST, "w") as file:
        json.dump(dict(settings), file, indent=2)
        file.write("\n")


def output_of(folder: Path) -> str | None:
    """Return which output a folder holds, such as "out_cam"; None without a manifest."""
    return (_read(folder) or {}).get("output")


def classes_of(folder: Path) -> tuple[str, ...]:
    """Return the class names in the manifest of a folder; empty for VOC 2012's and without a manifest."""
    return tuple((_read(folder) or {}).get("classes", ()))


def check_classes(folder: Path, names: Sequence[str]) -> None:
    """Raise UserError if the files in `folder` were made for other classes than `names`."""
    if (found := classes_of(folder)) and found != tuple(names):
        raise UserError(f"{folder}: made for {summarize_ids(found)}, but the dataset has {summarize_ids(names)}")


def digest(files: Files) -> str:
    """Return the SHA-256 of the first ten files by name, which identifies saliency maps wherever they lie."""
    first = [(files.folder / files.names[image_id][0]).read_bytes() for image_id in sorted(files.names)[:10]]
    return hashlib.sha256(b"".join(first)).hexdigest()


def weights_digest(path: str | Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(folder: Path) -> dict[str, Any] | None:
    """Return the manifest, {} if it is damaged, None if there is none."""
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
