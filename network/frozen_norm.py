"""Batch norms that are not trained, and folding them into convolutions for inference."""

import torch
from torch import Tensor, nn


def scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """(C,) each: with its stored statistics the norm computes `x * scale + shift`."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return scale, norm.bias - norm.running_mean * scale


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """Batch norm that always uses its stored statistics and is never trained, as EDAM, DeepLab-v2 and PoolNet keep all of them.

    In float32 it is computed as an affine map, which keeps nothing for the backward pass but its own scale.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.weight.requires_grad = False
        self.bias.requires_grad = False
        self.eval()

    def train(self, mode: bool = True) -> "FrozenBatchNorm2d":
        return super().train(False)

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype != self.weight.dtype:  # mixed precision: only PyTorch's own kernel mixes types without a copy of x
            return super().forward(x)
        scale, shift = scale_and_shift(self)
        return torch.addcmul(shift[:, None, None], x, scale[:, None, None])


class FrozenNorms(nn.Module):
    """A part of a network whose batch norms, of whatever kind, always use their stored statistics and are never trained."""

    frozen = True

    def freeze(self) -> None:
        """To be called when all batch norms are there."""
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> "FrozenNorms":
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d) and self.frozen:
                module.eval()
        return self


def unfreeze_batch_norms(net: nn.Module) -> None:
    """Put ordinary batch norms, which learn, in place of frozen ones. Other layers that are not trained stay so."""
    for module in list(net.modules()):
        if isinstance(module, FrozenNorms):
            module.frozen = False
        if isinstance(module, nn.BatchNorm2d):
            module.requires_grad_(True)
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d) and type(child) in (nn.BatchNorm2d, FrozenBatchNorm2d):
                norm = nn.BatchNorm2d(child.num_features, child.eps, momentum=0.05)
                norm.load_state_dict(child.state_dict())
                setattr(module, name, norm)
    net.train(net.training)


def has_frozen_norms(net: nn.Module) -> bool:
    """Of a network in training mode."""
    return any(isinstance(module, nn.BatchNorm2d) and not module.training for module in net.modules())


@torch.no_grad()
def fold(norm: nn.BatchNorm2d, *convs: nn.Conv2d) -> None:
    """Scale the convolutions, whose sum the norm is applied to, and give the first one the shift as a bias."""
    scale, shift = scale_and_shift(norm)
    for conv in convs:
        conv.weight *= scale[:, None, None, None]
    convs[0].bias = nn.Parameter(shift, requires_grad=False)
