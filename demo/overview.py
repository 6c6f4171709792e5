"""The picture of a run: photo, class map, the labels of three stages, ground truth."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pseudo_label.fusion import pseudo_label
from pseudo_label.visualise import contact_sheet, heat, overlay
from tool.files import load_npy_dict
from voc12.classes import CLASSES, LABELS, PALETTE, VOID
from voc12.images import load_label, load_photo, save_rgb

HEADINGS = ("photo", "class map", "masks", "+ CRF", "+ saliency", "ground truth")


def stages(folder: Path, image_id: str, theta: float) -> list[np.ndarray]:
    """Label maps of a photo, uint8 (H, W): from its class maps with the background score `theta`, from the CRF, with saliency."""
    maps, crf = (load_npy_dict(folder / name / f"{image_id}.npy") for name in ("cam", "crf"))
    background = crf.pop(0)
    labels = [
        pseudo_label(np.stack(list(scores.values())), np.array(list(maps)), theta=theta, background=other)
        for scores, other in ((maps, None), (crf, background))
    ]
    return [*labels, load_label(folder / "crf_saliency" / f"{image_id}.png")]


def save_overview(path: Path, ids: Sequence[str], folder: Path, theta: float, photos: int = 6) -> None:
    """Write the picture of the first `photos` of `ids` that show several classes and are wider than high.

    folder: with VOC2012/, class maps in cam/, CRF probabilities in crf/ and label PNGs in crf_saliency/.
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
        labels = [*stages(folder, image_id, theta), truth]
        label = sorted(map(int, maps))[len(rows) % len(maps)]
        rows.append([photo, heat(photo, maps[label]), *(overlay(photo, each, PALETTE) for each in labels)])
        captions.append(f"{image_id}, class map: {CLASSES[label]}")
        shown |= {value for each in labels for value in np.unique(each).tolist()}
    key = {LABELS[value]: PALETTE[value] for value in sorted(shown - {0})}
    save_rgb(path, contact_sheet(rows, HEADINGS, captions, key=key, cell=(176, 148)))
