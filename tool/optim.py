"""Optimizers over parameter groups, and learning-rate schedules."""

from collections.abc import Sequence

import torch
from torch import nn

Groups = Sequence[Sequence[nn.Parameter]]
Factors = Sequence[tuple[float, float]]  # of each group, on the learning rate and on the weight decay


def lr_factor(step: int, max_step: int, warmup_steps: int) -> float:
    """Return the factor on the learning rate at a step, from 0: linear warm-up from 0.1 to 1, then polynomial, power 0.9."""
    if step < warmup_steps:
        return 0.1 + 0.9 * step / warmup_steps
    return max(0.0, 1 - (step - warmup_steps) / max(1, max_step - warmup_steps)) ** 0.9


def stepwise_lr_factor(step: int, max_step: int, warmup_steps: int = 0) -> float:
    """Return `lr_factor`, but the polynomial starts at step 0, during warm-up, and changes every ten steps only."""
    warm_up = 0.1 + 0.9 * step / warmup_steps if step < warmup_steps else 1.0
    return warm_up * max(0.0, 1 - step // 10 * 10 / max_step) ** 0.9


def freeze(groups: Groups) -> None:
    """Exclude the parameters of these groups from training."""
    for group in groups:
        for parameter in group:
            parameter.requires_grad_(False)


def make_sgd(groups: Groups, factors: Factors, lr: float, weight_decay: float) -> torch.optim.SGD:
    """Return SGD with momentum 0.9."""
    options = [
        {"params": parameters, "lr": lr * on_lr, "initial_lr": lr * on_lr, "weight_decay": weight_decay * on_decay}
        for parameters, (on_lr, on_decay) in zip(groups, factors, strict=True)
    ]
    return torch.optim.SGD(options, momentum=0.9)


def make_adamw(groups: Groups, factors: Factors, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """Return AdamW with one learning rate: `factors` on it are not used."""
    options = [
        {"params": parameters, "initial_lr": lr, "weight_decay": weight_decay * on_decay}
        for parameters, (_, on_decay) in zip(groups, factors, strict=True)
    ]
    return torch.optim.AdamW(options, lr)


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> float:
    """Set each group's learning rate to `factor` times its initial one; return the first group's."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
    return optimizer.param_groups[0]["lr"]
