"""A dataset's folder: its classes, photos, image-level labels and masks; and the check of a run's input files."""

import contextlib
import os
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tool.cli import UserError, nearest_path, summarize_ids
from tool.processes import is_main_process, on_main
from voc12.classes import VOC
from voc12.images import GREY_FORMATS, LABEL_FORMATS, OTHER_ENDINGS, PHOTO_ENDINGS, PHOTO_FORMATS, size_of
from voc12.labels import CSV_FILE, LABELS_FILE, check_label, read_annotation, read_label_table
from voc12.lists import PREPARE, check_id, read_classes, read_pairs
from voc12.lists import read_image_list as read_image_list

ROOT = "folder of the dataset, such as VOC2012; it holds JPEGImages"  # help of --voc12_root
MANIFEST = "edam_manifest.json"  # in folders of a script's results, which are not searched for photos
SALIENCY_ENDINGS = (".png", ".jpg", ".jpeg", "_sal_fuse.png", "_sal_fuse.jpg", "_sal_fuse.jpeg")  # as PoolNet's
_normal = partial(unicodedata.normalize, "NFC")  # file systems differ in how they write letters with accents


@dataclass(frozen=True)
class Files:
    """Files of one kind in a folder: `<id>` and one of `endings`, upper or lower case.

    If several sub-folders hold the same file name, the ids are `<folder>_<name>`.
    The folder is read once, at first use; make a new object after the folder has changed.
    """

    what: str  # their name in messages, such as "photo"
    folder: Path
    endings: tuple[str, ...]
    formats: tuple[str, ...] | None = None  # of images; None for other files
    nested: bool = False  # search sub-folders, too, except hidden ones and those with a script's results

    @cached_property
    def names(self) -> dict[str, list[str]]:
        """Id -> paths of its files relative to the folder, sorted; empty without the folder."""
        names: dict[str, list[str]] = {}
        for name, paths in self.by_name.items():
            is_clear = len({os.path.dirname(path) for path in paths}) == 1
            for path in paths:
                whole = _normal(os.path.join(os.path.dirname(path), name)).replace("/", "_")
                names.setdefault(name if is_clear else whole, []).append(path)
        return names

    @cached_property
    def by_name(self) -> dict[str, list[str]]:
        """File name without ending -> paths."""
        names: dict[str, list[str]] = {}
        for path in self._paths:
            base = _normal(os.path.basename(path))
            for ending in self.endings:
                if base.lower().endswith(ending):
                    names.setdefault(base[: -len(ending)], []).append(path)
        return names

    @cached_property
    def _paths(self) -> list[str]:
        """All files but hidden ones, relative to the folder, those in the folder itself first."""
        paths, seen = [], set()
        for place, folders, files in os.walk(self.folder, followlinks=True):
            inner, real = Path(place).relative_to(self.folder), os.path.realpath(place)
            if real in seen or (MANIFEST in files and inner.name):  # links may lead in circles
                folders.clear()
                continue
            seen.add(real)
            folders[:] = sorted(name for name in folders if not name.startswith(".")) if self.nested else []
            paths += sorted((inner / name).as_posix() for name in files if not name.startswith("."))
        return paths

    def ids(self) -> list[str]:
        """Return the ids of all files, sorted."""
        return sorted(self.names)

    def find(self, image_id: str) -> Path:
        """Return the path of the image's file, or where it should be. UserError if there are several."""
        names = self.names.get(_normal(image_id)) or self.by_name.get(_normal(image_id))
        names = names or [f"{check_id(image_id, self.what)}{self.endings[0]}"]
        if len(names) > 1:
            raise UserError(f"{self.folder}: holds {' and '.join(names)} for {image_id}. Move all but one elsewhere")
        return self.folder / names[0]

    def check(self) -> None:
        """Raise UserError if the folder holds no such file."""
        if not self.names:
            problem = f"holds no {self.what} (<id>{', <id>'.join(self.endings)})"
            if not self.folder.is_dir():
                problem = f"no such folder{nearest_path(self.folder)}"
            raise UserError(f"{self.folder}: {problem}. Name the folder of the {self.what}s")

    def warn_of_others(self) -> None:
        """Print the number of images in unsupported formats in the folder, by ending."""
        endings = Counter(os.path.splitext(path)[1].lower() for path in self._paths)
        others = [f"{endings[ending]} {ending}" for ending in OTHER_ENDINGS if endings[ending]]
        if others and is_main_process():
            print(f"note: {self.folder}: {', '.join(others)} not read. Convert them to JPEG or PNG.", file=sys.stderr)


def photos(folder: str | Path) -> Files:
    """Return the photos in `folder` and below, such as JPEGImages."""
    return Files("photo", Path(folder), PHOTO_ENDINGS, PHOTO_FORMATS, nested=True)


def saliency_maps(folder: str | Path, what: str = "saliency map") -> Files:
    """Return the saliency maps, or grey masks of salient objects, in `folder`."""
    return Files(what, Path(folder), SALIENCY_ENDINGS, GREY_FORMATS)


def label_maps(folder: str | Path, what: str = "label map") -> Files:
    """Return the label PNGs in `folder`."""
    return Files(what, Path(folder), (".png",), LABEL_FORMATS)


