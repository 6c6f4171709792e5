"""Batch norms that learn, whose statistics must be those of all photos of a step."""

from collections.abc import Collection, Iterable

import torch
from torch import nn


def find_learning_norms(net: nn.Module) -> list[nn.BatchNorm2d]:
    """Return the batch norms that use and update the statistics of each batch."""
    return [module for module in net.modules() if isinstance(module, nn.BatchNorm2d) and module.training]


def can_be_shared(norms: Collection[nn.BatchNorm2d], device: torch.device) -> bool:
    """Return whether several processes can train batch norms: plain ones on GPUs, which alone have SyncBatchNorm."""
    return not norms or (device.type != "cpu" and {type(norm) for norm in norms} == {nn.BatchNorm2d})


def share_batch_norms(net: nn.Module, norms: Iterable[nn.BatchNorm2d]) -> None:
    """Replace batch norms of a network by SyncBatchNorm, whose statistics are those of all ranks."""
    chosen = set(norms)
    for module in list(net.modules()):
        for name, child in module.named_children():
            if child in chosen:
                setattr(module, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))
