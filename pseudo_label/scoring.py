"""One image's prediction against its ground truth: files read, checked, fused into a label map, counted; the counts as a table."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pseudo_label.fusion import levels, pseudo_label
from pseudo_label.metrics import confusion, confusion_curve, iou, mean_iou, out_of_range, segmentation_scores
from tool.cli import UserError, counted
from tool.files import load_npy_dict
from voc12.folders import LABEL_ENDINGS, SALIENCY_ENDINGS, find_file
from voc12.images import load_grey, load_label
from voc12.palette import explain

CURVE = tuple(round(step / 100, 2) for step in range(100))  # background scores


@dataclass(frozen=True)
class Source:
    """Where predictions and ground truth lie, and how predictions become label maps.

    names: of the label values, background first. void: the value of ground-truth pixels that do not count.
    """

    predict_dir: Path
    gt_dir: Path
    npy: bool
    crf: bool
    sal_path: Path | None
    theta: float
    alpha: float
    beta: float
    curve: bool
    names: tuple[str, ...]
    void: int

    @property
    def uses_theta(self) -> bool:
        """Whether a background score decides, rather than a label PNG or the CRF's own background."""
        return self.npy and (not self.crf or self.sal_path is not None)


def evaluate_image(image_id: str, source: Source) -> np.ndarray:
    """Return one image's confusion, int64 (1, n, n) for n labels, or (100, n, n) for a curve. UserError names a bad file."""
    n, void = len(source.names), source.void
    truth_path = find_file(source.gt_dir, image_id, LABEL_ENDINGS)
    truth = load_label(truth_path)
    check_values(truth_path, np.where(truth == void, 0, truth), n)
    if not source.npy:
        path = find_file(source.predict_dir, image_id, LABEL_ENDINGS)
        predicted = load_label(path)
        check_size(path, predicted, truth)
        # Void predicted where the truth is void too is no error: it lets ground truth be scored against itself.
        check_values(path, np.where((truth == void) & (predicted == void), 0, predicted), n)
        return confusion(truth, predicted, n, void)[None]

    path = find_file(source.predict_dir, image_id, (".npy",))
    classes, scores, background = read_scores(path, truth, n, source.crf)
    fusion: dict[str, Any] = {"alpha": source.alpha, "beta": source.beta}
    if source.sal_path is not None:
        sal_path = find_file(source.sal_path, image_id, SALIENCY_ENDINGS)
        fusion["saliency"] = load_grey(sal_path)
        check_size(sal_path, fusion["saliency"], truth)
    if source.curve:
        label, level = levels(scores, classes, **fusion)
        unit = 1 if source.sal_path is None else 100
        thresholds = np.array([theta * unit for theta in CURVE]).astype(level.dtype)
        return confusion_curve(truth, label, level, thresholds, n, void)
    label = pseudo_label(scores, classes, theta=source.theta, background=background, **fusion)
    return confusion(truth, label, n, void)[None]


def read_scores(
    path: Path, truth: np.ndarray, labels: int, crf: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return (classes (n,), their scores float32 (n, H, W), background (H, W) of a CRF or None) of a .npy dict.

    labels: how many there are, background included.
    """
    count = labels if crf else labels - 1
    scores = load_npy_dict(path)
    for key, value in scores.items():
        if not isinstance(key, int) or not 0 <= key < count:
            hint = "" if crf else "; --crf reads what infer_cls.py --out_crf writes"
            raise UserError(f"{path} holds {key!r:.40} as a class, where 0..{count - 1} was expected{hint}")
        check_size(path, value, truth)
        if not np.isfinite(value).all():
            raise UserError(f"{path} holds values that are not finite for class {key}")
        low, high = value.min(initial=0), value.max(initial=0)
        if low < -0.01 or high > 1.01:  # rounding aside
            raise UserError(
                f"{path} holds scores from {low:g} to {high:g}, where 0..1 was expected: divide each map by its largest value"
            )
    if crf and 0 not in scores:
        raise UserError(f"{path} holds no background (0), as the CRF's files do; read class maps without --crf")
    background = scores.pop(0) if crf else None
    classes = np.array(sorted(scores), np.int64)
    stacked = [scores[key].astype(np.float32) for key in classes.tolist()]
    return classes - crf, np.stack(stacked) if stacked else np.zeros((0, *truth.shape), np.float32), background


def check_size(path: Path, array: np.ndarray, truth: np.ndarray) -> None:
    if array.shape != truth.shape:
        found, expected = ("x".join(map(str, shape)) for shape in (array.shape, truth.shape))
        raise UserError(f"{path} is {found}, but the ground truth is {expected} (height x width)")


def check_values(path: Path, label: np.ndarray, n: int) -> None:
    if values := out_of_range(label, n):
        raise UserError(f"{path} holds the value {values[0]}, where 0..{n - 1} was expected{explain(label, n)}")


def table(matrix: np.ndarray, names: Sequence[str]) -> list[str]:
    """Return the IoU of each label, their mean and the other scores of a confusion matrix in percent, as lines of text."""
    per_label, scores = iou(matrix), segmentation_scores(matrix)
    present, true = int(np.isfinite(per_label).sum()), int(matrix.any(1).sum())
    lines = [
        f"{name:<14}{'absent' if math.isnan(value) else f'{100 * value:.2f}':>8}"
        for name, value in zip(names, per_label, strict=True)
    ]
    note = "" if present == len(names) else f"   (mean of the {present} labels that occur)"
    lines.append(f"{'mIoU':<14}{100 * mean_iou(matrix):>8.2f}{note}")
    if true != present:
        mean = f"{100 * scores['mean_iou']:>8.2f}"
        lines.append(f"DeepLab's mIoU{mean}   (mean of the {true} labels that occur in the ground truth)")
    rest = {
        "pixel accuracy": "pixel_accuracy",
        "mean accuracy": "mean_accuracy",
        "freq. w. IoU": "frequency_weighted_iou",
    }
    return [*lines, *(f"{title:<14}{100 * scores[name]:>8.2f}" for title, name in rest.items())]


def report(total: np.ndarray, source: Source, images: int) -> tuple[str, dict]:
    """Return the result as text for people and as a dict for JSON, in percent, None where nothing was counted.

    total: summed confusion, int64 (1, n, n), or (100, n, n) of a curve. images: how many it counts.
    """
    lines: list[str] = []
    result: dict[str, Any] = {}
    best = 0
    if source.curve:
        means = [mean_iou(matrix) for matrix in total]
        best = int(np.argmax(means))
        lines += [f"theta {theta:.2f}  mIoU {100 * mean:6.2f}" for theta, mean in zip(CURVE, means, strict=True)]
        lines.append(f"best: theta {CURVE[best]:.2f}, mIoU {100 * means[best]:.2f}")
        result["curve"] = [{"theta": theta, "miou": _percent(mean)} for theta, mean in zip(CURVE, means, strict=True)]
    matrix = total[best]
    lines += [
        *table(matrix, source.names),
        f"{counted(images, 'images')} of {source.predict_dir} against {source.gt_dir}",
    ]
    scores = {name: _percent(score) for name, score in segmentation_scores(matrix).items()}
    result |= {
        "miou": _percent(mean_iou(matrix)),
        "deeplab_miou": scores.pop("mean_iou"),
        **scores,
        "iou": {name: _percent(value) for name, value in zip(source.names, iou(matrix).tolist(), strict=True)},
        "images": images,
    }
    if source.uses_theta:
        result["theta"] = CURVE[best] if source.curve else source.theta
    return "\n".join(lines), result


def _percent(share: float) -> float | None:
    return None if math.isnan(share) else 100 * share
