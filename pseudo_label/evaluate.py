"""Scores of predictions against ground truth: label maps, class scores fused into label maps, and saliency maps."""

import contextlib
import math
from collections.abc import Iterable, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from pseudo_label import metrics
from pseudo_label.fusion import levels, pseudo_label
from tool import VOID
from tool.cli import UserError
from tool.files import load_npy_dict
from tool.processes import WorkerPool
from voc12.dataset import Files
from voc12.images import check_values, load_grey, load_label, values_in

CHUNK = 8  # images per task of a worker process
TITLES = {
    "miou": "mIoU",
    "deeplab_miou": "DeepLab's mIoU",
    "pixel_accuracy": "pixel accuracy",
    "mean_accuracy": "mean accuracy",
    "frequency_weighted_iou": "freq. w. IoU",
}
CURVE = tuple(round(step / 100, 2) for step in range(100))  # background scores


@dataclass(frozen=True)
class LabelSource:
    """Label PNGs or, with `npy`, class maps or CRF probabilities that become label maps as in `pseudo_label.fusion`.

    names: of the label values, background first. fused: with saliency maps. curve: score every background score of CURVE.
    """

    names: Sequence[str]
    npy: bool = False
    crf: bool = False
    fused: bool = False
    theta: float = 0.5
    alpha: float = 0.0
    beta: float = 1.0
    curve: bool = False

    def score(self, paths: Sequence[Path]) -> tuple[np.ndarray, list[int]]:
        """Return the confusion of one image, int64 (1, n, n) for n labels, (100, n, n) for a curve; and its truth's values.

        `paths`: ground truth, prediction and, if `fused`, saliency map. UserError names a bad file.
        """
        truth, n = load_label(paths[0]), len(self.names)
        values = check_values(paths[0], truth, n)
        if not self.npy:
            predicted = load_label(paths[1])
            # Void predicted on void is allowed, so that ground truth can be scored against itself.
            check_values(paths[1], np.where((truth == VOID) & (predicted == VOID), 0, predicted), n, None)
            return metrics.confusion(truth, predicted, n, VOID)[None], values
        classes, scores, background = read_scores(paths[1], truth.shape, n, self.crf)
        fusion: dict[str, Any] = {"alpha": self.alpha, "beta": self.beta}
        if self.fused:
            fusion["saliency"] = load_grey(paths[2])
        if self.curve:
            label, level = levels(scores, classes, **fusion)
            thresholds = np.array([theta * (100 if self.fused else 1) for theta in CURVE]).astype(level.dtype)
            return metrics.confusion_curve(truth, label, level, thresholds, n, VOID), values
        label = pseudo_label(scores, classes, theta=self.theta, background=background, **fusion)
        return metrics.confusion(truth, label, n, VOID)[None], values

    def report(self, total: np.ndarray, images: int) -> tuple[list[str], dict]:
        """Return the scores in percent as lines and as a dict, None where nothing was counted."""
        means = [metrics.mean_iou(matrix) for matrix in total]
        best = int(np.argmax(means))
        scores = {name: _percent(score) for name, score in metrics.segmentation_scores(total[best]).items()}
        result: dict[str, Any] = {"miou": _percent(means[best]), "deeplab_miou": scores.pop("mean_iou"), **scores}
        ious = zip(self.names, metrics.iou(total[best]).tolist(), strict=True)
        result |= {"iou": {name: _percent(value) for name, value in ious}, "images": images}
        lines = label_table(result, true_labels=int(total[best].any(1).sum()))
        if self.curve:
            points = [{"theta": theta, "miou": _percent(mean)} for theta, mean in zip(CURVE, means, strict=True)]
            curve = [f"theta {theta:.2f}  mIoU {100 * mean:6.2f}" for theta, mean in zip(CURVE, means, strict=True)]
            lines = [*curve, f"best: theta {CURVE[best]:.2f}, mIoU {100 * means[best]:.2f}", *lines]
            result = {"curve": points, **result}
        if self.npy and (not self.crf or self.fused):  # else theta has no effect
            result["theta"] = CURVE[best] if self.curve else self.theta
        return lines, result


@dataclass(frozen=True)
class SaliencySource:
    """Saliency maps. labels: number of label values of the ground truth, label maps; None: it is grey masks."""

    labels: int | None = None

    def score(self, paths: Sequence[Path]) -> tuple[np.ndarray, list[int]]:
        """Return mean absolute error, precisions and recalls of one image, float64 (1 + 256 + 256,); and its truth's values.

        `paths`: ground truth and saliency map. The values of grey masks are 0 for background and 1 for foreground.
        """
        if self.labels is None:
            salient = load_grey(paths[0], "mask") > 127
            known, values = np.ones_like(salient), values_in(salient.astype(np.uint8))
        else:
            truth = load_label(paths[0])
            values = check_values(paths[0], truth, self.labels)
            if VOID in values and set(values) <= {0, VOID}:
                raise UserError(f"{paths[0]}: holds 0 and {VOID} only. Grey masks are read without --voc12_root.")
            salient, known = truth > 0, truth != VOID
        saliency, salient = load_grey(paths[1])[known], salient[known]
        error = metrics.mean_absolute_error(saliency, salient)
        return np.append(error, metrics.precision_and_recall(saliency, salient)), values

    def report(self, total: np.ndarray, images: int) -> tuple[list[str], dict]:
        """Return the scores in 0..1 as lines and as a dict."""
        mean = total / images
        measures = metrics.f_measures(mean[1:].reshape(2, 256))
        best = int(measures.argmax())
        result = {"mae": float(mean[0]), "max_f": float(measures[best]), "threshold": best, "images": images}
        rows = [("MAE", f"{mean[0]:.4f}", "")]
        rows.append(("max F-measure", f"{measures[best]:.4f}", f"where {best} and above is salient"))
        return table(rows), result