class Dataset:
    """A dataset in the folder layout of VOC 2012: its classes, and its `photos`, `annotations` and `masks` by id.

    ignore_foreign: leave objects of other classes out of the labels.
    """

    def __init__(self, root: str | Path, ignore_foreign: bool = False, need_photos: bool = True) -> None:
        self.root, self.ignore_foreign = Path(root), ignore_foreign
        if not self.root.is_dir():
            raise UserError(f"--voc12_root {root}: no such folder{nearest_path(root)}")
        if need_photos and not (self.root / "JPEGImages").is_dir():
            deeper = [path for path in (self.root / "VOC2012", self.root / "VOCdevkit/VOC2012") if path.is_dir()]
            remedy = f"Did you mean {deeper[0]}?" if deeper else "Give the folder VOC2012 of the devkit"
            raise UserError(f"--voc12_root {root}: holds no JPEGImages. {remedy}")
        self.classes = read_classes(self.root)
        self.photos = photos(self.root / "JPEGImages")
        self.annotations = Files("annotation", self.root / "Annotations", (".xml",))
        self.masks = label_maps(self.root / "SegmentationClass")

    def read_pairs(self, path: str | Path) -> list[tuple[str, str, int]]:
        """Return the training pairs (id, id, class) of a pair list."""
        return read_pairs(path, self.classes)

    def image_labels(
        self,
        ids: Iterable[str],
        listed_in: str | Path,
        failures: list[tuple[str, str]] | None = None,
        labels_path: str | Path | None = None,
        verbose: bool = True,
    ) -> dict[str, np.ndarray]:
        """Return the multi-hot label (C,) float32 of each id, and, if `verbose`, print how many came from where.

        They are read from labels.csv, else cls_labels.npy (VOC's: next to the list, else in voc12/), and images missing
        there from their XML.

        listed_in: list that the ids are from.
        failures: receives (id, message) of each image without a usable label; without it they raise one UserError.
        labels_path: .csv or .npy to read in place of the dataset's own.
        """
        folders = (Path(listed_in).parent, Path("voc12")) if self.classes == VOC else (self.root,)
        paths = [self.root / CSV_FILE, *(folder / LABELS_FILE for folder in folders)]
        labels_path = Path(labels_path or next(filter(Path.exists, paths), paths[-1]))
        table = read_label_table(labels_path, self.classes, self.ignore_foreign, self.photos.names)
        labels: dict[str, np.ndarray] = {}
        problems = [] if failures is None else failures
        for image_id in dict.fromkeys(ids):
            try:
                if image_id in table:
                    labels[image_id] = check_label(table[image_id], len(self.classes), f"{labels_path}, {image_id}")
                elif (path := self.annotations.find(image_id)).is_file():
                    labels[image_id] = read_annotation(path, self.ignore_foreign, self.classes)
                else:
                    raise UserError(f"no label for {image_id}: neither in {labels_path} nor in {path}. {PREPARE}")
            except UserError as error:
                problems.append((image_id, str(error)))
        if failures is None:
            report_problems(problems, [*labels, *dict(problems)], None, "labelled")
        if verbose and labels and is_main_process():
            places = Counter(labels_path if image_id in table else self.annotations.folder for image_id in labels)
            print("labels:", ", ".join(f"{number} from {place}" for place, number in places.items()), flush=True)
        return labels

    def find_labels(self, ids: Iterable[str], listed_in: str | Path = "voc12/train_aug.txt") -> dict[str, np.ndarray]:
        """Return the image-level labels of those ids that have one, to compare label maps with."""
        with contextlib.suppress(UserError):
            return self.image_labels(ids, listed_in, [], verbose=False)
        return {}


def check_inputs(
    ids: Collection[str], files: Sequence[Files], check: Callable[[str], object] | None = None
) -> list[tuple[str, str]]:
    """Return (id, message) of each image with an unusable file: missing, twice, empty, truncated, of another format or size.

    The main process reads them for all. UserError: the folder of one kind of `files` holds none.
    check: further check of an image, which raises UserError.
    """

    def find_problem(image_id: str) -> str | None:
        first = None
        try:
            for one in files:
                path = one.find(image_id)
                if one.formats is None:
                    if not path.is_file() or not path.stat().st_size:
                        raise UserError(f"{path}: {one.what} is missing or empty. Copy or make it again")
                    continue
                height, width = size_of(path, one.what, one.formats)
                first = first or (one.what, height, width)
                if (height, width) != first[1:]:
                    sizes = f"{one.what} is {width}x{height} pixels, its {first[0]} {first[2]}x{first[1]}"
                    raise UserError(f"{path}: {sizes}. Resize it, label maps by nearest neighbour")
            if check is not None:
                check(image_id)
        except UserError as error:
            return str(error)
        return None

    def find_problems() -> list[tuple[str, str]]:
        if not ids:
            return []
        for one in files:
            one.check()
        unique = list(dict.fromkeys(ids))
        with ThreadPoolExecutor(4) as pool:
            messages = tqdm(pool.map(find_problem, unique), "checking", len(unique), unit="photo", disable=None)
            return [(image_id, text) for image_id, text in zip(unique, messages, strict=True) if text]

    return on_main(find_problems)


def report_problems(
    problems: Sequence[tuple[str, str]], ids: Sequence[str], skip_errors: bool | None, what: str
) -> list[str]:
    """Return the ids that are left without those of `problems`, (id, message), which are printed to stderr.

    UserError if there are problems and `skip_errors` is not set, or no id is left.

    skip_errors: flag of the script, None if it has none. what: participle of what cannot be done, such as "labelled".
    """
    bad = dict(problems)
    left = [image_id for image_id in ids if image_id not in bad]
    if bad and not (skip_errors and left):
        problem = next(iter(bad.values())).rstrip(".")
        if len(ids) > 1:
            number = f"{len(bad)} of {len(set(ids))} images cannot be {what} ({summarize_ids(list(bad))})"
            problem = f"{number}, the first: {problem}"
        raise UserError(f"{problem}. --skip_errors skips them." if skip_errors is False and left else problem)
    if is_main_process():
        for image_id, message in bad.items():
            print(f"skipped {image_id}: {message}", file=sys.stderr)
    return left
