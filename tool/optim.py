"""SGD and Adam over groups of parameters, and learning-rate schedules."""

from collections.abc import Sequence

import torch
from torch import nn


def lr_factor(step: int, max_step: int, warmup_steps: int) -> float:
    """Factor on the learning rate at a step (from 0): linear from 0.1 to 1 over the warm-up, then polynomial to 0, power 0.9."""
    if step < warmup_steps:
        return 0.1 + 0.9 * step / warmup_steps
    return max(0.0, 1 - (step - warmup_steps) / max(1, max_step - warmup_steps)) ** 0.9


def stepwise_lr_factor(step: int, max_step: int, every: int = 10) -> float:
    """Factor on the learning rate at a step (from 0): polynomial to 0, power 0.9, unchanged within `every` steps."""
    return max(0.0, 1 - step // every * every / max_step) ** 0.9


def freeze(groups: Sequence[Sequence[nn.Parameter]]) -> None:
    """Leave the parameters of these groups out of the training."""
    for group in groups:
        for parameter in group:
            parameter.requires_grad_(False)


def make_sgd(
    groups: Sequence[Sequence[nn.Parameter]], factors: Sequence[tuple[float, float]], lr: float, weight_decay: float
) -> torch.optim.SGD:
    """SGD with momentum 0.9. `factors` are those on the learning rate and on the weight decay of each group, which may be empty."""
    return torch.optim.SGD(
        [
            {
                "params": parameters,
                "lr": lr * lr_times,
                "initial_lr": lr * lr_times,
                "weight_decay": weight_decay * decays,
            }
            for parameters, (lr_times, decays) in zip(groups, factors, strict=True)
        ],
        momentum=0.9,
    )


def make_adam(groups: Sequence[Sequence[nn.Parameter]], lr: float, weight_decay: float) -> torch.optim.Adam:
    """Adam whose weight decay is part of the gradient, with PyTorch's betas."""
    parameters = [parameter for group in groups for parameter in group]
    return torch.optim.Adam([{"params": parameters, "initial_lr": lr}], lr, weight_decay=weight_decay)


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> float:
    """Set every group's learning rate to `factor` times its initial one; returns the first group's."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
    return optimizer.param_groups[0]["lr"]
