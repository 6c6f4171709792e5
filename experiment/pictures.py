"""Pictures of an experiment: every stage of the photos that came out best and worst."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiment.steps import Plan
from pseudo_label.fusion import pseudo_label
from pseudo_label.metrics import confusion, segmentation_scores
from pseudo_label.visualise import heat, overlay
from tool import VOID
from tool.files import load_npy_dict
from voc12.classes import CLASSES, LABELS, PALETTE
from voc12.dataset import Dataset, read_image_list, saliency_maps
from voc12.images import load_grey, load_label, load_photo

Pictures = dict[str, np.ndarray]  # caption -> uint8 RGB (H, W, 3)


@dataclass(frozen=True)
class Photo:
    """A photo's pictures. classes: those of its ground truth. score: mean IoU over the labels of that, 0..1."""

    image_id: str
    classes: tuple[str, ...]
    score: float
    pictures: Pictures


def labelled_photos(plan: Plan, count: int, theta: float) -> dict[str, list[Photo]]:
    """Return photos whose pseudo labels are scored, the `count` best and worst. theta: background score of the masks."""
    data = Dataset(plan.root)
    return best_and_worst(data, plan.labelled, plan.label_dir, count, lambda i: stages(plan, data, i, theta))


def segmented_photos(plan: Plan, count: int) -> dict[str, list[Photo]]:
    """Return photos that DeepLab-v2 has not seen, the `count` best and worst."""
    data = Dataset(plan.root)

    def pictures(image_id: str) -> Pictures:
        photo = np.array(load_photo(data.photo_path(image_id)))
        return {
            "photo": photo,
            "DeepLab-v2": coloured(photo, plan.out / "deeplab" / f"{image_id}.png"),
            "DeepLab-v2, CRF": coloured(photo, plan.out / "deeplab_crf" / f"{image_id}.png"),
            "ground truth": coloured(photo, data.mask_path(image_id)),
        }

    return best_and_worst(data, plan.val, plan.out / "deeplab_crf", count, pictures)


def best_and_worst(
    data: Dataset, listed: Path, predictions: Path, count: int, pictures: Callable[[str], Pictures]
) -> dict[str, list[Photo]]:
    """Return the `count` photos of a list with the best label PNGs and the `count` with the worst, each from the best on."""
    scored = []
    for image_id in read_image_list(listed):
        truth, predicted = load_label(data.mask_path(image_id)), load_label(predictions / f"{image_id}.png")
        score = segmentation_scores(confusion(truth, predicted, len(LABELS), VOID))["mean_iou"]
        scored.append((-score, image_id, tuple(LABELS[value] for value in np.unique(truth) if value not in (0, VOID))))
    scored.sort()
    best = min(count, (len(scored) + 1) // 2)
    groups = {"best": scored[:best], "worst": scored[best:][-count:]}
    return {
        rank: [Photo(i, classes, -score, pictures(i)) for score, i, classes in group] for rank, group in groups.items()
    }


def stages(plan: Plan, data: Dataset, image_id: str, theta: float) -> Pictures:
    """Return the pictures from a photo to its ground truth."""
    photo = np.array(load_photo(data.photo_path(image_id)))
    maps = {int(label): score for label, score in load_npy_dict(plan.out / "cam" / f"{image_id}.npy").items()}
    classes = np.array(sorted(maps), np.int64)
    pictures = {"photo": photo}
    if len(classes):
        stacked = np.stack([maps[label] for label in classes.tolist()])
        strongest = max(maps, key=lambda label: float(maps[label].mean()))
        pictures[f"class map: {CLASSES[strongest]}"] = heat(photo, maps[strongest])
        pictures["label without CRF"] = overlay(photo, pseudo_label(stacked, classes, theta=theta), PALETTE)
    pictures["CRF"] = coloured(photo, plan.out / "crf" / f"{image_id}.png")
    if plan.sal_path:
        grey = load_grey(saliency_maps(plan.sal_path).find(image_id))
        pictures["saliency"] = np.repeat(grey[:, :, None], 3, axis=2)
        pictures["CRF, saliency"] = coloured(photo, plan.label_dir / f"{image_id}.png")
    return pictures | {"ground truth": coloured(photo, data.mask_path(image_id))}


def coloured(photo: np.ndarray, path: Path) -> np.ndarray:
    """Return a photo under the colours of a label PNG; void stays photo."""
    label = load_label(path)
    return overlay(photo, np.where(label == VOID, np.uint8(0), label), PALETTE)
