"""Scores of predictions against ground truth: label maps, class scores fused into label maps, and saliency maps."""

import argparse
import contextlib
import math
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
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
Score = Callable[[Sequence[Path]], tuple[np.ndarray, list[int]]]
Scored = tuple[Any, dict[str, list[int]], int, list[tuple[str, str]]]  # as `evaluate` returns it


def score_labels(names: Sequence[str], args: argparse.Namespace, paths: Sequence[Path]) -> tuple[np.ndarray, list[int]]:
    """Return the confusion of one image, int64 (1, n, n) for n labels, (100, n, n) for a curve; and its truth's values.

    names: of the labels, background first. args: flags of eval.py, which say what the prediction is. paths: ground truth,
    prediction, and with --sal_path saliency map.
    """
    truth, n = load_label(paths[0]), len(names)
    values = check_values(paths[0], truth, n)
    if args.type == "png":
        predicted = load_label(paths[1])
        if len(values_in(predicted)) > n + 1:
            raise UserError(f"{paths[1]}: holds more values than there are labels. Give --saliency for such maps.")
        # Void predicted on void is allowed, so that ground truth can be scored against itself.
        check_values(paths[1], np.where((truth == VOID) & (predicted == VOID), 0, predicted), n, None)
        return metrics.confusion(truth, predicted, n, VOID)[None], values
    classes, scores, background = read_scores(paths[1], truth.shape, n, args.crf)
    fusion: dict[str, Any] = {"alpha": args.alpha, "beta": args.beta}
    if args.sal_path:
        fusion["saliency"] = load_grey(paths[2])
    if args.curve:
        label, level = levels(scores, classes, **fusion)
        thresholds = np.array([theta * (100 if args.sal_path else 1) for theta in CURVE]).astype(level.dtype)
        return metrics.confusion_curve(truth, label, level, thresholds, n, VOID), values
    label = pseudo_label(scores, classes, theta=args.theta, background=background, **fusion)
    return metrics.confusion(truth, label, n, VOID)[None], values


def report_labels(
    names: Sequence[str], args: argparse.Namespace, total: np.ndarray, images: int
) -> tuple[list[str], dict]:
    """Return the scores of a sum of confusions in percent, as lines and as a dict, None where nothing was counted."""
    means = [metrics.mean_iou(matrix) for matrix in total]
    best = int(np.argmax(means))
    ious = dict(zip(names, metrics.iou(total[best]).tolist(), strict=True))
    scores = {"miou": means[best], "deeplab_miou": math.nan, **metrics.segmentation_scores(total[best])}
    scores["deeplab_miou"] = scores.pop("mean_iou")
    result: dict[str, Any] = {name: _percent(score) for name, score in scores.items()}
    result |= {"iou": {name: _percent(value) for name, value in ious.items()}, "images": images}

    occurring, true = np.isfinite([*ious.values()]).sum(), total[best].any(1).sum()  # numbers of labels
    notes = {"deeplab_miou": f"mean of the {true} labels that occur in the ground truth"}
    notes |= {"miou": f"mean of the {occurring} labels that occur"} if occurring < len(ious) else {}
    rows = [(name, "absent" if math.isnan(value) else f"{100 * value:.2f}", "") for name, value in ious.items()]
    for name, title in TITLES.items():
        if name != "deeplab_miou" or true != occurring:
            rows.append((title, f"{100 * scores[name]:.2f}", notes.get(name, "")))
    lines = table(rows)
    if args.curve:
        points = [{"theta": theta, "miou": _percent(mean)} for theta, mean in zip(CURVE, means, strict=True)]
        curve = [f"theta {theta:.2f}  mIoU {100 * mean:6.2f}" for theta, mean in zip(CURVE, means, strict=True)]
        lines = [*curve, f"best: theta {CURVE[best]:.2f}, mIoU {100 * means[best]:.2f}", *lines]
        result = {"curve": points, **result}
    if args.type == "npy" and (not args.crf or args.sal_path):  # else theta has no effect
        result["theta"] = CURVE[best] if args.curve else args.theta
    return lines, result


