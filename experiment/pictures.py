"""The pictures of an experiment: photos with every stage, those that came out best and worst."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiment.chain import Plan
from pseudo_label.fusion import pseudo_label
from pseudo_label.metrics import confusion, segmentation_scores
from pseudo_label.visualise import heat, overlay
from tool import VOID
from tool.files import load_npy_dict
from voc12.classes import CLASSES, LABELS, PALETTE
from voc12.folders import LABEL_ENDINGS, PHOTO_ENDINGS, SALIENCY_ENDINGS, find_file
from voc12.images import load_grey, load_label, load_photo
from voc12.lists import photo_folder, read_image_list
from voc12.masks import OWN


@dataclass(frozen=True)
class Photo:
    """A photo's pictures: caption -> uint8 RGB (H, W, 3). score: mean IoU over the labels of its ground truth, 0..1."""

    image_id: str
    score: float
    pictures: dict[str, np.ndarray]


def best_and_worst(image_ids: Iterable[str], predictions: Path, truths: Path, count: int) -> list[tuple[str, float]]:
    """(id, score) of the `count` photos with the best labels and the `count` with the worst, from the best on."""
    scored = []
    for image_id in image_ids:
        truth = load_label(find_file(truths, image_id, LABEL_ENDINGS))
        predicted = load_label(find_file(predictions, image_id, LABEL_ENDINGS))
        matrix = confusion(truth, predicted, len(LABELS), VOID)
        scored.append((image_id, segmentation_scores(matrix)["mean_iou"]))
    scored.sort(key=lambda one: (-one[1], one[0]))
    return scored if len(scored) <= 2 * count else scored[:count] + scored[-count:]


def labelled_photos(plan: Plan, count: int, theta: float) -> list[Photo]:
    """Photos of the list whose pseudo labels are scored. theta: of the masks."""
    ids = read_image_list(plan.labelled)
    chosen = best_and_worst(ids, plan.label_dir, plan.root / OWN, count)
    return [Photo(image_id, score, stages(plan, image_id, theta)) for image_id, score in chosen]


def segmented_photos(plan: Plan, count: int) -> list[Photo]:
    """Photos that DeepLab-v2 has not seen."""
    folders = {"DeepLab-v2": plan.out / "deeplab", "DeepLab-v2, CRF": plan.out / "deeplab_crf"}
    chosen = best_and_worst(read_image_list(plan.val), plan.out / "deeplab_crf", plan.root / OWN, count)
    photos = []
    for image_id, score in chosen:
        photo = _photo(plan, image_id)
        pictures = {title: _coloured(photo, folder, image_id) for title, folder in folders.items()}
        truth = _coloured(photo, plan.root / OWN, image_id)
        photos.append(Photo(image_id, score, {"photo": photo, **pictures, "ground truth": truth}))
    return photos


def stages(plan: Plan, image_id: str, theta: float) -> dict[str, np.ndarray]:
    """A photo's pictures from the photo to its ground truth: caption -> uint8 RGB (H, W, 3). theta: of the masks."""
    photo = _photo(plan, image_id)
    maps = {int(label): score for label, score in load_npy_dict(plan.out / "cam" / f"{image_id}.npy").items()}
    classes = np.array(sorted(maps), np.int64)
    pictures = {"photo": photo}
    if len(classes):
        stacked = np.stack([maps[label] for label in classes.tolist()])
        strongest = max(maps, key=lambda label: float(maps[label].mean()))
        pictures[f"class map: {CLASSES[strongest]}"] = heat(photo, maps[strongest])
        pictures["masks"] = overlay(photo, pseudo_label(stacked, classes, theta=theta), PALETTE)
    pictures["CRF"] = _coloured(photo, plan.out / "crf", image_id)
    if plan.sal_path:
        grey = load_grey(find_file(plan.sal_path, image_id, SALIENCY_ENDINGS))
        pictures["saliency"] = np.repeat(grey[:, :, None], 3, axis=2)
        pictures["CRF, saliency"] = _coloured(photo, plan.label_dir, image_id)
    return pictures | {"ground truth": _coloured(photo, plan.root / OWN, image_id)}


def _photo(plan: Plan, image_id: str) -> np.ndarray:
    return np.array(load_photo(find_file(photo_folder(plan.root), image_id, PHOTO_ENDINGS)))


def _coloured(photo: np.ndarray, folder: Path, image_id: str) -> np.ndarray:
    label = load_label(find_file(folder, image_id, LABEL_ENDINGS))
    return overlay(photo, np.where(label == VOID, np.uint8(0), label), PALETTE)
