"""Scaled dot-product attention whose memory stays flat in the number of tokens, with dropout, on GPUs and CPUs.

PyTorch's fused kernels do this on GPUs; on CPUs they do it without dropout only. With dropout PyTorch's CPU path stores the
whole tokens x tokens matrix (2.9 GB for EDAM's 20 classes x 2 heads x 4232^2, several times over). `_TileAttention` is for that
case, and for bfloat16 on CPUs, where the fused kernel is no faster than in float32.
"""

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from network.dropout import KeepBits

# Rows and columns of a tile of scores, about: a megabyte in float32. Three of them nearly stay in the cache, and the matrix
# products are as fast as large ones.
_TILE = 512
# As long as no score is larger, exponentials are taken of the scores as they are: gradients over their sums stay in float32's range.
_LARGEST = 40.0


def attention(
    q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0, kept: list[tuple[Tensor, ...]] | None = None
) -> Tensor:
    """softmax(q k^T / sqrt(d)) with dropout on the weights, times v.

    Args:
        q, k, v: (B, heads, T, d) float.
        dropout: probability of dropping an attention weight; 0 outside training.
        kept: a list that is empty the first time, for a function that backward calls again (`torch.utils.checkpoint`). With
            `computes_by_tiles` the second call takes the results out of it in place of computing them.

    Returns:
        (B, heads, T, d), like q.
    """
    if computes_by_tiles(q, dropout):
        with torch.autocast("cpu", enabled=False):
            if q.dtype == torch.float16:  # its range is too small for gradients of scores
                return _TileAttention.apply(q.float(), k.float(), v.float(), dropout, kept).half()
            return _TileAttention.apply(q, k, v, dropout, kept)
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)


def computes_by_tiles(x: Tensor, dropout: float) -> bool:
    """Whether `attention` does, of tensors of this type and device: PyTorch's own kernels are faster at the rest."""
    return x.device.type == "cpu" and (dropout > 0 or x.dtype == torch.bfloat16)


