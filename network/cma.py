"""CMA, the Collaborative Multi-Attention of EDAM (Wu et al., CVPR 2021, section 3.3), for several classes and all pairs at once.

Each class has its own transformer block. The modules hold its parameters, named as in the published checkpoints; the functions stack
them over the classes and compute all blocks in batches: x is (C, N, D) with C classes and N = pairs x 2 x tokens of an image.
"""

import math
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from network.attention import attention

_KEPT = 30  # activations that a block keeps for the backward pass, in multiples of its input
_RECOMPUTE_ABOVE = 2**20  # numbers in a block's input; below it keeping them is faster


def fits_gpu(numbers: int, device: torch.device) -> bool:
    """Return whether a GPU's free memory is over twice what blocks' activations need for an input of `numbers` elements."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return False
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + cached > 2 * _KEPT * 4 * numbers


def sinusoidal_encoding(length: int, dim: int) -> Tensor:
    """Return the position encoding (length, dim): sine on even, cosine on odd channels (Vaswani et al., 2017, section 3.5)."""
    position = torch.arange(length, dtype=torch.float32)[:, None]
    angle = position * torch.exp(torch.arange(0, dim, 2, dtype=torch.float32) * -(math.log(10000.0) / dim))
    return torch.stack([angle.sin(), angle.cos()], 2).flatten(1)


class PairEmbedding(nn.Module):
    """Sum of each token, the encoding of its position and the embedding of its image's index in the pair; with dropout."""

    def __init__(self, length: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.position = nn.Module()
        self.position.register_buffer("pe", sinusoidal_encoding(length, dim)[None])
        self.segment = nn.Embedding(5, dim)  # five rows as published; a pair uses the first two
        self.dropout = nn.Dropout(dropout)

    def encoding(self, length: int) -> Tensor:
        """Return the encoding of the first positions, (length, dim); beyond the fixed table it is computed."""
        table = cast(Tensor, self.position.pe)[0]
        return table[:length] if length <= len(table) else sinusoidal_encoding(length, table.shape[1]).to(table)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the embedded tokens, in the shape of `tokens` (C, P, 2, T, D)."""
        images, length = tokens.shape[2:4]
        encoding = self.encoding(length) + self.segment.weight[:images, None]  # (2, T, D)
        return self.dropout(tokens + encoding)


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


class CMADropout(nn.Module):
    """Dropout layers of the transformer blocks, shared by the classes."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.attention = nn.Dropout(dropout)  # on the attention weights
        self.activation = nn.Dropout(dropout)  # in the feed-forward network
        self.residual = nn.Dropout(dropout)  # on each residual branch
        self.output = nn.Dropout(dropout)  # on the block's output


def transformer_blocks(
    x: Tensor, pairs: int, blocks: list[TransformerBlock], heads: int, dropout: CMADropout, keep: bool
) -> Tensor:
    """Apply the transformer block of each class, with joint attention over the tokens of both images of a pair.

    Tokens x and the result are (C, N, D), N = pairs x T tokens a pair; blocks are the C classes' parameters.
    With `keep`, activations are not recomputed in the backward pass where x is large.
    """
    again = not keep and x.numel() > _RECOMPUTE_ABOVE
    q, k, v = call(again, _projections, x, pairs, blocks, heads)
    attended = attention(q, k, v, dropout.attention.p if dropout.training else 0.0)
    return call(again, _after_attention, x, attended, blocks, dropout)


def call(recompute: bool, function: Callable, *inputs: Any) -> Any:
    """Return function(*inputs). With `recompute`, backward computes its activations again instead of keeping them."""
    return checkpoint(function, *inputs, use_reentrant=False) if recompute else function(*inputs)


def _projections(x: Tensor, pairs: int, blocks: list[TransformerBlock], heads: int) -> tuple[Tensor, ...]:
    """Return queries, keys and values, (C * P, heads, T, D / heads) each, of tokens x (C, N, D)."""
    classes, tokens, dim = x.shape
    y = norm(x, [block.input_sublayer["norm"] for block in blocks])
    return tuple(
        linear(y, [cast(nn.ModuleList, block.attention["linear_layers"])[i] for block in blocks])
        .view(classes * pairs, tokens // pairs, heads, dim // heads)
        .transpose(1, 2)
        for i in range(3)
    )


def _after_attention(x: Tensor, attended: Tensor, blocks: list[TransformerBlock], dropout: CMADropout) -> Tensor:
    """Return the block's output (C, N, D), of its input x (C, N, D) and the attention's output (C * P, heads, T, D / heads)."""
    y = linear(attended.transpose(1, 2).reshape(x.shape), [block.attention["output_linear"] for block in blocks])
    x = x + dropout.residual(y)
    y = norm(x, [block.output_sublayer["norm"] for block in blocks])
    y = linear(y, [block.feed_forward["w_1"] for block in blocks])  # (C, N, hidden)
    y = dropout.activation(F.gelu(y, approximate="tanh"))
    x = x + dropout.residual(linear(y, [block.feed_forward["w_2"] for block in blocks]))
    return dropout.output(x)


def norm(x: Tensor, layers: list[Any]) -> Tensor:
    """Apply to each class of x (C, N, D) its own norm."""
    a, b = torch.stack([layer.a_2 for layer in layers]), torch.stack([layer.b_2 for layer in layers])
    return _Standardise.apply(x, 1e-6) * a[:, None] + b[:, None]


def linear(x: Tensor, layers: list[Any]) -> Tensor:
    """Apply to each class of x (C, N, in) its own layer: (C, N, out)."""
    weight, bias = torch.stack([layer.weight for layer in layers]), torch.stack([layer.bias for layer in layers])
    return torch.baddbmm(bias[:, None], x, weight.mT)  # (C, N, in) x (C, in, out)


class _Standardise(torch.autograd.Function):
    """(x - mean) / (std + eps) over the last dimension, with the unbiased standard deviation.

    It keeps its output and one number a token; autograd would keep three copies of x.
    """

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