def score_saliency(labels: int | None, paths: Sequence[Path]) -> tuple[np.ndarray, list[int]]:
    """Return mean absolute error, precisions and recalls of one image, float64 (1 + 256 + 256,); and its truth's values.

    labels: number of labels if the ground truth is label maps; None for grey masks, whose values are returned as 0 and 1.
    paths: ground truth and saliency map.
    """
    if labels is None:
        salient = load_grey(paths[0], "mask") > 127
        known, values = np.ones_like(salient), values_in(salient.astype(np.uint8))
    else:
        truth = load_label(paths[0])
        values = check_values(paths[0], truth, labels)
        if VOID in values and set(values) <= {0, VOID}:
            raise UserError(f"{paths[0]}: holds 0 and {VOID} only. Grey masks are read without --voc12_root.")
        salient, known = truth > 0, truth != VOID
    saliency, salient = load_grey(paths[1])[known], salient[known]
    error = metrics.mean_absolute_error(saliency, salient)
    return np.append(error, metrics.precision_and_recall(saliency, salient)), values


def report_saliency(total: np.ndarray, images: int) -> tuple[list[str], dict]:
    """Return the scores of a sum over images in 0..1, as lines and as a dict."""
    mean = total / images
    measures = metrics.f_measures(mean[1:].reshape(2, 256))
    best = int(measures.argmax())
    result = {"mae": float(mean[0]), "max_f": float(measures[best]), "threshold": best, "images": images}
    note = f"where {best} and above is salient"
    return table([("MAE", f"{mean[0]:.4f}", ""), ("max F-measure", f"{measures[best]:.4f}", note)]), result


def evaluate(ids: Sequence[str], files: Sequence[Files], score: Score, workers: int) -> Scored:
    """Score all images, each by the paths of its `files`, in `workers` processes.

    Return the sum of their scores; id -> values of the ground truth; the number of images with objects that are predicted all
    background; (id, message) of images that cannot be scored.
    """
    images = [(image_id, [one.find(image_id) for one in files]) for image_id in ids]
    chunks = [images[start : start + CHUNK] for start in range(0, len(images), CHUNK)]
    workers = min(workers, len(chunks))
    total: Any = 0
    values, empty, problems = {}, 0, []
    try:
        with WorkerPool(workers) if workers > 1 else contextlib.nullcontext() as pool:
            parts = (pool.map if pool else map)(partial(_score_chunk, score), chunks)
            for part in tqdm(parts, "eval", len(chunks), unit=f"{CHUNK} images", disable=None):
                total = total + part[0]
                values.update(part[1])
                empty += part[2]
                problems.extend(part[3])
    except BrokenProcessPool as error:
        raise UserError("--num_workers: a process was killed (out of memory?). Lower it and rerun.") from error
    return total, values, empty, problems


def _score_chunk(score: Score, images: Sequence[tuple[str, Sequence[Path]]]) -> Scored:
    total: Any = 0
    values, empty, problems = {}, 0, []
    for image_id, paths in images:
        try:
            scores, values[image_id] = score(paths)
        except UserError as error:
            problems.append((image_id, str(error)))
            continue
        total = total + scores
        # For a curve, the first matrix is of the lowest theta, with most foreground.
        empty += scores.ndim == 3 and bool(scores[0, 1:].any() and not scores[0, :, 1:].any())
    return total, values, empty, problems


def read_scores(
    path: Path, shape: tuple[int, ...], labels: int, crf: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return classes (n,), their scores float32 (n, H, W), and the CRF's background (H, W) or None, of a .npy dict.

    It holds class maps or, with `crf`, probabilities of `labels` labels, background included. shape: (H, W).
    """
    scores, expected = load_npy_dict(path), set(range(labels if crf else labels - 1))
    if not scores.keys() <= expected or (crf and 0 not in scores):
        hint = "Files of --out_crf hold the background, 0, and need --crf; class maps do not."
        raise UserError(f"{path}: holds {[*scores]!s:.60}, where 0..{max(expected)} was expected. {hint}")
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


def table(rows: Sequence[tuple[str, str, str]]) -> list[str]:
    """Return a line for each (name, value, note)."""
    return [f"{name:<14}{value:>8}{f'   ({note})' if note else ''}" for name, value, note in rows]


def _percent(share: float) -> float | None:
    return None if math.isnan(share) else 100 * share
