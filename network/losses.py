"""Losses of DeepLab-v2 and PoolNet, pure functions on tensors. EDAM's is torch's binary cross-entropy with logits."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tool import VOID, distributed
from tool.image_ops import resize_labels


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy over the pixels that are not void; 0 if there are none.

    Logits are (N, labels, h, w), labels (N, h, w), 255 where void. Under torchrun the mean is over the pixels of all ranks,
    and this rank's share of it is returned.
    """
    count = distributed.all_reduce_sum((labels != VOID).sum()).clamp_min(1)
    return F.cross_entropy(logits, labels.long(), ignore_index=VOID, reduction="sum") / count


def balanced_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean of background's and foreground's mean cross-entropy, the loss of AdvCAM, RIB and CLIP-ES for DeepLab-v2."""
    background = cross_entropy(logits, labels.masked_fill(labels != 0, VOID))
    foreground = cross_entropy(logits, labels.masked_fill(labels == 0, VOID))
    return (background + foreground) / 2


def multi_scale_loss(logits: Sequence[Tensor], labels: Tensor, balanced: bool = False) -> Tensor:
    """Return the sum of the (balanced) cross-entropies of several maps of logits, each against the labels resized to it.

    Logits are (N, labels, h, w) each, as `deeplab_v2.Net` returns in training; labels (N, H, W), 255 where void.
    """
    loss = balanced_cross_entropy if balanced else cross_entropy
    return torch.stack([loss(map_, resize_labels(labels, map_.shape[2:])) for map_ in logits]).sum()


def saliency_loss(logits: Tensor, masks: Tensor, photos: int) -> Tensor:
    """Return PoolNet's loss: binary cross-entropy, summed over pixels, divided by the photos of a step.

    Logits are (N, 1, H, W), masks alike, in 0..1; pixels with a negative value are ignored.
    """
    known = (masks >= 0).to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, masks.clamp_min(0), known, reduction="sum") / photos
