"""Label probabilities of a segmentation network at the photo's size, and pictures for TensorBoard."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pseudo_label.visualise import overlay
from tool import VOID
from tool.precision import evaluating, input_form
from voc12.data import LabelledPhotos


@torch.inference_mode()
def probabilities(net: Any, photo: Tensor, device: torch.device, flip: bool = False) -> Tensor:
    """Return each label's probability, float32 (labels, H, W): softmax of the logits, upsampled to the photo's size.

    `photo` is uint8 RGB (H, W, 3); `net` is in eval mode on `device`; `flip` averages over the photo and its mirror image.
    """
    picture = input_form(net.input.normalise(photo.to(device))[None])
    size = tuple(photo.shape[:2])
    total = _softmax(net(picture), size)
    if flip:
        total = (total + _softmax(net(picture.flip(-1)), size).flip(-1)) / 2
    return total


def _softmax(logits: Tensor, size: tuple[int, ...]) -> Tensor:
    return F.interpolate(logits.float(), size, mode="bilinear", align_corners=False)[0].softmax(0)


def label_pictures(net: nn.Module, data: LabelledPhotos, palette: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, picture) of the first four photos: photo, its labels over it, and the network's labels over it."""
    device = next(net.parameters()).device
    with evaluating(net):
        for image_id in data.ids[:4]:
            photo, label = data.load(image_id)
            predicted = probabilities(net, torch.from_numpy(photo), device).argmax(0).cpu().numpy()
            pictures = [overlay(photo, each, palette) for each in (np.where(label == VOID, 0, label), predicted)]
            yield f"Labels/{image_id}", np.hstack([photo, *pictures])
