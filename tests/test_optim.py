"""Learning-rate schedule and parameter groups."""

import json

import pytest
import torch
from conftest import SHARED, needs_shared

from tool.optim import lr_factor, make_sgd, set_learning_rate


@needs_shared
def test_published_schedule():
    figures = json.loads((SHARED / "parity" / "train_three_steps.json").read_text())
    for max_step, rates in figures["lr_schedule_base_0.001_warmup_2000"].items():
        for step, rate in rates.items():
            assert 0.001 * lr_factor(int(step), int(max_step), 2000) == pytest.approx(rate, rel=0, abs=1e-12)


@pytest.mark.parametrize(
    ("step", "max_step", "warmup", "factor"),
    [(0, 100, 20, 0.1), (10, 100, 20, 0.55), (20, 100, 20, 1), (60, 100, 20, 0.5**0.9), (5, 10, 0, 0.5**0.9)],
)
def test_schedule_by_hand(step, max_step, warmup, factor):
    assert lr_factor(step, max_step, warmup) == pytest.approx(factor, abs=1e-12)


def test_group_factors():
    groups = [[torch.nn.Parameter(torch.ones(2))], [], [torch.nn.Parameter(torch.ones(3))]]
    optimizer = make_sgd(groups, [(1, 1), (20, 0), (0.5, 2)], 0.01, 5e-4)
    rate = set_learning_rate(optimizer, lr_factor(0, 100, 10))
    assert rate == pytest.approx(0.001)
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.001, 0.02, 0.0005])
    assert [g["weight_decay"] for g in optimizer.param_groups] == [5e-4, 0, 1e-3]
    assert {g["momentum"] for g in optimizer.param_groups} == {0.9}
    with pytest.raises(ValueError, match="shorter"):
        make_sgd(groups, [(1, 1)], 0.01, 5e-4)
