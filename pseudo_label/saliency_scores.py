"""Saliency maps against masks: files read, checked and scored; the scores of a set as text and for JSON."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pseudo_label.saliency import f_measures, mean_absolute_error, precision_and_recall
from pseudo_label.scoring import check_size, check_values
from tool.cli import counted
from voc12.folders import LABEL_ENDINGS, SALIENCY_ENDINGS, find_file
from voc12.images import load_grey, load_label
from voc12.salient_masks import from_grey, from_label, load_mask


@dataclass(frozen=True)
class SaliencySource:
    """Where saliency maps and ground truth lie. labels: how many label values the ground truth has; None: it is grey masks."""

    predict_dir: Path
    gt_dir: Path
    labels: int | None

    @property
    def truth_endings(self) -> tuple[str, ...]:
        return SALIENCY_ENDINGS if self.labels is None else LABEL_ENDINGS

    def truth(self, image_id: str) -> np.ndarray:
        """float32 (H, W): above 0.5 where salient, negative where nothing is known. UserError names a bad file."""
        path = find_file(self.gt_dir, image_id, self.truth_endings)
        if self.labels is None:
            return from_grey(load_mask(path))
        label = load_label(path)
        mask = from_label(label, path)
        check_values(path, np.where(mask < 0, 0, label), self.labels)
        return mask


def score_image(image_id: str, source: SaliencySource) -> np.ndarray:
    """Return one image's mean absolute error, precisions and recalls: float64 (1 + 256 + 256,). UserError names a bad file."""
    mask = source.truth(image_id)
    path = find_file(source.predict_dir, image_id, SALIENCY_ENDINGS)
    saliency = load_grey(path)
    check_size(path, saliency, mask)
    saliency, salient = saliency[mask >= 0], mask[mask >= 0] > 0.5
    return np.append(mean_absolute_error(saliency, salient), precision_and_recall(saliency, salient))


def saliency_report(total: np.ndarray, source: SaliencySource, images: int) -> tuple[str, dict]:
    """Return the result as text for people and as a dict for JSON, in 0..1. total: the sum of `score_image` over the images."""
    mean = total / images
    measures = f_measures(mean[1:].reshape(2, 256))
    best = int(measures.argmax())
    result = {"mae": float(mean[0]), "max_f": float(measures[best]), "threshold": best, "images": images}
    lines = [
        f"MAE             {mean[0]:.4f}",
        f"max F-measure   {measures[best]:.4f}   (where {best} and above is salient)",
        f"{counted(images, 'images')} of {source.predict_dir} against {source.gt_dir}",
    ]
    return "\n".join(lines), result
