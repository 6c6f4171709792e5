"""Batch norms that are not trained, and folding them into convolutions for inference."""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn


def scale_and_shift(norm: Any) -> tuple[Tensor, Tensor]:
    """Return the (C,) tensors of `x * scale + shift`, which a batch norm computes with its stored statistics."""
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return scale, norm.bias - norm.running_mean * scale


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """Batch norm that is never trained. In float32 it is an affine map, which keeps no activation for the backward pass."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "FrozenBatchNorm2d":
        return super().train(False)

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype != self.weight.dtype:  # mixed precision: only PyTorch's own kernel mixes types without a copy of x
            return super().forward(x)
        scale, shift = scale_and_shift(self)
        return torch.addcmul(shift[:, None, None], x, scale[:, None, None])


class FrozenNorms(nn.Module):
    """Part of a network whose batch norms, of whatever kind, always use their stored statistics and are never trained."""

    frozen = True

    def train(self, mode: bool = True) -> "FrozenNorms":
        """Set the mode and freeze the batch norms that were added so far."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d) and self.frozen:
                module.eval().requires_grad_(False)
        return self


def unfreeze_batch_norms(net: nn.Module) -> None:
    """Replace frozen batch norms by ordinary ones, which learn. Other frozen layers stay frozen."""
    for module in list(net.modules()):
        if isinstance(module, FrozenNorms):
            module.frozen = False
        if isinstance(module, nn.BatchNorm2d):
            module.requires_grad_(True)
        for name, child in module.named_children():
            # timm's own kinds of batch norm, which contain the activation, stay.
            if isinstance(child, nn.BatchNorm2d) and type(child) in (nn.BatchNorm2d, FrozenBatchNorm2d):
                norm = nn.BatchNorm2d(child.num_features, child.eps, momentum=0.05)
                norm.load_state_dict(child.state_dict())
                setattr(module, name, norm)
    net.train(net.training)


@torch.no_grad()
def fold(norm: nn.Module, *convs: Any) -> None:
    """Scale the convolutions, whose sum the norm is applied to, and give the first one the shift as a bias."""
    scale, shift = scale_and_shift(norm)
    for conv in convs:
        conv.weight *= scale[:, None, None, None]
    convs[0].bias = nn.Parameter(shift, requires_grad=False)


def fold_batch_norms(net: nn.Module) -> None:
    """Fold every batch norm into the convolution registered right before it; the network can't be trained afterwards."""
    for module in list(net.modules()):
        for (_, conv), (name, norm) in pairwise(list(module.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                fold(norm, conv)
                module.add_module(name, nn.Identity())
