"""Dropout whose random decisions are cheap on CPUs, where PyTorch draws them one by one."""

import math

import numpy as np
import torch
from torch import Tensor, nn

_AT_ONCE = 2**19  # decisions, a multiple of 4: a megabyte, which stays in the cache


class KeepBits:
    """Keep-or-drop decisions on a CPU, 16 random bits each, the same again for the same seed."""

    def __init__(self, seed: int, p: float) -> None:
        self.generator = np.random.Generator(np.random.SFC64(seed))  # twice as fast as PyTorch's Mersenne twister
        self.dropped = round(p * 2**16)  # of 2**16 equally likely values
        self.scale = 2**16 / (2**16 - self.dropped) if self.dropped < 2**16 else 0.0

    def draw(self, out: Tensor) -> Tensor:
        """Fill `out` with 1 with probability 1 - p (rounded to 1/65536), otherwise 0; with p = 1 it is `scale` that is 0.

        Numbers, because products with bool tensors are slow.
        """
        for part in out.view(-1).split(_AT_ONCE):
            words = self.generator.integers(0, 2**64, math.ceil(len(part) / 4), dtype=np.uint64)
            keep = words.view(np.int16)[: len(part)] >= self.dropped - 2**15
            part.copy_(torch.from_numpy(keep.view(np.uint8)))  # not as bools, which are copied more slowly
        return out


class Dropout(nn.Dropout):
    """nn.Dropout; on a CPU it draws faster, and keeps a byte instead of a float per element for the backward pass."""

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or not self.training or self.p == 0:
            return super().forward(x)
        return _CPUDropout.apply(x, self.p)


class _CPUDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, p: float) -> Tensor:
        bits = KeepBits(int(torch.randint(2**62, ())), p)
        keep = bits.draw(torch.empty(x.shape, dtype=torch.uint8))
        ctx.save_for_backward(keep)
        ctx.scale = bits.scale
        return _drop(x, keep, bits.scale)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (keep,) = ctx.saved_tensors
        return _drop(grad, keep, ctx.scale), None


def _drop(x: Tensor, keep: Tensor, scale: float) -> Tensor:
    """x * keep * scale, rounded once. A product with bytes is slow: a part of them at a time is made numbers of x's type."""
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    factors = x.new_empty(min(x.numel(), _AT_ONCE))
    for part, k, dropped in zip(*(t.reshape(-1).split(_AT_ONCE) for t in (x, keep, out)), strict=True):
        torch.mul(part, factors[: len(part)].copy_(k), out=dropped).mul_(scale)
    return out
