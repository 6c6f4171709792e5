"""Scaled dot-product attention whose memory stays flat in the number of tokens, with dropout, on GPUs and CPUs.

PyTorch's fused kernels do this on GPUs; on CPUs they do it without dropout only. With dropout PyTorch's CPU path stores the
whole tokens x tokens matrix (2.9 GB for EDAM's 20 classes x 2 heads x 4232^2, several times over). `_RowAttention` is for that
case, and for bfloat16 on CPUs, where the fused kernel is no faster than in float32.
"""

import itertools
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from network.dropout import KeepBits

# Bytes of scores per key in one block of rows: 128 rows in float32, 256 in bfloat16. With 4232 keys a block is 2 MB, which stays
# in the cache.
_BYTES_PER_KEY = 512


def attention(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    """softmax(q k^T / sqrt(d)) with dropout on the weights, times v.

    Args:
        q, k, v: (B, heads, T, d) float.
        dropout: probability of dropping an attention weight; 0 outside training.

    Returns:
        (B, heads, T, d), like q.
    """
    if q.device.type == "cpu" and (dropout > 0 or q.dtype == torch.bfloat16):
        with torch.autocast("cpu", enabled=False):
            if q.dtype == torch.float16:  # its range is too small for gradients of scores
                return _RowAttention.apply(q.float(), k.float(), v.float(), dropout).half()
            return _RowAttention.apply(q, k, v, dropout)
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)


class _RowAttention(torch.autograd.Function):
    """One (batch, head) and a few rows at a time; backward computes the weights again instead of keeping them.

    Scores, weights and products are rounded to the inputs' type; the gradients of k and v, sums over all blocks of rows, are
    summed in float32 at least.
    """

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
        ctx.seed = int(torch.randint(2**62, ())) if dropout else 0
        ctx.dropout = dropout
        out = torch.empty_like(v, memory_format=torch.contiguous_format)
        scratch = _scratch(q, k, 3)
        for i, (qi, ki, vi, oi) in enumerate(_matrices(q, k, v, out)):
            keep = KeepBits(ctx.seed + i, dropout)
            scaled = vi * keep.scale
            for rows in _row_blocks(qi):
                scores, weights, kept = (buffer[: rows.stop - rows.start] for buffer in scratch)
                _weights(qi[rows], ki, scores, weights)
                if dropout:
                    weights *= keep.draw(kept)
                torch.mm(weights, scaled, out=oi[rows])
        ctx.save_for_backward(q, k, v, out)
        return out

    @staticmethod
    def backward(ctx, grad_out: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, out = ctx.saved_tensors
        exact = torch.promote_types(q.dtype, torch.float32)
        grads = [torch.empty_like(t, memory_format=torch.contiguous_format) for t in (q, k, v)]
        scale = q.shape[-1] ** -0.5
        scratch = _scratch(q, k, 3)
        for i, (qi, ki, vi, oi, go, gq, gk, gv) in enumerate(_matrices(q, k, v, out, grad_out, *grads)):
            keep = KeepBits(ctx.seed + i, ctx.dropout)
            kept_go = go * keep.scale
            # Over a row, sum(grad_weights * weights) is grad_out . out
            mean = (go.to(exact) * oi).sum(1, keepdim=True)
            k_sum, v_sum = torch.zeros_like(ki, dtype=exact), torch.zeros_like(vi, dtype=exact)
            for rows in _row_blocks(qi):
                grad_scores, weights, kept = (buffer[: rows.stop - rows.start] for buffer in scratch)
                _weights(qi[rows], ki, grad_scores, weights)
                torch.mm(kept_go[rows], vi.T, out=grad_scores)
                if ctx.dropout:
                    grad_scores.mul_(keep.draw(kept))
                grad_scores.sub_(mean[rows]).mul_(weights).mul_(scale)
                if ctx.dropout:
                    weights.mul_(kept)
                _add_product(v_sum, weights.T, kept_go[rows])
                torch.mm(grad_scores, ki, out=gq[rows])
                _add_product(k_sum, grad_scores.T, qi[rows])
            gk.copy_(k_sum)
            gv.copy_(v_sum)
        return grads[0], grads[1], grads[2], None


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a b, in place."""
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    else:
        total += torch.mm(a, b)


def _weights(q: Tensor, k: Tensor, scores: Tensor, out: Tensor) -> None:
    """softmax(q k^T / sqrt(d)) of (R, d) and (T, d) into `out` (R, T). `scores` (R, T) is overwritten."""
    torch.mm(q * q.shape[-1] ** -0.5, k.T, out=scores)
    torch.softmax(scores, dim=1, out=out)


def _scratch(q: Tensor, k: Tensor, count: int) -> list[Tensor]:
    """Memory for the scores of a block of rows, `count` times: taken anew for each block it costs as much as the work in it."""
    rows = _row_blocks(q[0, 0])[0]
    return [q.new_empty(rows.stop, k.shape[2]) for _ in range(count)]


def _matrices(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The (T, d) matrices of every batch index and head, as views."""
    batch, heads = tensors[0].shape[:2]
    for b, head in itertools.product(range(batch), range(heads)):
        yield tuple(tensor[b, head] for tensor in tensors)


def _row_blocks(q: Tensor) -> list[slice]:
    """Blocks of as many rows of q (T, d) as its type allows."""
    step = _BYTES_PER_KEY // q.element_size()
    return [slice(start, min(start + step, len(q))) for start in range(0, len(q), step)]
