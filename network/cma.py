"""CMA, the Collaborative Multi-Attention of EDAM (Wu et al., CVPR 2021, section 3.3), for several classes and all pairs at once.

Each class has a transformer block of its own. Its parameters live in modules named as in the published checkpoints; the computation
stacks them over the classes and is batched: x is (C, N, D) with C classes and N = pairs x 2 x tokens of an image.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from network.attention import attention, computes_by_tiles
from network.dropout import Dropout

# Numbers in the tokens of several classes: EDAM as published has 2.7 million at its crop, with a backbone of stride 16 and crop 256
# there are 0.2 million a pair. Few are fast rather than frugal: what is kept of them takes 30 times their memory.
_FEW = 2**20


def sinusoidal_encoding(length: int, dim: int) -> Tensor:
    """Position encoding (length, dim), base 10000: sine on even and cosine on odd channels (Vaswani et al., 2017, section 3.5)."""
    position = torch.arange(length, dtype=torch.float32)[:, None]
    frequency = torch.exp(torch.arange(0, dim, 2, dtype=torch.float32) * -(math.log(10000.0) / dim))
    encoding = torch.empty(length, dim)
    encoding[:, 0::2] = torch.sin(position * frequency)
    encoding[:, 1::2] = torch.cos(position * frequency)
    return encoding


class PositionEncoding(nn.Module):
    """The fixed table `pe` (1, length, dim); longer inputs get a table of their own."""

    pe: Tensor

    def __init__(self, length: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("pe", sinusoidal_encoding(length, dim)[None])

    def forward(self, length: int) -> Tensor:
        """(length, dim)."""
        if length <= self.pe.shape[1]:
            return self.pe[0, :length]
        return sinusoidal_encoding(length, self.pe.shape[2]).to(self.pe)


class PairEmbedding(nn.Module):
    """Adds to each token where it lies in its image and which image of the pair it comes from."""

    def __init__(self, length: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.position = PositionEncoding(length, dim)
        self.segment = nn.Embedding(5, dim)  # five rows as published; a pair uses the first two
        self.dropout = Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """(C, P, 2, T, D) -> same shape."""
        images, length = tokens.shape[2:4]
        encoding = self.position(length) + self.segment.weight[:images, None]  # (2, T, D)
        return self.dropout(tokens + encoding)


class LayerNorm(nn.Module):
    """Holds `a_2` and `b_2` of `a_2 * (x - mean) / (std + 1e-6) + b_2`, with the unbiased standard deviation: not nn.LayerNorm."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.a_2 = nn.Parameter(torch.ones(dim))
        self.b_2 = nn.Parameter(torch.zeros(dim))


class Sublayer(nn.Module):
    """Holds the norm in front of a residual branch."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = LayerNorm(dim)


class Attention(nn.Module):
    """Holds the projections of multi-head attention: query, key, value; output."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear_layers = nn.ModuleList(nn.Linear(dim, dim) for _ in range(3))
        self.output_linear = nn.Linear(dim, dim)


class FeedForward(nn.Module):
    """Holds the two layers of the feed-forward network."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.w_1 = nn.Linear(dim, hidden)
        self.w_2 = nn.Linear(hidden, dim)


class TransformerBlock(nn.Module):
    """Holds the parameters of one class's pre-norm transformer block; `transformer_blocks` computes with them."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.attention = Attention(dim)
        self.feed_forward = FeedForward(dim, hidden)
        self.input_sublayer = Sublayer(dim)
        self.output_sublayer = Sublayer(dim)


