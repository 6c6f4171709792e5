"""Losses of DeepLab-v2 and PoolNet against slow references."""

import math

import numpy as np
import pytest
import torch

from network.losses import balanced_cross_entropy, cross_entropy, multi_scale_loss, saliency_loss


def slow_loss(logits: np.ndarray, labels: np.ndarray, balanced: bool) -> float:
    """Pixel by pixel, in float64."""
    lost: dict[bool, list[float]] = {False: [], True: []}
    height, width = logits.shape[2:]
    for n in range(len(labels)):
        for y in range(height):
            for x in range(width):
                at = math.floor((y + 0.5) * labels.shape[1] / height), math.floor((x + 0.5) * labels.shape[2] / width)
                label = int(labels[n][at])
                if label != 255:
                    scores = logits[n, :, y, x].astype(np.float64)
                    lost[balanced and label > 0].append(math.log(np.exp(scores).sum()) - scores[label])
    parts = [sum(part) / len(part) if part else 0.0 for part in lost.values()]
    return sum(parts) / 2 if balanced else parts[0]


@pytest.mark.parametrize("balanced", [False, True])
def test_segmentation_losses_against_a_slow_reference(balanced):
    generator = np.random.default_rng(0)
    labels = generator.choice(np.array([0, 0, 0, 1, 2, 255], np.uint8), (2, 21, 17))
    maps = [generator.normal(size=(2, 3, h, w)).astype(np.float32) for h, w in ((7, 5), (4, 3), (9, 6))]
    loss = multi_scale_loss([torch.from_numpy(map_) for map_ in maps], torch.from_numpy(labels), balanced)
    assert loss.item() == pytest.approx(sum(slow_loss(map_, labels, balanced) for map_ in maps), rel=1e-6)


def test_maps_without_known_pixels_cost_nothing():
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    void = torch.full((2, 8, 8), 255, dtype=torch.uint8)
    for balanced in (False, True):
        loss = multi_scale_loss([logits], void, balanced)
        loss.backward()
        assert loss.item() == 0 and (logits.grad == 0).all()
    background = torch.zeros(2, 4, 4, dtype=torch.uint8)
    half = cross_entropy(logits, background).item() / 2
    assert balanced_cross_entropy(logits, background).item() == pytest.approx(half, rel=1e-6)


def test_saliency_loss_against_a_slow_reference():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(2, 1, 5, 4))
    masks = generator.choice([0.0, 0.3, 0.4, 0.8, 1.0], logits.shape)
    bce = np.logaddexp(0, logits) - logits * masks
    loss = saliency_loss(torch.from_numpy(logits), torch.from_numpy(masks), 10)
    assert loss.item() == pytest.approx(bce.sum() / 10, abs=1e-12)
    masks[:, :, 2] = -1  # unknown
    loss = saliency_loss(torch.from_numpy(logits), torch.from_numpy(masks), 10)
    assert loss.item() == pytest.approx(np.delete(bce, 2, axis=2).sum() / 10, abs=1e-12)
