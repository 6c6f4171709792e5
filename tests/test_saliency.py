"""Scores of saliency maps against slow references in plain Python floats."""

import numpy as np
import pytest
import torch

from network.saliency_loss import edge_loss, saliency_loss
from pseudo_label.saliency import f_measures, grey_map, mean_absolute_error, precision_and_recall


def slow_curve(saliency: np.ndarray, mask: np.ndarray) -> list[list[float]]:
    precision, recall = [], []
    pixels = list(zip(saliency.ravel().tolist(), mask.ravel().tolist(), strict=True))
    for threshold in range(256):
        hits = sum(1 for value, inside in pixels if value >= threshold and inside)
        salient = sum(1 for value, _ in pixels if value >= threshold)
        inside = sum(1 for _, inside in pixels if inside)
        precision.append(hits / salient if salient else 0.0)
        recall.append(hits / inside if inside else 0.0)
    return [precision, recall]


def photos() -> list[tuple[np.ndarray, np.ndarray]]:
    generator = np.random.default_rng(0)
    pairs = []
    for height, width in ((9, 13), (6, 5), (8, 8)):
        mask = generator.random((height, width)) < 0.3
        values = 60 * mask + generator.integers(0, 110, mask.shape)
        pairs.append((values.astype(np.uint8), mask))
    pairs.append((np.zeros((4, 4), np.uint8), np.zeros((4, 4), bool)))
    return pairs


def test_scores_against_slow_references():
    curves, slow = [], []
    for saliency, mask in photos():
        curves.append(precision_and_recall(saliency, mask))
        slow.append(slow_curve(saliency, mask))
        np.testing.assert_allclose(curves[-1], slow[-1], rtol=0, atol=1e-12)
        errors = [abs(s / 255 - m) for s, m in zip(saliency.ravel().tolist(), mask.ravel().tolist(), strict=True)]
        assert mean_absolute_error(saliency, mask) == pytest.approx(sum(errors) / len(errors), abs=1e-12)
    best = 0.0
    for threshold in range(256):
        precision = sum(curve[0][threshold] for curve in slow) / len(slow)
        recall = sum(curve[1][threshold] for curve in slow) / len(slow)
        if precision + recall:
            best = max(best, 1.3 * precision * recall / (0.3 * precision + recall))
    assert f_measures(np.mean(curves, axis=0)).max() == pytest.approx(best, abs=1e-12)
    assert 0.5 < best < 1


def test_the_mask_itself_scores_one_and_nothing_scores_zero():
    mask = np.arange(12).reshape(3, 4) < 5
    assert f_measures(precision_and_recall(255 * mask.astype(np.uint8), mask)).max() == pytest.approx(1)
    assert mean_absolute_error(255 * mask.astype(np.uint8), mask) == 0
    assert f_measures(precision_and_recall(np.zeros((3, 4), np.uint8), np.zeros((3, 4), bool))).max() == 0


def test_grey_map_rounds_half_to_even_and_saturates():
    assert grey_map(np.array([[-200.0, 0.0, 200.0]], np.float32)).tolist() == [[0, 128, 255]]


def test_losses_against_slow_references():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(2, 1, 5, 4))
    masks = generator.choice([0.0, 0.3, 0.4, 0.8, 1.0], logits.shape)
    bce = np.logaddexp(0, logits) - logits * masks
    loss = saliency_loss(torch.from_numpy(logits), torch.from_numpy(masks), 10)
    assert loss.item() == pytest.approx(bce.sum() / 10, abs=1e-12)
    edge, other = masks > 0.5, masks == 0
    share = edge.sum() / (edge.sum() + other.sum())
    expected = (1 - share) * (np.logaddexp(0, logits) - logits)[edge].sum() + 1.1 * share * np.logaddexp(0, logits)[
        other
    ].sum()
    loss = edge_loss([torch.from_numpy(logits), torch.from_numpy(logits)], torch.from_numpy(masks), 10)
    assert loss.item() == pytest.approx(2 * expected / 10, rel=1e-6)