class CMADropout(nn.Module):
    """The dropouts of the transformer blocks, shared by the classes. It has no parameters."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.attention = Dropout(dropout)  # on the attention weights
        self.activation = Dropout(dropout)  # in the feed-forward network
        self.residual = Dropout(dropout)  # on each residual branch
        self.output = Dropout(dropout)  # on the block's output

    @property
    def of_weights(self) -> float:
        """The probability of dropping an attention weight; 0 outside training."""
        return self.attention.p if self.attention.training else 0.0


def transformer_blocks(
    x: Tensor,
    pairs: int,
    blocks: list[TransformerBlock],
    heads: int,
    dropout: CMADropout,
    kept: list[tuple[Tensor, ...]] | None = None,
) -> Tensor:
    """The transformer blocks of several classes, joint attention over the tokens of both images of a pair.

    For the backward pass of more than _FEW numbers only x, q, k, v and the attention's output are kept; what lies before and behind
    the attention is computed again. With `keeps_attention_alone` the caller has all of it computed again but the attention.

    Args:
        x: tokens (C, N, D), N = pairs x T tokens a pair.
        blocks: the C classes' parameters.
        kept: as for `attention`, where all of this is computed again.

    Returns:
        (C, N, D).
    """
    again = partial(checkpoint, use_reentrant=False) if x.numel() > _FEW and kept is None else _kept
    q, k, v = again(_projections, x, pairs, blocks, heads)
    attended = attention(q, k, v, dropout.of_weights, kept)
    return again(_after_attention, x, attended, blocks, dropout)


def keeps_attention_alone(numbers: int, x: Tensor, dropout: CMADropout) -> bool:
    """Whether to keep nothing but the attention's results for backward of so many numbers, of the type and on the device of x."""
    return numbers > _FEW and computes_by_tiles(x, dropout.of_weights)


def _kept(function: Callable, *inputs: Any) -> Any:
    return function(*inputs)


def _projections(x: Tensor, pairs: int, blocks: list[TransformerBlock], heads: int) -> tuple[Tensor, ...]:
    """Tokens (C, N, D) -> queries, keys and values, (C * P, heads, T, D / heads) each."""
    classes, tokens, dim = x.shape
    y = norm(x, [block.input_sublayer.norm for block in blocks])
    return tuple(
        linear(y, [cast(nn.Linear, block.attention.linear_layers[i]) for block in blocks])
        .view(classes * pairs, tokens // pairs, heads, dim // heads)
        .transpose(1, 2)
        for i in range(3)
    )


def _after_attention(x: Tensor, attended: Tensor, blocks: list[TransformerBlock], dropout: CMADropout) -> Tensor:
    """Tokens (C, N, D) and the attention's output (C * P, heads, T, D / heads) -> (C, N, D)."""
    y = linear(attended.transpose(1, 2).reshape(x.shape), [block.attention.output_linear for block in blocks])
    x = x + dropout.residual(y)
    y = norm(x, [block.output_sublayer.norm for block in blocks])
    y = linear(y, [block.feed_forward.w_1 for block in blocks])  # (C, N, hidden)
    y = dropout.activation(F.gelu(y, approximate="tanh"))
    x = x + dropout.residual(linear(y, [block.feed_forward.w_2 for block in blocks]))
    return dropout.output(x)


def norm(x: Tensor, layers: list[LayerNorm]) -> Tensor:
    """(C, N, D) -> (C, N, D), each class through its own norm."""
    a, b = torch.stack([layer.a_2 for layer in layers]), torch.stack([layer.b_2 for layer in layers])
    return standardise(x) * a[:, None] + b[:, None]


def linear(x: Tensor, layers: list[nn.Linear]) -> Tensor:
    """(C, N, in) -> (C, N, out), each class through its own layer."""
    weight, bias = torch.stack([layer.weight for layer in layers]), torch.stack([layer.bias for layer in layers])
    return torch.baddbmm(bias[:, None], x, weight.mT)  # (C, N, in) x (C, in, out)


def standardise(x: Tensor, eps: float = 1e-6) -> Tensor:
    """(x - mean) / (std + eps) over the last dimension, with the unbiased standard deviation."""
    return _Standardise.apply(x, eps)


class _Standardise(torch.autograd.Function):
    """Keeps its output and one number per token; autograd would keep three copies of x."""

    @staticmethod
    def forward(ctx, x: Tensor, eps: float) -> Tensor:
        y = x - x.mean(-1, keepdim=True)
        std = torch.linalg.vector_norm(y, dim=-1, keepdim=True) * (y.shape[-1] - 1) ** -0.5
        y.div_(std + eps)
        ctx.save_for_backward(y, std)
        ctx.eps = eps
        return y

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        y, std = ctx.saved_tensors
        # With c = x - mean, n channels: y = c / (std + eps) and d std / d c = c / ((n - 1) std), hence
        # dc = (grad - y sum(grad y) (std + eps) / ((n - 1) std)) / (std + eps), and dx = dc - mean(dc).
        scale = std + ctx.eps
        along = (grad * y).sum(-1, keepdim=True) * scale / ((y.shape[-1] - 1) * std.clamp_min(ctx.eps**2))
        grad = (grad - y * along).div_(scale)
        return grad - grad.mean(-1, keepdim=True), None
