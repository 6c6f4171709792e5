"""The losses of PoolNet. Pure, on tensors."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

PICTURES = 10  # whose gradients the published recipe adds up in a step


def saliency_loss(logits: Tensor, masks: Tensor, pictures: int = PICTURES) -> Tensor:
    """Binary cross-entropy of logits and masks (N, 1, H, W), summed over pixels, over the pictures of a step.

    Masks are in 0..1; where they are negative nothing is known, and these pixels don't count.
    """
    known = (masks >= 0).to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, masks.clamp_min(0), known, reduction="sum") / pictures


def edge_loss(logits: Iterable[Tensor], edges: Tensor, pictures: int = PICTURES) -> Tensor:
    """The sum of the balanced cross-entropies of several maps of edge logits, (N, 1, H, W) each, over the pictures of a step.

    `edges` (N, 1, H, W) is in 0..1: above 0.5 is an edge, 0 is none, and what lies between doesn't count. Edges weigh the share
    of the others, the others 1.1 times the share of the edges.
    """
    edge, other = edges > 0.5, edges == 0
    positive, negative = edge.sum(), other.sum()
    weight = (edge * negative + 1.1 * other * positive) / (positive + negative).clamp_min(1)
    target = edge.to(torch.float32)
    parts = [F.binary_cross_entropy_with_logits(map_, target, weight, reduction="sum") for map_ in logits]
    return torch.stack(parts).sum() / pictures
