"""Scores against slow references in plain Python."""

import numpy as np
import pytest

from pseudo_label.fusion import levels, pseudo_label
from pseudo_label.metrics import (
    confusion,
    confusion_curve,
    f_measures,
    iou,
    mean_absolute_error,
    mean_iou,
    precision_and_recall,
)


def slow_iou(truth: np.ndarray, predicted: np.ndarray, label: int) -> float:
    hit = true = positive = 0
    for t, p in zip(truth.ravel().tolist(), predicted.ravel().tolist(), strict=True):
        if t == 255:
            continue
        hit += t == label and p == label
        true += t == label
        positive += p == label
    return hit / (true + positive - hit) if true + positive - hit else float("nan")


@pytest.mark.filterwarnings("error")
def test_iou_against_a_slow_reference():
    generator = np.random.default_rng(0)
    values = np.array([*range(18), 255], np.uint8)  # 18, 19 and 20 do not occur in the ground truth, 20 nowhere
    truth = generator.choice(values, (60, 50))
    predicted = np.where(generator.random((60, 50)) < 0.6, truth, generator.integers(0, 20, (60, 50))).astype(np.uint8)
    matrix = confusion(truth, predicted % 21, 21, 255)
    assert matrix.shape == (21, 21) and matrix.dtype == np.int64
    expected = [slow_iou(truth, predicted % 21, label) for label in range(21)]
    np.testing.assert_allclose(iou(matrix), expected, rtol=0, atol=1e-9)
    assert mean_iou(matrix) == pytest.approx(np.mean(expected[:20]), abs=1e-12)
    rows = confusion(np.array([[0, 0, 1, 255]], np.uint8), np.array([[0, 1, 1, 1]], np.uint8), 2, 255)
    assert rows.tolist() == [[1, 1], [0, 1]]  # rows are truth
    assert np.isnan([mean_iou(0 * matrix), *iou(0 * matrix)]).all()


@pytest.mark.parametrize(("n", "void"), [(21, 255), (24, 99)])
def test_curve_of_one_image_equals_pseudo_label_at_every_theta(n, void):
    generator = np.random.default_rng(1)
    truth = generator.choice(np.array([0, 5, n - 1, void], np.uint8), (30, 40))
    scores = generator.integers(0, 101, (2, 30, 40)).astype(np.float32) / np.float32(100)  # equal to thetas
    saliency = generator.integers(0, 256, (30, 40)).astype(np.uint8)
    thetas = np.arange(100) / 100
    for options, unit in (({}, 1), ({"saliency": saliency, "alpha": 0.3, "beta": 0.8}, 100)):
        label, level = levels(scores, np.array([4, n - 2]), **options)
        thresholds = np.array([theta * unit for theta in thetas.tolist()]).astype(level.dtype)
        curve = confusion_curve(truth, label, level, thresholds, n, void)
        for theta, matrix in zip(thetas.tolist(), curve, strict=True):
            single = pseudo_label(scores, np.array([4, n - 2]), theta=theta, **options)
            np.testing.assert_array_equal(matrix, confusion(truth, single, n, void))
    assert curve.shape == (100, n, n) and mean_iou(curve.sum(axis=0)) > 0


def slow_curve(saliency: np.ndarray, mask: np.ndarray) -> list[list[float]]:
    """Return precisions and recalls at the thresholds 0..255."""
    precision, recall = [], []
    pixels = list(zip(saliency.ravel().tolist(), mask.ravel().tolist(), strict=True))
    for threshold in range(256):
        hits = sum(1 for value, inside in pixels if value >= threshold and inside)
        salient = sum(1 for value, _ in pixels if value >= threshold)
        inside = sum(1 for _, inside in pixels if inside)
        precision.append(hits / salient if salient else 0.0)
        recall.append(hits / inside if inside else 0.0)
    return [precision, recall]


def slow_f_measure(pairs: list[tuple[np.ndarray, np.ndarray]]) -> tuple[float, float, int]:
    """Return MAE, maximum F-measure and its threshold of (saliency, mask) pairs, in plain Python floats."""
    curves, errors = [slow_curve(*pair) for pair in pairs], []
    for saliency, mask in pairs:
        error = [abs(s / 255 - m) for s, m in zip(saliency.ravel().tolist(), mask.ravel().tolist(), strict=True)]
        errors.append(sum(error) / len(error))
    best, at = 0.0, 0
    for threshold in range(256):
        precision, recall = (sum(curve[i][threshold] for curve in curves) / len(curves) for i in (0, 1))
        measure = 1.3 * precision * recall / (0.3 * precision + recall) if precision + recall else 0
        if measure > best:
            best, at = measure, threshold
    return sum(errors) / len(errors), best, at


def test_saliency_scores_against_slow_references():
    generator = np.random.default_rng(0)
    pairs = [(np.zeros((4, 4), np.uint8), np.zeros((4, 4), bool))]
    for shape in ((9, 13), (6, 5), (8, 8)):
        mask = generator.random(shape) < 0.3
        pairs.append(((60 * mask + generator.integers(0, 110, shape)).astype(np.uint8), mask))
    curves = [precision_and_recall(*pair) for pair in pairs]
    for pair, curve in zip(pairs, curves, strict=True):
        np.testing.assert_allclose(curve, slow_curve(*pair), rtol=0, atol=1e-12)
    error, best, at = slow_f_measure(pairs)
    assert np.mean([mean_absolute_error(*pair) for pair in pairs]) == pytest.approx(error, abs=1e-12)
    measures = f_measures(np.mean(curves, axis=0))
    assert measures.max() == pytest.approx(best, abs=1e-12) and measures.argmax() == at and 0.5 < best < 1
