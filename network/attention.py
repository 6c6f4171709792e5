"""Scaled dot-product attention (Vaswani et al., 2017, section 3.2.1), its memory linear in the number of tokens."""

import torch
import torch.nn.functional as F
from torch import Tensor

# Attention weights in memory at a time. Larger blocks are a little faster.
BLOCK = 2**23


def attention(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    """Return softmax(q k^T / sqrt(d)) v, with dropout on the softmax's output. All are (B, heads, T, d).

    PyTorch's fused kernels compute it on GPUs. On CPUs they have no dropout, and are slow in bfloat16.
    """
    if q.device.type != "cpu" or (dropout == 0 and q.dtype != torch.bfloat16):
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
    batch, dtype = q.shape[:2], q.dtype
    inputs = [x.flatten(0, 1) for x in (q * q.shape[-1] ** -0.5, k, v)]  # (B * heads, T, d)
    if dtype == torch.float16:  # gradients of scores overflow in it
        inputs = [x.float() for x in inputs]
    with torch.autocast("cpu", enabled=False):
        return _BlockAttention.apply(*inputs, dropout).unflatten(0, batch).to(dtype)


class _BlockAttention(torch.autograd.Function):
    """softmax(q k^T) v in blocks of rows, whose weights W the backward pass recomputes, and whose dropout it draws again."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
        ctx.dropout, ctx.seed = dropout, int(torch.randint(2**62, ())) if dropout else 0
        generator = torch.Generator().manual_seed(ctx.seed)
        out = torch.empty_like(v)
        for q_rows, out_rows in zip(*_rows(k, q, out), strict=True):
            weights = torch.softmax(q_rows @ k.mT, dim=-1)  # (N, R, T)
            if dropout:
                weights *= _dropout_mask(weights, dropout, generator)
            out_rows.copy_(weights @ v)
        ctx.save_for_backward(q, k, v, out)
        return out

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, out = ctx.saved_tensors
        generator = torch.Generator().manual_seed(ctx.seed)
        grad_q = torch.empty_like(q)
        grad_k, grad_v = (torch.zeros_like(x, dtype=torch.promote_types(x.dtype, torch.float32)) for x in (k, v))
        # With M the dropout's mask: dW = M * (grad v^T), and the softmax's dS = W * (dW - sum(W * dW)); that sum is grad . out.
        sums = (grad * out).sum(-1, keepdim=True)
        for q_rows, grad_rows, sum_rows, grad_q_rows in zip(*_rows(k, q, grad, sums, grad_q), strict=True):
            weights = torch.softmax(q_rows @ k.mT, dim=-1)
            grad_scores = grad_rows @ v.mT
            dropped = weights
            if ctx.dropout:
                mask = _dropout_mask(weights, ctx.dropout, generator)
                grad_scores *= mask
                dropped = mask.mul_(weights)
            grad_v += dropped.mT @ grad_rows
            grad_scores.sub_(sum_rows).mul_(weights)
            grad_k += grad_scores.mT @ q_rows
            grad_q_rows.copy_(grad_scores @ k)
        return grad_q, grad_k.to(k.dtype), grad_v.to(v.dtype), None


def _rows(k: Tensor, *tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """Split each (N, T, ...) by rows; a block has at most BLOCK attention weights on k (N, T, d)."""
    rows = max(1, BLOCK // (k.shape[0] * k.shape[1]))
    return [tensor.split(rows, dim=1) for tensor in tensors]


def _dropout_mask(like: Tensor, p: float, generator: torch.Generator) -> Tensor:
    """Return 0 with probability p rounded to 2^-16, otherwise 1 / (1 - p): 16 random bits a decision, fast to draw."""
    words = torch.empty(-(-like.numel() // 4), dtype=torch.int64).random_(-(2**63), None, generator=generator)
    dropped = round(p * 2**16)
    keep = words.view(torch.int16)[: like.numel()].view(like.shape) >= min(dropped, 2**16 - 1) - 2**15
    return keep.to(like.dtype).mul_(2**16 / (2**16 - dropped) if dropped < 2**16 else 0.0)
