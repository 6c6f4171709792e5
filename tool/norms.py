"""Batch norms that learn, whose statistics must be those of all photos of a step."""

from collections.abc import Iterable

from torch import nn


def find_learning_norms(net: nn.Module) -> list[nn.BatchNorm2d]:
    """Return the batch norms that use and update the statistics of each batch."""
    return [module for module in net.modules() if isinstance(module, nn.BatchNorm2d) and module.training]


def share_batch_norms(net: nn.Module, norms: Iterable[nn.BatchNorm2d]) -> None:
    """Replace batch norms of a network by SyncBatchNorm, whose statistics are those of all ranks, which only GPUs have."""
    chosen = set(norms)
    for module in list(net.modules()):
        for name, child in module.named_children():
            if child in chosen:
                setattr(module, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))
