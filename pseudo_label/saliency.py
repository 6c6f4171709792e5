"""Saliency maps and their scores: mean absolute error, and the maximum F-measure. Pure, on arrays."""

import numpy as np
from scipy.special import expit

BETA_SQUARED = 0.3  # precision counts more than recall (Achanta et al., CVPR 2009)


def grey_map(logits: np.ndarray) -> np.ndarray:
    """Return 255 times the sigmoid of float logits (H, W), rounded half to even, uint8."""
    return np.rint(255 * expit(logits.astype(np.float64))).astype(np.uint8)


def mean_absolute_error(saliency: np.ndarray, mask: np.ndarray) -> float:
    """Return the mean of |saliency / 255 - mask| of a uint8 map and a boolean mask of one shape, in 0..1; 0 without pixels."""
    return float(np.abs(saliency / 255 - mask).sum() / max(1, mask.size))


def precision_and_recall(saliency: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return float64 (2, 256): precision and recall of the pixels whose value is at least t, for t = 0..255.

    `saliency` is uint8, `mask` boolean, of one shape. Where no pixel is that salient, or none is in the mask, it is 0.
    """
    hits, salient = (
        np.bincount(values.ravel(), minlength=256)[::-1].cumsum()[::-1] for values in (saliency[mask], saliency)
    )
    return np.stack([hits / salient.clip(min=1), hits / max(1, int(mask.sum()))])


def f_measures(curve: np.ndarray) -> np.ndarray:
    """Return the F-measure (k,) at each threshold of (2, k) precisions and recalls, each the mean over a set's photos."""
    precision, recall = curve
    weighted = BETA_SQUARED * precision + recall
    measures = np.zeros_like(weighted)
    np.divide((1 + BETA_SQUARED) * precision * recall, weighted, out=measures, where=weighted > 0)
    return measures
