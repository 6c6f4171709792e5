"""Scores: IoU and others from confusion matrices; mean absolute error and F-measure of saliency maps. Pure, on arrays."""

import numpy as np

BETA_SQUARED = 0.3  # precision counts more than recall (Achanta et al., CVPR 2009)


def confusion(truth: np.ndarray, predicted: np.ndarray, n: int, void: int) -> np.ndarray:
    """Return the pixel counts, int64 (n, n): row = ground truth, column = prediction.

    Both label maps are uint8 of one shape with values 0..n-1, except where the ground truth is `void`, which is left out.
    """
    counted = truth != void
    pairs = truth[counted].astype(np.int64) * n + predicted[counted]
    return np.bincount(pairs, minlength=n * n).reshape(n, n)


def iou(matrix: np.ndarray) -> np.ndarray:
    """Return TP / (T + P - TP) per label, float64 (n,), of a confusion matrix; nan for a label that never occurs."""
    hit = np.diag(matrix).astype(np.float64)
    union = matrix.sum(0) + matrix.sum(1) - hit
    return np.divide(hit, union, out=np.full(len(hit), np.nan), where=union > 0)


def mean_iou(matrix: np.ndarray) -> float:
    """Return the mean IoU over the labels that occur in ground truth or prediction."""
    per_label = iou(matrix)
    return float(per_label[~np.isnan(per_label)].mean()) if np.any(matrix) else float("nan")


def confusion_curve(
    truth: np.ndarray, label: np.ndarray, level: np.ndarray, thresholds: np.ndarray, n: int, void: int
) -> np.ndarray:
    """Return the confusion, int64 (k, n, n), for each of k ascending thresholds.

    The prediction is `label` where `level` is above the threshold and background elsewhere.
    """
    k = len(thresholds)
    counted = truth != void
    passed = np.searchsorted(thresholds, level[counted])
    index = (passed * n + truth[counted]) * n + label[counted]  # one histogram serves all thresholds
    counts = np.bincount(index, minlength=(k + 1) * n * n).reshape(k + 1, n, n)
    kept = counts[::-1].cumsum(axis=0)[::-1][1:]
    kept[:, :, 0] += counts.sum(axis=(0, 2)) - kept.sum(axis=2)
    return kept


def segmentation_scores(matrix: np.ndarray) -> dict[str, float]:
    """Return the four scores that DeepLab's tables give, of a confusion matrix; nan where nothing was counted.

    Means are over the labels of the ground truth: unlike in `mean_iou`, a label that is only predicted is left out.
    """
    truth, hit = matrix.sum(1), np.diag(matrix)
    if not truth.any():
        return dict.fromkeys(("pixel_accuracy", "mean_accuracy", "mean_iou", "frequency_weighted_iou"), float("nan"))
    there = truth > 0
    of_label = iou(matrix)[there]
    return {
        "pixel_accuracy": float(hit.sum() / truth.sum()),
        "mean_accuracy": float((hit[there] / truth[there]).mean()),
        "mean_iou": float(of_label.mean()),
        "frequency_weighted_iou": float((of_label * truth[there]).sum() / truth.sum()),
    }


def mean_absolute_error(saliency: np.ndarray, mask: np.ndarray) -> float:
    """Return the mean of |saliency / 255 - mask|, in 0..1, of a uint8 map and a boolean mask of one shape; 0 without pixels."""
    return float(np.abs(saliency / 255 - mask).sum() / max(1, mask.size))


def precision_and_recall(saliency: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return float64 (2, 256): precision and recall of the pixels whose value is at least t, for t = 0..255.

    `saliency` is uint8, `mask` boolean, of one shape. Precision is 0 if no pixel is that salient, recall if the mask is empty.
    """
    hits, salient = (
        np.bincount(values.ravel(), minlength=256)[::-1].cumsum()[::-1] for values in (saliency[mask], saliency)
    )
    return np.stack([hits / salient.clip(min=1), hits / max(1, int(mask.sum()))])


def f_measures(curve: np.ndarray) -> np.ndarray:
    """Return the F-measure (k,) at each threshold, from (2, k) precisions and recalls, each the mean over a set's photos."""
    precision, recall = curve
    weighted = BETA_SQUARED * precision + recall
    measures = np.zeros_like(weighted)
    np.divide((1 + BETA_SQUARED) * precision * recall, weighted, out=measures, where=weighted > 0)
    return measures
