"""Faster forms of three compositions of convolutions: the same sums in another order.

A 3x3 convolution is the sum of nine 1x1 convolutions, its taps, each shifted to its place. With few output channels, all taps
together are one large matrix product; those of an enlarged map can be computed before enlarging, at fewer positions; and
two convolutions in sequence, the second with one output, are one convolution of the combined taps.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sum_of_convolutions(x: Tensor, convs: Sequence[Any]) -> Tensor:
    """Return sum(conv(x) for conv in convs), as in ASPP.

    x is (N, in, h, w), the result (N, out, h, w); convs are 3x3 with a bias, each with its dilation, and keep the size.
    """
    # F.fold puts the tap (i, j) of its columns where a convolution has the tap (2 - i, 2 - j).
    weights = [conv.weight.flip(2, 3).permute(0, 2, 3, 1).flatten(0, 2) for conv in convs]
    taps = F.conv2d(x, torch.cat(weights)[:, :, None, None]).flatten(2)  # (N, convolutions * out * 9, h * w)
    total = torch.zeros((), device=x.device)
    for part, conv in zip(_in_float32(taps).chunk(len(convs), 1), convs, strict=True):
        total = total + F.fold(part, x.shape[2:], 3, dilation=conv.dilation, padding=conv.dilation)
        total = total + conv.bias[:, None, None]
    return total


def two_convolutions(x: Tensor, first: nn.Conv2d, weight: Tensor) -> Tensor:
    """Return conv2d(first(x), weight, padding=k // 2).

    x is (N, in, h, w), weight (1, mid, k, k) with k odd, the result (N, 1, h, w). `first` has no bias and keeps the size.
    """
    side = weight.shape[2]
    of_taps = torch.einsum("mt,mikl->tikl", weight[0].flatten(1), first.weight)
    taps = F.conv2d(x, of_taps, padding=first.padding)  # (N, k * k, h, w)
    if side == 1:
        return taps
    columns = _in_float32(taps.flip(1).flatten(2))
    return F.fold(columns, x.shape[2:], side, padding=side // 2)


def convolve_enlarged(x: Tensor, weight: Tensor, size: Sequence[int]) -> Tensor:
    """Return conv2d(resize(x, size), weight, padding=1), the resizing bilinear with corners aligned.

    Resizing is linear and does not mix channels, so it can follow the taps. Rows, then columns of all taps are resized, shifted
    and summed by one matrix product each. x is (N, in, h, w), weight (out, in, 3, 3), the result (N, out, *size).
    """
    (n, _, h, w), out = x.shape, len(weight)
    if (h, w) == tuple(size):
        return F.conv2d(x, weight, padding=1)
    taps = F.conv2d(x, weight.permute(2, 3, 0, 1).flatten(0, 2)[:, :, None, None])
    taps = taps.permute(0, 2, 3, 1).unflatten(3, (3, 3, out)).permute(0, 3, 1, 4, 2, 5)  # (N, 3, h, 3, w, out)
    rows = _enlarging_taps(h, size[0], taps) @ taps.reshape(n, 3 * h, 3 * w * out)  # (N, H, 3 * w * out)
    columns = _enlarging_taps(w, size[1], taps) @ rows.view(n * size[0], 3 * w, out)  # (N * H, W, out)
    return columns.view(n, *size, out).permute(0, 3, 1, 2)


def _enlarging_taps(before: int, after: int, like: Tensor) -> Tensor:
    """Return the matrix (after, 3 * before) that resizes the values of three taps, shifts each, and sums them."""
    identity = _in_float32(torch.eye(before, dtype=like.dtype, device=like.device))[None]
    resized = F.interpolate(identity, after, mode="linear", align_corners=True)[0]  # (before, after)
    padded = F.pad(resized, (1, 1))  # zeros beyond the borders, as in a convolution
    return torch.cat([padded[:, tap : tap + after] for tap in range(3)]).T.to(like)


def _in_float32(x: Tensor) -> Tensor:
    """Return x in float32 at least, so that sums of half-precision values are rounded once."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
