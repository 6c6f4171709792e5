"""Scaled dot-product attention whose memory stays flat in the number of tokens, with dropout, on GPUs and CPUs.

PyTorch's fused kernels do this on GPUs; on CPUs they do it without dropout only. With dropout PyTorch's CPU path stores the whole
tokens x tokens matrix (2.9 GB for EDAM's 20 classes x 2 heads x 4232^2, several times over), so that case has a path here.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# Rows of the score matrix computed at a time: 128 x 4232 floats are 2 MB, which stays in the cache.
_ROWS = 128


def attention(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    """softmax(q k^T / sqrt(d)) with dropout on the weights, times v.

    Args:
        q, k, v: (B, heads, T, d) float.
        dropout: probability of dropping an attention weight; 0 outside training.

    Returns:
        (B, heads, T, d), like q.
    """
    if dropout > 0 and q.device.type == "cpu":
        return _DropoutAttention.apply(q, k, v, dropout)
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)


class _KeepBits:
    """Keep-or-drop decisions drawn 16 random bits each, reproducible from a seed so that backward can draw them again."""

    def __init__(self, seed: int, dropout: float) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.dropped = round(dropout * 2**16)  # of 2**16 equally likely values
        self.scale = 2**16 / (2**16 - self.dropped) if self.dropped < 2**16 else 0.0

    def draw(self, rows: int, columns: int) -> Tensor:
        """(rows, columns) bool, True with probability 1 - dropout (rounded to 1/65536)."""
        words = torch.empty(math.ceil(rows * columns / 4), dtype=torch.int64)
        words.random_(-(2**63), None, generator=self.generator)
        bits = words.view(torch.int16)[: rows * columns].view(rows, columns)
        return bits >= self.dropped - 2**15


class _DropoutAttention(torch.autograd.Function):
    """One (batch, head) slice and a few rows at a time; backward computes the weights again instead of keeping them."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
        ctx.seed = int(torch.randint(2**62, ()))
        ctx.dropout = dropout
        out = torch.empty_like(v, memory_format=torch.contiguous_format)
        for i, (qi, ki, vi, oi) in enumerate(_slices(q, k, v, out)):
            keep = _KeepBits(ctx.seed + i, dropout)
            for rows in _row_blocks(len(qi)):
                p = _weights(qi[rows], ki)
                p *= keep.draw(*p.shape)
                torch.mm(p.to(vi.dtype), vi * keep.scale, out=oi[rows])
        ctx.save_for_backward(q, k, v, out)
        return out

    @staticmethod
    def backward(ctx, grad_out: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, out = ctx.saved_tensors
        grad_q, grad_k, grad_v = (torch.zeros_like(t, memory_format=torch.contiguous_format) for t in (q, k, v))
        scale = q.shape[-1] ** -0.5
        for i, (qi, ki, vi, oi, go, gq, gk, gv) in enumerate(_slices(q, k, v, out, grad_out, grad_q, grad_k, grad_v)):
            keep = _KeepBits(ctx.seed + i, ctx.dropout)
            for rows in _row_blocks(len(qi)):
                p = _weights(qi[rows], ki)  # softmax weights before dropout
                kept = keep.draw(*p.shape)
                g = go[rows] * keep.scale
                gv.addmm_((p * kept).to(g.dtype).T, g)
                # d softmax: ds = p * (dp - sum(dp * p)), and sum(dp * p) over a row is grad_out . out
                ds = torch.mm(g, vi.T).mul_(kept).float() if p.dtype == torch.float32 else torch.mm(g, vi.T).mul_(kept)
                ds -= (go[rows] * oi[rows]).sum(1, keepdim=True)
                ds = ds.mul_(p).mul_(scale).to(qi.dtype)
                torch.mm(ds, ki, out=gq[rows])
                gk.addmm_(ds.T, qi[rows])
        return grad_q, grad_k, grad_v, None


def _weights(q: Tensor, k: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) of (R, d) and (T, d): (R, T), in float32 at least."""
    scores = torch.mm(q * q.shape[-1] ** -0.5, k.T)
    return torch.softmax(scores, dim=1, dtype=torch.promote_types(q.dtype, torch.float32))


def _slices(*tensors: Tensor):
    """The (T, d) matrices of every (batch, head), contiguous where the tensor is."""
    return zip(*(t.flatten(0, 1) for t in tensors), strict=True)


def _row_blocks(rows: int) -> list[slice]:
    return [slice(start, min(start + _ROWS, rows)) for start in range(0, rows, _ROWS)]
