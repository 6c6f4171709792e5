"""Files of a dataset by their image ids: photos, label maps, saliency maps, class maps."""

import os
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from tool.cli import UserError, nearest_path
from tool.ranks import is_main_process
from voc12.images import GREY_FORMATS, LABEL_FORMATS, OTHER_ENDINGS, PHOTO_ENDINGS, PHOTO_FORMATS
from voc12.lists import check_id, path_id

MANIFEST = "edam_manifest.json"  # in folders of a script's results, which are not searched for photos
_normal = partial(unicodedata.normalize, "NFC")  # file systems differ in how they write letters with accents
SALIENCY_ENDINGS = (".png", ".jpg", ".jpeg", "_sal_fuse.png", "_sal_fuse.jpg", "_sal_fuse.jpeg")  # as PoolNet's


@dataclass(frozen=True)
class Files:
    """Files of one kind in a folder: `<id>` and one of `endings`, upper or lower case.

    Of equal names in several sub-folders the ids are `<folder>_<name>`.
    The folder is read once, at the first question; make a new object after the folder has changed.

    Args:
        what: their name in messages, such as "photo".
        formats: image formats to accept; None for files that are no images.
        nested: search sub-folders, too, except hidden ones and those with a script's results.
    """

    what: str
    folder: Path
    endings: tuple[str, ...]
    formats: tuple[str, ...] | None = None
    nested: bool = False

    @cached_property
    def names(self) -> dict[str, list[str]]:
        """Id -> paths of its files relative to the folder, sorted; empty without the folder."""
        names: dict[str, list[str]] = {}
        for name, paths in self.by_name.items():
            folders = [os.path.dirname(path) for path in paths]
            is_clear = len(set(folders)) == 1 or "" in folders
            for folder, path in zip(folders, paths, strict=True):
                names.setdefault(name if is_clear else path_id(f"{folder}/{name}"), []).append(path)
        return names

    @cached_property
    def by_name(self) -> dict[str, list[str]]:
        """File name without ending -> paths."""
        names: dict[str, list[str]] = {}
        for name in self._walk():
            base = _normal(name.rpartition("/")[2])
            for ending in self.endings:
                image_id = base[: -len(ending)]
                if image_id and not base.startswith(".") and base.lower().endswith(ending):
                    names.setdefault(image_id, []).append(name)
        return names

    def ids(self) -> list[str]:
        """Return the ids of all files, sorted."""
        return sorted(self.names)

    def find(self, image_id: str) -> Path:
        """Return the path of the image's file, or of the one that is missing.

        A file in the folder itself is preferred to those in sub-folders. UserError if there are several.
        """
        names = self.names.get(_normal(image_id)) or self.by_name.get(_normal(image_id))
        names = names or [f"{check_id(image_id, self.what)}{self.endings[0]}"]
        names = [name for name in names if "/" not in name] or names
        if len(names) > 1:
            raise UserError(f"{self.folder}: holds {' and '.join(names)} for {image_id}. Move all but one elsewhere")
        return self.folder / names[0]

    def check(self) -> None:
        """Raise UserError if the folder holds no such file."""
        hint = deeper_root(self.folder, f"Name the folder of the {self.what}s")
        if not self.folder.is_dir():
            raise UserError(f"{self.folder}: no such folder{nearest_path(self.folder)}. {hint}")
        if not self.names:
            others = Counter(path.suffix for path in self.folder.iterdir() if path.suffix).most_common(1)
            held = f", but {others[0][1]} of {others[0][0]}" if others else ""
            raise UserError(f"{self.folder}: holds no {self.what} (<id>{', <id>'.join(self.endings)}){held}. {hint}")

    def warn_of_others(self) -> None:
        """Print how many images of formats that are not read the folder holds, by ending."""
        endings = Counter(os.path.splitext(name)[1].lower() for name in self._walk())
        others = [f"{endings[ending]} {ending}" for ending in OTHER_ENDINGS if endings[ending]]
        if others and is_main_process():
            print(f"note: {self.folder}: {', '.join(others)} not read. Convert them to JPEG or PNG.", file=sys.stderr)

    def _walk(self) -> Iterator[str]:
        """Yield the files' paths relative to the folder, those in the folder itself first."""
        seen = set()
        for place, folders, files in os.walk(self.folder, followlinks=True):
            real = os.path.realpath(place)
            inner = Path(place).relative_to(self.folder)
            if real in seen or (MANIFEST in files and inner.name):
                folders.clear()  # links may lead in circles
                continue
            seen.add(real)
            folders[:] = sorted(name for name in folders if not name.startswith(".")) if self.nested else []
            yield from sorted((inner / name).as_posix() for name in files)


def photos(folder: str | Path) -> Files:
    """Return the photos in `folder` and below, such as JPEGImages."""
    return Files("photo", Path(folder), PHOTO_ENDINGS, PHOTO_FORMATS, nested=True)


def saliency_maps(folder: str | Path) -> Files:
    """Return the saliency maps in `folder`: grey images."""
    return grey_masks(folder, "saliency map")


def grey_masks(folder: str | Path, what: str = "mask") -> Files:
    """Return the grey masks of salient objects in `folder`."""
    return Files(what, Path(folder), SALIENCY_ENDINGS, GREY_FORMATS)


def label_maps(folder: str | Path, what: str = "label map") -> Files:
    """Return the label PNGs in `folder`."""
    return Files(what, Path(folder), (".png",), LABEL_FORMATS)


def score_files(folder: str | Path) -> Files:
    """Return the .npy files of class maps or CRF probabilities in `folder`."""
    return Files("score file", Path(folder), (".npy",))


def deeper_root(root: Path, otherwise: str = "Give the folder VOC2012 of the devkit") -> str:
    """Return a question that names VOC2012 below `root` if it is there, or `otherwise`."""
    deeper = next((path for path in (root / "VOC2012", root / "VOCdevkit/VOC2012") if path.is_dir()), None)
    return f"Did you mean {deeper}?" if deeper else otherwise
