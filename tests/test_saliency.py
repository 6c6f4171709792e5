"""Saliency maps and losses against slow references."""

import numpy as np
import pytest
import torch

from network.saliency_loss import edge_loss, saliency_loss
from pseudo_label.saliency_maps import grey_map


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