class _TileAttention(torch.autograd.Function):
    """One (batch, head) and one tile of its scores at a time; backward computes the weights again instead of keeping them.

    Exponentials, weights and products are rounded to the inputs' type; sums over tiles are in float32 at least.
    """

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, dropout: float, kept: list | None) -> Tensor:
        ctx.seed = int(torch.randint(2**62, ())) if dropout else 0
        ctx.dropout = dropout
        if kept:
            results = kept.pop()
        else:
            results = _attend(q, k, v, ctx.seed, dropout)
            if kept is not None:
                kept.append(tuple(t.detach() for t in results))  # without the graph, which holds this list
        ctx.save_for_backward(q, k, v, *results)
        return results[0]

    @staticmethod
    def backward(ctx, grad_out: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q, k, v, out, shifts, sums = ctx.saved_tensors
        grads = [torch.empty_like(t) for t in (q, k, v)]
        scratch = _scratch(q, k, 3)
        for i, tensors in enumerate(_matrices(q, k, v, out, shifts, sums, grad_out, *grads)):
            _matrix_backward(KeepBits(ctx.seed + i, ctx.dropout), *scratch, *tensors)
        return grads[0], grads[1], grads[2], None, None


def _attend(q: Tensor, k: Tensor, v: Tensor, seed: int, dropout: float) -> tuple[Tensor, Tensor, Tensor]:
    """The attention (B, heads, T, d); of each row what is subtracted from its scores, and the sum of their exponentials then."""
    out = torch.empty_like(v)
    shifts, sums = q.new_zeros(2, *q.shape[:3], 1, dtype=torch.promote_types(q.dtype, torch.float32))
    step, (weights, drawn) = _scratch(q, k, 2)
    for i, (qi, ki, vi, oi, shift, sum_i) in enumerate(_matrices(q, k, v, out, shifts, sums)):
        keep = KeepBits(seed + i, dropout)
        q_rows = (qi * q.shape[-1] ** -0.5).split(step)
        k_columns, v_rows = _columns(ki, step), (vi * keep.scale).split(step)
        _set_shift(q_rows, k_columns, weights, shift)
        rows = q_rows, oi.split(step), _parts(shift, step), sum_i.split(step)
        for q_, o_, shift_, sum_ in zip(*rows, strict=True):
            total = torch.zeros(o_.shape, dtype=sums.dtype)
            for k_, v_ in zip(k_columns, v_rows, strict=True):
                w = _exponentials(q_, k_, shift_, weights)
                sum_ += w.sum(1, keepdim=True, dtype=sums.dtype)
                if dropout:
                    w *= keep.draw(_tile(drawn, *w.shape))
                _add_product(total, w, v_)
            o_.copy_(total.div_(sum_))
    return out, shifts, sums


def _matrix_backward(
    keep: KeepBits,
    step: int,
    scratch: Sequence[Tensor],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    shift: Tensor,
    sums: Tensor,
    grad: Tensor,
    grad_q: Tensor,
    grad_k: Tensor,
    grad_v: Tensor,
) -> None:
    """Fill the gradients of q, k and v, all (T, d), of one batch index and head; shift and sums are (T, 1)."""
    exact, scale = sums.dtype, q.shape[1] ** -0.5
    grad = grad / sums  # so that exponentials take the place of weights
    mean = (grad * out).sum(1, keepdim=True)  # over a row, sum(grad_weights * weights) is grad_out . out
    grad = (grad * keep.scale).to(q.dtype)
    q = q * scale
    weights, products, decisions = scratch
    columns = [(k * scale).split(step), _columns(k, step), _columns(v, step)]
    columns += [[torch.zeros(part.shape, dtype=exact) for part in columns[1]] for _ in range(2)]  # gradients of k and v
    rows = q.split(step), grad.split(step), mean.split(step), _parts(shift, step), grad_q.split(step)
    for q_, g_, mean_, shift_, grad_q_, qt, gt in zip(*rows, _columns(q, step), _columns(grad, step), strict=True):
        total = torch.zeros(grad_q_.shape, dtype=exact)
        for k_, kt, vt, grad_kt, grad_vt in zip(*columns, strict=True):
            w = _exponentials(q_, kt, shift_, weights)
            grad_scores = torch.mm(g_, vt, out=_tile(products, *w.shape))
            if keep.dropped:
                drawn = keep.draw(_tile(decisions, *w.shape))
                grad_scores *= drawn
            grad_scores.sub_(mean_).mul_(w)
            if keep.dropped:
                w *= drawn
            _add_product(grad_vt, gt, w)
            _add_product(total, grad_scores, k_)
            _add_product(grad_kt, qt, grad_scores)
        grad_q_.copy_(total)
    grad_k.copy_(torch.cat(columns[3], 1).T)
    grad_v.copy_(torch.cat(columns[4], 1).T)


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a b, in place."""
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    else:
        total += torch.mm(a, b)


def _exponentials(q: Tensor, k: Tensor, shift: Tensor | None, buffer: Tensor) -> Tensor:
    """exp(q k - shift) of (R, d), (d, C) and (R, 1), in `buffer`."""
    out = torch.mm(q, k, out=_tile(buffer, len(q), k.shape[1]))
    if shift is not None:
        out -= shift
    return out.exp_()


def _set_shift(q_rows: Sequence[Tensor], k_columns: Sequence[Tensor], buffer: Tensor, out: Tensor) -> None:
    """Set `out` (T, 1) to the largest score of each row, unless all scores are small: |q . k| <= |q| |k|."""
    bound = max(float(q.norm(dim=1).max()) for q in q_rows) * max(float(k.norm(dim=0).max()) for k in k_columns)
    if not bound <= _LARGEST:
        for q_, out_ in zip(q_rows, out.split(len(q_rows[0])), strict=True):
            scores = (torch.mm(q_, k_, out=_tile(buffer, len(q_), k_.shape[1])) for k_ in k_columns)
            out_.copy_(torch.cat([part.amax(1, keepdim=True) for part in scores], 1).amax(1, keepdim=True))


def _parts(shift: Tensor, step: int) -> Sequence[Tensor | None]:
    """Of each block of rows, None where nothing is subtracted."""
    parts = shift.split(step)
    return parts if shift.any() else [None] * len(parts)


def _columns(x: Tensor, step: int) -> list[Tensor]:
    """x^T of (T, d) in blocks of `step` columns, each contiguous."""
    return [part.T.contiguous() for part in x.split(step)]


def _scratch(q: Tensor, k: Tensor, count: int) -> tuple[int, list[Tensor]]:
    """Rows and columns of a tile, and memory for `count` of them: taken anew for each tile it costs as much as the work in it."""
    tokens = max(q.shape[2], k.shape[2])
    step = math.ceil(tokens / max(1, round(tokens / _TILE)))
    return step, [q.new_empty(step * step) for _ in range(count)]


def _tile(buffer: Tensor, rows: int, columns: int) -> Tensor:
    return buffer[: rows * columns].view(rows, columns)


def _matrices(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The (T, d) matrices of every batch index and head, as views."""
    batch, heads = tensors[0].shape[:2]
    for b, head in itertools.product(range(batch), range(heads)):
        yield tuple(tensor[b, head] for tensor in tensors)
