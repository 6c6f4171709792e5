"""Finding the file of an image in a folder: by its id, whatever the case of the name's ending and whichever of several it is."""

import os
import time
import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from tool.cli import UserError

PHOTO_ENDINGS = (".jpg", ".jpeg", ".png")
SALIENCY_ENDINGS = (
    ".png",
    *(f"{end}{kind}" for end in ("", "_sal_fuse") for kind in (".jpg", ".jpeg")),
    "_sal_fuse.png",
)
"""Saliency maps may have the name that PoolNet gives them, and may be JPEGs of grey pixels."""
LABEL_ENDINGS = (".png",)

MANIFEST = "edam_manifest.json"
"""In folders that scripts write to: what is in them are results, not photos."""
_SETTLED = 2e9  # nanoseconds: a folder that changed a moment ago may change again without a new time
_known: dict[tuple[int, int, tuple[str, ...]], tuple[int, dict[str, list[str]]]] = {}


def files_of(folder: str | Path, endings: tuple[str, ...]) -> Mapping[str, list[str]]:
    """id -> names of its files in `folder`, sorted; hidden files are left out. Empty where there is no such folder.

    A name is an id and one of `endings` (lower case), in any case. The folder is listed again only after it has changed.
    """
    try:
        status = os.stat(folder)
        key = (status.st_dev, status.st_ino, endings)
        changed, found = _known.get(key, (None, {}))
        if changed == status.st_mtime_ns:
            return found
        found = _listed(folder, endings)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise UserError(f"cannot read the folder {folder}: {error.strerror}") from error
    # A time in the future, of another clock: a change sets it back to now, so that it is seen.
    if abs(time.time_ns() - status.st_mtime_ns) > _SETTLED:
        _known[key] = (status.st_mtime_ns, found)
    return found


def find_file(folder: str | Path, image_id: str, endings: tuple[str, ...]) -> Path:
    """Path of the image's file; with the first of `endings` where there is none. UserError where there are two.

    A photo that is not in `folder` itself is looked for in its sub-folders.
    """
    names = files_of(folder, endings).get(_plain(image_id), [])
    if not names and endings == PHOTO_ENDINGS:
        names = _photos_below(folder, _changed(folder)).get(_plain(image_id), [])
    if len(names) > 1:
        raise UserError(f"{folder} holds {' and '.join(names)}: which is {image_id}? Move the others elsewhere")
    return Path(folder) / (names[0] if names else f"{image_id}{endings[0]}")


def photos_below(folder: str | Path) -> Mapping[str, list[str]]:
    """id -> paths, relative to `folder`, of the photos in it and in its sub-folders, links to folders included.

    Hidden folders and those that a script wrote its results to are passed over.
    """
    found: dict[str, list[str]] = {}
    seen = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen or (MANIFEST in files and place != str(folder)):
            folders.clear()  # links may lead in circles
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inner = Path(place).relative_to(folder)
        for image_id, names in files_of(place, PHOTO_ENDINGS).items():
            found.setdefault(image_id, []).extend(str(inner / name) for name in names)
    return found


def _changed(folder: str | Path) -> int:
    """When the folder last changed; 0 where there is none."""
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        return 0


@lru_cache(8)
def _photos_below(folder: str | Path, changed: int) -> Mapping[str, list[str]]:
    """Looked through once for all the photos of a run; again when the folder has changed."""
    return photos_below(folder)


def _listed(folder: str | Path, endings: tuple[str, ...]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in sorted(os.listdir(folder)):
        for ending in endings:
            if name.lower().endswith(ending) and not name.startswith(".") and len(name) > len(ending):
                found.setdefault(_plain(name[: -len(ending)]), []).append(name)
    return found


def _plain(image_id: str) -> str:
    """One spelling of an id: file systems differ in how they write a letter with an accent."""
    return unicodedata.normalize("NFC", image_id)
