"""Scores of predictions against ground truth: label maps, class scores fused into label maps, and saliency maps."""

import contextlib
import math
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from pseudo_label import metrics
from pseudo_label.fusion import levels, pseudo_label
from tool import VOID
from tool.cli import UserError, counted
from tool.files import load_npy_dict
from tool.processes import WorkerPool
from voc12.dataset import Files, grey_masks, label_maps, saliency_maps, score_files
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


@dataclass
class Evaluation:
    """Sums over images.

    total: confusion, int64 (1 or 100, n, n); of saliency maps float64 (513,), see `SaliencySource.score`
    problems: (id, message) of images that cannot be scored
    with_objects: number of images whose ground truth shows objects
    all_background: number of these that are predicted all background
    values: id -> values of its ground truth; of a grey mask 0 for background, 1 for foreground
    """

    total: Any = 0
    problems: list[tuple[str, str]] = field(default_factory=list)
    with_objects: int = 0
    all_background: int = 0
    values: dict[str, list[int]] = field(default_factory=dict)

    def add(self, other: "Evaluation") -> None:
        """Add the sums over other images."""
        self.total = self.total + other.total
        self.problems += other.problems
        self.with_objects += other.with_objects
        self.all_background += other.all_background
        self.values |= other.values


@dataclass(frozen=True)
class LabelSource:
    """Label PNGs, or .npy class scores that become label maps as in `pseudo_label.fusion`.

    names: of the label values, background first
    void: value of ground-truth pixels that do not count
    npy: the predictions are .npy class maps or, with `crf`, CRF probabilities
    curve: score every background score of CURVE
    """

    predict_dir: Path
    gt_dir: Path
    names: tuple[str, ...]
    void: int = VOID
    npy: bool = False
    crf: bool = False
    sal_path: Path | None = None
    theta: float = 0.5
    alpha: float = 0.0
    beta: float = 1.0
    curve: bool = False

    def inputs(self) -> list[Files]:
        """Return the files that each image needs, the ground truth first."""
        predictions = score_files(self.predict_dir) if self.npy else label_maps(self.predict_dir)
        saliency = [saliency_maps(self.sal_path)] if self.sal_path else []
        return [label_maps(self.gt_dir, "ground truth"), predictions, *saliency]

    def score(self, paths: Sequence[Path]) -> Evaluation:
        """Return the confusion of one image, int64 (1, n, n) for n labels, or (100, n, n) for a curve.

        `paths` are in the order of `inputs`. UserError names a bad file.
        """
        truth = load_label(paths[0])
        values = {paths[0].stem: check_values(paths[0], truth, len(self.names), self.void)}
        matrix = self._confusion(truth, paths[1], *paths[2:])
        shown = bool(matrix[0, 1:].any())  # for a curve, matrix[0] is of the lowest theta, with most foreground
        return Evaluation(matrix, [], int(shown), int(shown and not matrix[0, :, 1:].any()), values)

    def _confusion(self, truth: np.ndarray, path: Path, sal_path: Path | None = None) -> np.ndarray:
        n = len(self.names)
        if not self.npy:
            predicted = load_label(path)
            check_size(path, predicted, truth)
            # Void predicted on void is allowed, so that ground truth can be scored against itself.
            check_values(path, np.where((truth == self.void) & (predicted == self.void), 0, predicted), n, None)
            return metrics.confusion(truth, predicted, n, self.void)[None]
        classes, scores, background = read_scores(path, truth, n, self.crf)
        fusion: dict[str, Any] = {"alpha": self.alpha, "beta": self.beta}
        if sal_path is not None:
            fusion["saliency"] = load_grey(sal_path)
            check_size(sal_path, fusion["saliency"], truth)
        if self.curve:
            label, level = levels(scores, classes, **fusion)
            unit = 1 if sal_path is None else 100
            thresholds = np.array([theta * unit for theta in CURVE]).astype(level.dtype)
            return metrics.confusion_curve(truth, label, level, thresholds, n, self.void)
        label = pseudo_label(scores, classes, theta=self.theta, background=background, **fusion)
        return metrics.confusion(truth, label, n, self.void)[None]

    def report(self, total: np.ndarray, images: int) -> tuple[str, dict]:
        """Return the scores in percent as text and as a dict, None where nothing was counted."""
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
        if self.npy and (not self.crf or self.sal_path is not None):  # else theta has no effect
            result["theta"] = CURVE[best] if self.curve else self.theta
        lines.append(f"{counted(images, 'images')} of {self.predict_dir} against {self.gt_dir}")
        return "\n".join(lines), result