Source = LabelSource | SaliencySource
# Sum of the images' scores; id -> values of its ground truth; images with objects that are predicted all background;
# (id, message) of images that cannot be scored.
Scored = tuple[Any, dict[str, list[int]], list[str], list[tuple[str, str]]]


def evaluate(ids: Sequence[str], files: Sequence[Files], source: Source, workers: int) -> Scored:
    """Score all images, whose `files` are those of the source, in `workers` processes."""
    images = [(image_id, [one.find(image_id) for one in files]) for image_id in ids]
    chunks = [images[start : start + CHUNK] for start in range(0, len(images), CHUNK)]
    workers = min(workers, len(chunks))
    try:
        with WorkerPool(workers) if workers > 1 else contextlib.nullcontext() as pool:
            parts = (pool.map if pool else map)(partial(evaluate_chunk, source), chunks)
            return _merge(tqdm(parts, "eval", len(chunks), unit=f"{CHUNK} images", disable=None))
    except BrokenProcessPool as error:
        raise UserError("--num_workers: a process was killed (out of memory?). Lower it and rerun.") from error


def evaluate_chunk(source: Source, images: Sequence[tuple[str, Sequence[Path]]]) -> Scored:
    """Score some images, (id, paths)."""
    return _merge(_evaluate_image(source, image_id, paths) for image_id, paths in images)


def _evaluate_image(source: Source, image_id: str, paths: Sequence[Path]) -> Scored:
    try:
        scores, values = source.score(paths)
    except UserError as error:
        return 0, {}, [], [(image_id, str(error))]
    # For a curve, the first matrix is of the lowest theta, with most foreground.
    is_empty = isinstance(source, LabelSource) and scores[0, 1:].any() and not scores[0, :, 1:].any()
    return scores, {image_id: values}, [image_id] if is_empty else [], []


def _merge(parts: Iterable[Scored]) -> Scored:
    """Return the scores of all images of the parts."""
    total: Any = 0
    values: dict[str, list[int]] = {}
    empty: list[str] = []
    problems: list[tuple[str, str]] = []
    for part in parts:
        total = total + part[0]
        values |= part[1]
        empty += part[2]
        problems += part[3]
    return total, values, empty, problems


def read_scores(
    path: Path, shape: tuple[int, ...], labels: int, crf: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Read a .npy dict of class maps or, with `crf`, CRF probabilities of `labels` labels, background included.

    Return classes (n,), their scores float32 (n, H, W), and the CRF's background (H, W) or None. shape: (H, W).
    """
    scores, expected = load_npy_dict(path), range(labels if crf else labels - 1)
    if unknown := [key for key in scores if key not in expected]:
        hint = "" if crf else " Files of infer_cls.py --out_crf need --crf."
        raise UserError(f"{path}: holds {unknown[0]!r:.40} as a class, where 0..{expected[-1]} was expected.{hint}")
    if crf and 0 not in scores:
        raise UserError(f"{path}: holds no background (0), as the CRF's files do. Read class maps without --crf.")
    for value in scores.values():
        if value.shape != shape:
            raise UserError(f"{path}: is {value.shape} (height, width), the ground truth {shape}")
        low, high = value.min(initial=0), value.max(initial=0)
        if not (low >= -0.01 and high <= 1.01):  # rounding aside
            raise UserError(f"{path}: scores are {low:g} to {high:g}, not 0..1. Divide each map by its largest value.")
    background = scores.pop(0) if crf else None
    classes = sorted(scores)
    stacked = np.array([scores[key] for key in classes], np.float32).reshape(-1, *shape)
    return np.array(classes, np.int64) - crf, stacked, background


def label_table(result: dict[str, Any], true_labels: int) -> list[str]:
    """Return the IoU of each label and the other scores as lines. `true_labels`: number of labels in the ground truth."""
    ious = result["iou"]
    present = sum(value is not None for value in ious.values())
    notes = {"deeplab_miou": f"mean of the {true_labels} labels that occur in the ground truth"}
    if present < len(ious):
        notes["miou"] = f"mean of the {present} labels that occur"
    rows = [(name, "absent" if value is None else f"{value:.2f}", "") for name, value in ious.items()]
    for name, title in TITLES.items():
        if name != "deeplab_miou" or true_labels != present:
            rows.append((title, "nan" if result[name] is None else f"{result[name]:.2f}", notes.get(name, "")))
    return table(rows)


def table(rows: Sequence[tuple[str, str, str]]) -> list[str]:
    """Return a line for each (name, value, note)."""
    return [f"{name:<14}{value:>8}{f'   ({note})' if note else ''}" for name, value, note in rows]


def _percent(share: float) -> float | None:
    return None if math.isnan(share) else 100 * share
