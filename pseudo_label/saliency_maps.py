"""Saliency maps of PoolNet for photos of any size, and pictures for TensorBoard."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import expit
from torch import Tensor, nn

from tool.precision import evaluating, input_form
from voc12.data import ShuffledPhotos


@torch.inference_mode()
def saliency_logits(net: Any, photo: Tensor, device: torch.device) -> Tensor:
    """Return the saliency logits, float32 (H, W), of a photo, uint8 RGB (H, W, 3); `net` is in eval mode on `device`.

    A photo with a side below `net.smallest_side` is enlarged, and its logits are reduced again.
    """
    picture = input_form(net.input.normalise(photo.to(device))[None])
    size, factor = picture.shape[2:], enlargement(net, photo.shape)
    if factor > 1:
        larger = [max(net.smallest_side, round(side * factor)) for side in size]
        picture = F.interpolate(picture, larger, mode="bilinear", align_corners=False)
    logits = net(picture).float()
    return F.interpolate(logits, size, mode="bilinear", align_corners=False)[0, 0] if factor > 1 else logits[0, 0]


def enlargement(net: Any, shape: tuple[int, ...]) -> float:
    """Return the factor by which a photo of this shape, (H, W, 3), is enlarged: above 1 if a side is too short for the network."""
    return max(1.0, net.smallest_side / min(shape[:2]))


def grey_map(logits: np.ndarray) -> np.ndarray:
    """Return 255 times the sigmoid of float logits (H, W), rounded half to even, uint8."""
    return np.rint(255 * expit(logits.astype(np.float64))).astype(np.uint8)


def saliency_pictures(net: nn.Module, data: ShuffledPhotos) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, picture) of the first four photos: photo, mask, and the network's saliency map."""
    device = next(net.parameters()).device
    with evaluating(net):
        for image_id in data.ids[:4]:
            photo, mask = data.load(image_id)
            predicted = grey_map(saliency_logits(net, torch.from_numpy(photo), device).cpu().numpy())
            greys = [np.rint(255 * mask.clip(0)).astype(np.uint8), predicted]
            yield f"Saliency/{image_id}", np.hstack([photo, *(np.dstack([grey] * 3) for grey in greys)])
