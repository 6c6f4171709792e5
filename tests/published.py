"""Training by a published recipe, compared with its figures."""

from collections.abc import Callable, Mapping, Sequence

import pytest
import torch
from torch import nn

Norms = Mapping[str, float | None]  # tensor -> norm
LEAST = 1e-6  # of norms that are compared


def check_training(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    backward: Callable[[int], float],
    figures: Sequence[tuple[float, Norms, Norms]],
    bounds: Sequence[tuple[float, float, float]],
) -> None:
    """Train a step for each of `figures`: its loss, norms of gradients, and distances of tensors from their initial values.

    `backward` computes the gradients of a step and returns its loss. `bounds` are relative, for each step's three figures.
    """
    net.train()
    before = {name: tensor.double() for name, tensor in net.state_dict().items()}
    for step, ((loss, grad_norms, moves), (loss_rel, grad_rel, move_rel)) in enumerate(
        zip(figures, bounds, strict=True)
    ):
        optimizer.zero_grad()
        assert backward(step) == pytest.approx(loss, rel=loss_rel)
        for name, norm in grad_norms.items():
            grad = net.get_parameter(name).grad
            assert (grad is None) == (norm is None), name
            if norm is not None and norm > LEAST:
                assert grad.norm().item() == pytest.approx(norm, rel=grad_rel), name
        optimizer.step()
        after = net.state_dict()
        for name, norm in moves.items():
            if norm == 0 or norm > LEAST:
                moved = (after[name].double() - before[name]).norm().item()
                assert moved == pytest.approx(norm, rel=move_rel, abs=0), name