@dataclass(frozen=True)
class SaliencySource:
    """Saliency maps. labels: number of label values of the ground truth, label maps; None: it is grey masks."""

    predict_dir: Path
    gt_dir: Path
    labels: int | None = None

    def inputs(self) -> list[Files]:
        """Return the files that each image needs, the ground truth first."""
        truth = grey_masks if self.labels is None else label_maps
        return [truth(self.gt_dir, "ground truth"), saliency_maps(self.predict_dir)]

    def score(self, paths: Sequence[Path]) -> Evaluation:
        """Return mean absolute error, precisions and recalls of one image: float64 (1 + 256 + 256,)."""
        if self.labels is None:
            truth = load_grey(paths[0], "mask")
            salient, known = truth > 127, np.ones(truth.shape, bool)
        else:
            truth = load_label(paths[0])
            if set(np.unique(truth).tolist()) in ({VOID}, {0, VOID}):
                raise UserError(
                    f"label map {paths[0]}: holds 0 and {VOID} only. Grey masks are read without --voc12_root."
                )
            check_values(paths[0], truth, self.labels)
            salient, known = truth > 0, truth != VOID
        saliency = load_grey(paths[1])
        check_size(paths[1], saliency, truth)
        held = values_in(truth if self.labels else salient.astype(np.uint8))
        saliency, salient = saliency[known], salient[known]
        error = metrics.mean_absolute_error(saliency, salient)
        total = np.append(error, metrics.precision_and_recall(saliency, salient))
        return Evaluation(total, values={paths[0].stem: held})

    def report(self, total: np.ndarray, images: int) -> tuple[str, dict]:
        """Return the scores in 0..1 as text and as a dict."""
        mean = total / images
        measures = metrics.f_measures(mean[1:].reshape(2, 256))
        best = int(measures.argmax())
        result = {"mae": float(mean[0]), "max_f": float(measures[best]), "threshold": best, "images": images}
        rows = [("MAE", f"{mean[0]:.4f}", "")]
        rows.append(("max F-measure", f"{measures[best]:.4f}", f"where {best} and above is salient"))
        lines = [*table(rows), f"{counted(images, 'images')} of {self.predict_dir} against {self.gt_dir}"]
        return "\n".join(lines), result


Source = LabelSource | SaliencySource


def evaluate(ids: Sequence[str], inputs: Sequence[Files], source: Source, workers: int) -> Evaluation:
    """Score all images in `workers` processes and return the sums. `inputs`: those of the source."""
    images = [(image_id, [files.find(image_id) for files in inputs]) for image_id in ids]
    chunks = [images[start : start + CHUNK] for start in range(0, len(images), CHUNK)]
    workers, result = min(workers, len(chunks)), Evaluation()
    try:
        with WorkerPool(workers) if workers > 1 else contextlib.nullcontext() as pool:
            parts = (pool.map if pool else map)(partial(evaluate_chunk, source), chunks)
            for part in tqdm(parts, "eval", len(chunks), unit=f"{CHUNK} images", disable=None):
                result.add(part)
    except BrokenProcessPool as error:
        problem = "a process that scores images was killed; memory may be full"
        raise UserError(f"{problem}. Lower --num_workers and run it again.") from error
    return result


def evaluate_chunk(source: Source, images: Sequence[tuple[str, Sequence[Path]]]) -> Evaluation:
    """Score some images, (id, paths), and return the sums."""
    result = Evaluation()
    for image_id, paths in images:
        try:
            result.add(source.score(paths))
        except UserError as error:
            result.problems.append((image_id, str(error)))
    return result


def read_scores(
    path: Path, truth: np.ndarray, labels: int, crf: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Read a .npy dict of class maps or, with `crf`, CRF probabilities of `labels` labels, background included.

    Return classes (n,), their scores float32 (n, H, W), and the CRF's background (H, W) or None.
    """
    scores, expected = load_npy_dict(path), range(labels if crf else labels - 1)
    for key, value in scores.items():
        if key not in expected:
            hint = "" if crf else " Files of infer_cls.py --out_crf need --crf."
            raise UserError(f"{path}: holds {key!r:.40} as a class, where 0..{expected[-1]} was expected.{hint}")
        check_size(path, value, truth)
        low, high = value.min(initial=0), value.max(initial=0)
        if not (low >= -0.01 and high <= 1.01):  # rounding aside
            raise UserError(f"{path}: scores are {low:g} to {high:g}, not 0..1. Divide each map by its largest value.")
    if crf and 0 not in scores:
        raise UserError(f"{path}: holds no background (0), as the CRF's files do. Read class maps without --crf.")
    background = scores.pop(0) if crf else None
    classes = sorted(scores)
    stacked = np.array([scores[key] for key in classes], np.float32).reshape(-1, *truth.shape)
    return np.array(classes, np.int64) - crf, stacked, background


def check_size(path: Path, array: np.ndarray, truth: np.ndarray) -> None:
    """Raise UserError if an array is not of the ground truth's shape."""
    if array.shape != truth.shape:
        found, expected = ("x".join(map(str, shape)) for shape in (array.shape, truth.shape))
        raise UserError(f"{path}: is {found} (height x width), the ground truth {expected}")


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
