"""A dataset's folder: its classes, photos, image-level labels and masks; and the check of a run's input files."""

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tool.cli import UserError, nearest_path, summarize_ids
from tool.ranks import is_main_process, on_main
from voc12.folders import MANIFEST as MANIFEST
from voc12.folders import Files, deeper_root, label_maps, photos
from voc12.folders import grey_masks as grey_masks
from voc12.folders import saliency_maps as saliency_maps
from voc12.folders import score_files as score_files
from voc12.images import size_of
from voc12.labels import check_label, label_file, read_annotation, read_label_table
from voc12.lists import PREPARE, read_classes, read_pairs
from voc12.lists import read_image_list as read_image_list

ROOT = "folder of the dataset, such as VOC2012: JPEGImages"  # help of --voc12_root


class Dataset:
    """A dataset in the folder layout of VOC 2012.

    Args:
        root: folder with JPEGImages; with classes.txt for other classes than VOC's.
        ignore_foreign: leave objects of other classes out of the labels.
        need_photos: raise UserError if there is no JPEGImages.
    """

    def __init__(self, root: str | Path, ignore_foreign: bool = False, need_photos: bool = True) -> None:
        self.root, self.ignore_foreign = Path(root), ignore_foreign
        if not self.root.is_dir():
            raise UserError(f"--voc12_root {root}: no such folder{nearest_path(root)}")
        if need_photos and not (self.root / "JPEGImages").is_dir():
            raise UserError(f"--voc12_root {root}: holds no JPEGImages. {deeper_root(self.root)}")
        self.classes = read_classes(self.root)
        self.photo_dir = self.root / "JPEGImages"
        self.mask_dir = self.root / "SegmentationClass"
        self._photos = photos(self.photo_dir)
        self._annotations = Files("annotation", self.root / "Annotations", (".xml",))
        self._masks = label_maps(self.mask_dir)

    def photos(self) -> Files:
        """Return the photos in JPEGImages and below."""
        return self._photos

    def photo_path(self, image_id: str) -> Path:
        """Return the path of a photo. UserError if there are two."""
        return self._photos.find(image_id)

    def annotation_path(self, image_id: str) -> Path:
        """Return the path of an image's XML. UserError if there are two."""
        return self._annotations.find(image_id)

    def mask_path(self, image_id: str) -> Path:
        """Return the path of an image's label PNG in SegmentationClass. UserError if there are two."""
        return self._masks.find(image_id)

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

        Args:
            ids: images; duplicates are read once.
            listed_in: list that the ids are from.
            failures: receives (id, message) of each image without a usable label; without it they raise one UserError.
            labels_path: .csv or .npy to read in place of the dataset's own; images that it lacks are read from their XML.
        """
        labels_path = Path(labels_path or label_file(self.root, self.classes, listed_in))
        table = read_label_table(labels_path, self.classes, self.ignore_foreign)
        labels: dict[str, np.ndarray] = {}
        problems = []
        for image_id in dict.fromkeys(ids):
            try:
                labels[image_id] = self._image_label(image_id, table, labels_path)
            except UserError as error:
                problems.append((image_id, str(error)))
        if failures is None:
            report_problems(problems, [*labels, *dict(problems)], None, "labelled")
        else:
            failures += problems
        if verbose and is_main_process():
            counts = Counter(labels_path if image_id in table else self._annotations.folder for image_id in labels)
            origins = (f"{number} from {place}" for place, number in counts.items())
            print("labels:", ", ".join(origins) or "none", flush=True)
        return labels

    def find_labels(self, ids: Iterable[str], listed_in: str | Path = "voc12/train_aug.txt") -> dict[str, np.ndarray]:
        """Return the image-level labels of those ids that have one, to compare label maps with."""
        with contextlib.suppress(UserError):
            return self.image_labels(ids, listed_in, [], verbose=False)
        return {}

    def _image_label(self, image_id: str, table: dict[str, np.ndarray], labels_path: Path) -> np.ndarray:
        """Return the image's label from the table, else from its XML."""
        if image_id in table:
            return check_label(table[image_id], len(self.classes), f"{labels_path}, {image_id}")
        path = self.annotation_path(image_id)
        if not path.is_file():
            lacks = "does not hold it" if labels_path.exists() else "does not exist"
            raise UserError(f"no label for {image_id}: {labels_path} {lacks}, and {path} does not exist. {PREPARE}")
        return read_annotation(path, self.ignore_foreign, self.classes)


def check_inputs(
    ids: Collection[str],
    files: Sequence[Files],
    check: Callable[[str], object] | None = None,
    check_all: Callable[[], object] | None = None,
) -> list[tuple[str, str]]:
    """Return (id, message) of each image with an unusable file: missing, twice, empty, truncated, of another format or size.

    Sizes are those of the upright images, read from their headers: 0.2 ms a file. Only the main process reads; all get its result.

    Args:
        ids: images; duplicates are checked once.
        files: kinds of files that each image needs, all of one size. UserError if the folder of one holds no such file.
        check: further check of an image, which raises UserError.
        check_all: check of all images, after that of each, which raises UserError.
    """

    def find_problems() -> list[tuple[str, str]]:
        if not ids:
            return []
        for one in files:
            one.check()
        unique, find_problem = list(dict.fromkeys(ids)), partial(_problem, files, check)
        with ThreadPoolExecutor(4) as pool:
            messages = tqdm(pool.map(find_problem, unique), "checking", len(unique), unit="photo", disable=None)
            found = [(image_id, text) for image_id, text in zip(unique, messages, strict=True) if text]
        if check_all is not None:
            check_all()
        return found

    return on_main(find_problems)


def _problem(files: Sequence[Files], check: Callable[[str], object] | None, image_id: str) -> str | None:
    """Return a message on the first of the image's files that cannot be used."""
    first = None
    try:
        for one in files:
            path = one.find(image_id)
            if one.formats is None:
                if not path.exists() or (path.is_file() and path.stat().st_size == 0):
                    return f"{path}: {one.what} is missing or empty. Copy or make it again"
                continue
            height, width = size_of(path, one.what, one.formats)
            size = f"{width}x{height}"
            first = first or (one.what, size)
            if size != first[1]:
                return f"{path}: {one.what} is {size} pixels, its {first[0]} {first[1]}. Resize it, label maps by nearest neighbour"
        if check is not None:
            check(image_id)
    except UserError as error:
        return str(error)
    return None


def report_problems(
    problems: Sequence[tuple[str, str]], ids: Sequence[str], skip_errors: bool | None, what: str
) -> list[str]:
    """Return the ids that are left without those of `problems`, (id, message), which are printed to stderr.

    UserError if there are problems and `skip_errors` is not set, or no id is left.

    Args:
        skip_errors: flag of the script; None if it has none.
        what: participle of what cannot be done with them, such as "labelled".
    """
    bad = dict(problems)
    left = [image_id for image_id in ids if image_id not in bad]
    if bad and not (skip_errors and left):
        first = next(iter(bad.values()))
        if len(ids) > 1:
            total = len(bad) + len(left)
            first = f"{len(bad)} of {total} images cannot be {what} ({summarize_ids(list(bad))}), the first: {first}"
        raise UserError(first + (". --skip_errors skips them" if skip_errors is False and left else ""))
    if is_main_process():
        for image_id, message in bad.items():
            print(f"skipped {image_id}: {message}", file=sys.stderr)
    return left
