"""Scaled dot-product attention whose memory stays flat in the number of tokens, with dropout, on GPUs and CPUs.

PyTorch's fused kernels do this on GPUs; on CPUs they do it without dropout only. With dropout PyTorch's CPU path stores the
whole tokens x tokens matrix (2.9 GB for EDAM's 20 classes x 2 heads x 4232^2, several times over), so that case has a path
here.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from network.dropout import KeepBits

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
        exact = torch.promote_types(q.dtype, torch.float32)
        with torch.autocast("cpu", enabled=False):
            return _DropoutAttention.apply(q.to(exact), k.to(exact), v.to(exact), dropout).to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)


class _DropoutAttention(torch.autograd.Function):
    """One (batch, head) and a few rows at a time; backward computes the weights again instead of keeping them."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
        ctx.seed = int(torch.randint(2**62, ()))
        ctx.dropout = dropout
        out = torch.empty_like(v, memory_format=torch.contiguous_format)
        for i, (qi, ki, vi, oi) in enumerate(_matrices(q, k, v, out)):
            keep = KeepBits(ctx.seed + i, dropout)
            scaled = vi * keep.scale
            for rows in _row_blocks(len(qi)):
                weights = _weights(qi[rows], ki)
                weights *= keep.draw(*weights.shape)
                torch.mm(weights, scaled, out=oi[rows])
        ctx.save_for_backward(q, k, v, out)
        return out

    @staticmethod
    def backward(ctx, grad_out: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, out = ctx.saved_tensors
        grads = [torch.zeros_like(t, memory_format=torch.contiguous_format) for t in (q, k, v)]
        scale = q.shape[-1] ** -0.5
        for i, (qi, ki, vi, oi, go, gq, gk, gv) in enumerate(_matrices(q, k, v, out, grad_out, *grads)):
            keep = KeepBits(ctx.seed + i, ctx.dropout)
            kept_go = go * keep.scale
            # Over a row, sum(grad_weights * weights) is grad_out . out
            mean = (go * oi).sum(1, keepdim=True)
            for rows in _row_blocks(len(qi)):
                weights = _weights(qi[rows], ki)
                kept = keep.draw(*weights.shape)
                grad_scores = torch.mm(kept_go[rows], vi.T).mul_(kept).sub_(mean[rows]).mul_(weights).mul_(scale)
                gv.addmm_(weights.mul_(kept).T, kept_go[rows])
                torch.mm(grad_scores, ki, out=gq[rows])
                gk.addmm_(grad_scores.T, qi[rows])
        return *grads, None


def _weights(q: Tensor, k: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) of (R, d) and (T, d): (R, T)."""
    return torch.softmax(torch.mm(q * q.shape[-1] ** -0.5, k.T), dim=1)


def _matrices(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The (T, d) matrices of every batch index and head: views of those tensors that are contiguous."""
    return zip(*(tensor.flatten(0, 1) for tensor in tensors), strict=True)


def _row_blocks(rows: int) -> list[slice]:
    return [slice(start, min(start + _ROWS, rows)) for start in range(0, rows, _ROWS)]
