"""CMA, the Collaborative Multi-Attention of EDAM (Wu et al., CVPR 2021, section 3.3), for several classes and all pairs at once.

Each class has its own transformer block. The modules hold its parameters, named as in the published checkpoints; the functions stack
them over the classes and compute all blocks in batches: x is (C, N, D) with C classes and N = pairs x 2 x tokens of an image.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from network.attention import attention

_HEADS = 2
_EPS = 1e-6  # added to the standard deviation of a norm
_KEPT = 30  # activations that a block keeps for the backward pass, in multiples of its input
_RECOMPUTE_ABOVE = 2**20  # elements of its input; below, keeping activations is faster


def fits_gpu(numbers: int, device: torch.device) -> bool:
    """Return whether a GPU's free memory is over twice what blocks' activations need for an input of `numbers` elements."""
    if device.type != "cuda":
        return False
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + cached > 2 * _KEPT * 4 * numbers


def sinusoidal_encoding(length: int, dim: int) -> Tensor:
    """Return the position encoding (length, dim): sine on even, cosine on odd channels (Vaswani et al., 2017, section 3.5)."""
    position = torch.arange(length, dtype=torch.float32)[:, None]
    angle = position * torch.exp(torch.arange(0, dim, 2, dtype=torch.float32) * -(math.log(10000.0) / dim))
    return torch.stack([angle.sin(), angle.cos()], 2).flatten(1)


class PairEmbedding(nn.Module):
    """Sum of each token, the encoding of its position and the embedding of its image's index in the pair."""

    def __init__(self, length: int, dim: int) -> None:
        super().__init__()
        self.position: Any = nn.Module()
        self.position.register_buffer("pe", sinusoidal_encoding(length, dim)[None])
        self.segment = nn.Embedding(5, dim)  # five rows as published; a pair uses the first two

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the embedded tokens, in the shape of `tokens` (C, P, 2, T, D)."""
        table, (length, dim) = self.position.pe[0], tokens.shape[3:]
        if length > len(table):
            table = sinusoidal_encoding(length, dim).to(table)
        return tokens + (table[:length] + self.segment.weight[:2, None])


class TransformerBlock(nn.Module):
    """Parameters of one class's pre-norm transformer block, named as published; `transformer_blocks` computes it."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        projections = nn.ModuleList(nn.Linear(dim, dim) for _ in range(3))  # query, key, value
        self.attention = nn.ModuleDict({"linear_layers": projections, "output_linear": nn.Linear(dim, dim)})
        self.feed_forward = nn.ModuleDict({"w_1": nn.Linear(dim, hidden), "w_2": nn.Linear(hidden, dim)})
        self.input_sublayer = nn.ModuleDict({"norm": LayerNorm(dim)})
        self.output_sublayer = nn.ModuleDict({"norm": LayerNorm(dim)})


class LayerNorm(nn.Module):
    """Parameters of `a_2 * (x - mean) / (std + 1e-6) + b_2`, with the unbiased standard deviation: not nn.LayerNorm."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.a_2 = nn.Parameter(torch.ones(dim))
        self.b_2 = nn.Parameter(torch.zeros(dim))


def transformer_blocks(x: Tensor, pairs: int, blocks: list[Any], dropout: Any, keep: bool) -> Tensor:
    """Apply the transformer block of each class, with joint attention over the tokens of both images of a pair.

    Tokens x and the result are (C, N, D), N = pairs x T tokens a pair; `blocks` are the C classes' parameters, `dropout` holds
    nn.Dropout for attention and tokens. Without `keep`, the backward pass recomputes activations if x is large.
    """
    before: Callable = _projections
    after: Callable = _after_attention
    if not keep and x.numel() > _RECOMPUTE_ABOVE:
        before, after = (partial(checkpoint, function, use_reentrant=False) for function in (before, after))
    q, k, v = before(x, pairs, blocks)
    weights = dropout["attention"]
    return after(x, attention(q, k, v, weights.p if weights.training else 0.0), blocks, dropout["tokens"])


def _projections(x: Tensor, pairs: int, blocks: list[Any]) -> tuple[Tensor, ...]:
    """Return queries, keys and values, (C * P, heads, T, D / heads) each, of tokens x (C, N, D)."""
    classes, tokens, dim = x.shape
    y = norm(x, [block.input_sublayer["norm"] for block in blocks])
    return tuple(
        linear(y, [block.attention["linear_layers"][i] for block in blocks])
        .view(classes * pairs, tokens // pairs, _HEADS, dim // _HEADS)
        .transpose(1, 2)
        for i in range(3)
    )


def _after_attention(x: Tensor, attended: Tensor, blocks: list[Any], dropout: nn.Dropout) -> Tensor:
    """Return the block's output (C, N, D), of its input x (C, N, D) and the attention's output (C * P, heads, T, D / heads)."""
    y = linear(attended.transpose(1, 2).reshape(x.shape), [block.attention["output_linear"] for block in blocks])
    x = x + dropout(y)
    y = norm(x, [block.output_sublayer["norm"] for block in blocks])
    y = linear(y, [block.feed_forward["w_1"] for block in blocks])  # (C, N, hidden)
    y = dropout(F.gelu(y, approximate="tanh"))
    x = x + dropout(linear(y, [block.feed_forward["w_2"] for block in blocks]))
    return dropout(x)


def norm(x: Tensor, layers: list[Any]) -> Tensor:
    """Apply to each class of x (C, N, D) its own norm."""
    a, b = torch.stack([layer.a_2 for layer in layers]), torch.stack([layer.b_2 for layer in layers])
    return _Standardise.apply(x) * a[:, None] + b[:, None]


def linear(x: Tensor, layers: list[Any]) -> Tensor:
    """Apply to each class of x (C, N, in) its own layer: (C, N, out)."""
    weight, bias = torch.stack([layer.weight for layer in layers]), torch.stack([layer.bias for layer in layers])
    return torch.baddbmm(bias[:, None], x, weight.mT)  # (C, N, in) x (C, in, out)


class _Standardise(torch.autograd.Function):
    """(x - mean) / (std + eps) over the last dimension; keeps its output and one number a token, not three copies of x."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        y = x - x.mean(-1, keepdim=True)
        std = torch.linalg.vector_norm(y, dim=-1, keepdim=True) * (y.shape[-1] - 1) ** -0.5
        y.div_(std + _EPS)
        ctx.save_for_backward(y, std)
        return y

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        y, std = ctx.saved_tensors
        # With c = x - mean, n channels: y = c / (std + eps) and d std / d c = c / ((n - 1) std), hence
        # dc = (grad - y sum(grad y) (std + eps) / ((n - 1) std)) / (std + eps), and dx = dc - mean(dc).
        scale = std + _EPS
        along = (grad * y).sum(-1, keepdim=True) * scale / ((y.shape[-1] - 1) * std.clamp_min(_EPS**2))
        grad = (grad - y * along).div_(scale)
        return grad - grad.mean(-1, keepdim=True)
