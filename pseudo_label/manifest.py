"""edam_manifest.json in an output folder: the settings that made its files, so that a rerun continues its own work only."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tool.cli import UserError, summarize_ids
from tool.files import atomic_write, make_folder, remove_leftovers
from voc12.dataset import MANIFEST, Files

OLDER = {"scales": [1.0, 0.5, 1.5, 2.0], "keep_share": 0.0}  # values of settings that older manifests lack


def check_folder(folder: Path, settings: Mapping[str, Any], overwrite: bool | None = None) -> list[Path]:
    """Return the .png and .npy files in `folder`, which may be missing.

    UserError: they have no manifest (perhaps the user's own), or other settings without `overwrite` (None: no such flag).
    """
    results = [path for path in folder.iterdir() if path.suffix in (".png", ".npy")] if folder.exists() else []
    if results and not (folder / MANIFEST).exists():
        raise UserError(f"{folder}: is not empty and has no {MANIFEST}. Name another folder.")
    found = OLDER | read_manifest(folder)
    differing = [name for name, value in settings.items() if found.get(name) != value]
    # The digest identifies saliency maps, also in a folder that was moved; older manifests have none.
    has_digests = found.get("sal_sha256") and settings.get("sal_sha256")
    differing = [name for name in differing if name != ("sal_path" if has_digests else "sal_sha256")]
    if results and differing and not overwrite:
        before, now = (", ".join(f"{name} {values.get(name)}" for name in differing) for values in (found, settings))
        remedy = "" if overwrite is None else ", or replace them with --overwrite"
        problem = f"its files were made with {before}; this run has {now}"
        raise UserError(f"{folder}: {problem}. Name another folder{remedy}.")
    return results


def claim_folder(folder: Path, settings: Mapping[str, Any], overwrite: bool | None = None) -> None:
    """Make `folder` ready for files made with `settings`; with `overwrite`, delete its results. UserError: as `check_folder`."""
    results = check_folder(folder, settings, overwrite)
    make_folder(folder)
    remove_leftovers(folder)
    for path in results if overwrite else ():
        path.unlink()
    with atomic_write(folder / MANIFEST, "w") as file:
        file.write(json.dumps(dict(settings), indent=2) + "\n")


def check_classes(folder: Path, names: Sequence[str]) -> None:
    """Raise UserError if the files in `folder` were made for other classes than `names`."""
    if (found := read_manifest(folder).get("classes")) and found != list(names):
        raise UserError(f"{folder}: made for {summarize_ids(found)}, but the dataset has {summarize_ids(names)}")


def digest(files: Files) -> str:
    """Return the SHA-256 of the first ten files by name, which identifies saliency maps wherever they lie."""
    first = [(files.folder / files.names[image_id][0]).read_bytes() for image_id in files.ids()[:10]]
    return hashlib.sha256(b"".join(first)).hexdigest()


def weights_digest(path: str | Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the settings of the files in `folder`, such as "output"; none without a manifest, or if it is damaged."""
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
