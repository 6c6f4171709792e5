"""The optimisers of EDAM and DeepLab-v2 and their learning-rate schedules."""

from collections.abc import Sequence

import torch
from torch import nn

# Learning-rate factor and weight-decay factor of each of the network's six parameter groups.
GROUP_FACTORS = ((1, 1), (2, 0), (10, 1), (20, 0), (1, 1), (1, 1))


def lr_factor(step: int, max_step: int, warmup_steps: int) -> float:
    """Factor on the learning rate at a step (from 0): linear from 0.1 to 1 over the warm-up, then polynomial to 0, power 0.9."""
    if step < warmup_steps:
        return 0.1 + 0.9 * step / warmup_steps
    return max(0.0, 1 - (step - warmup_steps) / max(1, max_step - warmup_steps)) ** 0.9


def stepwise_lr_factor(step: int, max_step: int, every: int = 10) -> float:
    """DeepLab-v2's factor on the learning rate at a step (from 0): polynomial to 0, power 0.9, unchanged within `every` steps."""
    return max(0.0, 1 - step // every * every / max_step) ** 0.9


def make_optimizer(
    groups: list[list[nn.Parameter]],
    lr: float,
    weight_decay: float,
    factors: Sequence[tuple[float, float]] = GROUP_FACTORS,
) -> torch.optim.SGD:
    """SGD with momentum 0.9 over the groups of `Net.get_parameter_groups`, each with its factors on rate and weight decay."""
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


def set_learning_rate(optimizer: torch.optim.Optimizer, step: int, max_step: int, warmup_steps: int) -> float:
    """Set every group's learning rate for a step; returns the first group's."""
    factor = lr_factor(step, max_step, warmup_steps)
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
    return optimizer.param_groups[0]["lr"]
