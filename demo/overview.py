"""The picture of a run: photo, class map, the labels of three stages, ground truth."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pseudo_label.visualise import contact_sheet, heat, overlay
from tool.files import load_npy_dict
from voc12.classes import CLASSES, LABELS, PALETTE, VOID
from voc12.images import load_label, load_photo, save_rgb

HEADINGS = ("photo", "class map", "masks", "+ CRF", "+ saliency", "ground truth")
STAGES = ("masks", "crf", "crf_saliency")


def save_overview(path: Path, ids: Sequence[str], folder: Path, photos: int = 6) -> None:
    """Write the picture of the first `photos` of `ids` that show several classes and are wider than high.

    folder: with VOC2012/, the class maps in cam/ and the label PNGs of STAGES.
    """
    rows: list[list[np.ndarray]] = []
    captions: list[str] = []
    shown: set[int] = set()
    for image_id in ids:
        photo = np.array(load_photo(folder / "VOC2012" / "JPEGImages" / f"{image_id}.jpg"))
        maps = load_npy_dict(folder / "cam" / f"{image_id}.npy")
        if len(rows) == photos:
            break
        if len(maps) < 2 or photo.shape[0] > photo.shape[1]:
            continue
        truth = load_label(folder / "VOC2012" / "SegmentationClass" / f"{image_id}.png")
        truth[truth == VOID] = 0
        labels = [*(load_label(folder / stage / f"{image_id}.png") for stage in STAGES), truth]
        label = sorted(map(int, maps))[len(rows) % len(maps)]
        rows.append([photo, heat(photo, maps[label]), *(overlay(photo, each, PALETTE) for each in labels)])
        captions.append(f"{image_id}, class map: {CLASSES[label]}")
        shown |= {value for each in labels for value in np.unique(each).tolist()}
    key = {LABELS[value]: PALETTE[value] for value in sorted(shown - {0})}
    save_rgb(path, contact_sheet(rows, HEADINGS, captions, key=key, cell=(176, 148)))
