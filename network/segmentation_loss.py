"""The losses of DeepLab-v2, on tensors."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tool import VOID, distributed
from tool.image_ops import resize_labels


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of logits (N, labels, h, w) over the pixels of labels (N, h, w) that are not 255; 0 where there is none.

    Under torchrun the mean is over the pixels of all processes, and this one's share of it is returned.
    """
    count = distributed.all_reduce_sum((labels != VOID).sum()).clamp_min(1)
    return F.cross_entropy(logits, labels.long(), ignore_index=VOID, reduction="sum") / count


def balanced_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean of the mean over background pixels and the mean over the others: AdvCAM, RIB and CLIP-ES train DeepLab-v2 by it."""
    foreground, background = (
        cross_entropy(logits, labels.masked_fill(left_out, VOID)) for left_out in (labels == 0, labels != 0)
    )
    return (background + foreground) / 2


def multi_scale_loss(logits: Sequence[Tensor], labels: Tensor, balanced: bool = False) -> Tensor:
    """The sum of the cross-entropies of several maps of logits, each against the labels resized to it.

    Args:
        logits: (N, labels, h, w) each, of any size: what `deeplab_v2.Net` returns in training.
        labels: (N, H, W), 0 .. labels - 1, or 255 where nothing is known.
        balanced: by `balanced_cross_entropy`.
    """
    loss = balanced_cross_entropy if balanced else cross_entropy
    return torch.stack([loss(map_, resize_labels(labels, map_.shape[2:])) for map_ in logits]).sum()
