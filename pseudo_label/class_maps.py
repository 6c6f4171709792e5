"""Multi-scale class maps of a photo (section 4.1 of the paper), and pictures for TensorBoard."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from pseudo_label.visualise import heat
from tool.precision import evaluating, input_form
from voc12.images import load_photo

SCALES = (1.0, 0.5, 1.5, 2.0)


@torch.inference_mode()
def class_maps(
    net: Any, views: Sequence[Tensor], classes: Sequence[int], size: tuple[int, int], device: torch.device
) -> Tensor:
    """Return the class maps of one photo: masks of all views and their mirror images, upsampled, summed, divided by each maximum.

    Args:
        net: in eval mode on `device`. `forward_cam`: images (N, 3, h, w), normalised as `net.input` says
            -> masks (N, classes + 1, h', w') in 0..1, background last.
        views: the photo at several scales, uint8 (h, w, 3).
        classes: the n classes to return, from 0.
        size: (H, W) of the maps.

    Returns:
        float32 (n, H, W) in 0..1, on `device`.
    """
    total = torch.zeros(len(classes), *size, device=device)
    if not classes:
        return total
    for view in views:
        image = net.input.normalise(view.to(device))
        pair = input_form(torch.stack([image, image.flip(-1)]))
        # On a CPU one after the other: as fast, in two thirds of the memory.
        parts = pair.split(1) if device.type == "cpu" else [pair]
        masks = torch.cat([net.forward_cam(part)[:, list(classes)] for part in parts]).float()  # (2, n, h, w)
        # Bilinear upsampling commutes with mirroring, so mirror back and add while the masks are small.
        masks = masks[0] + masks[1].flip(-1)
        total += F.interpolate(masks[None], size, mode="bilinear", align_corners=False)[0]
    return total / total.amax(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(total.dtype).tiny)


def class_map_pictures(net: Any, photos: Sequence[tuple[Path, list[int]]]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, picture) of each photo, given as (path, classes): photo and its class maps at scale 1."""
    device = next(net.parameters()).device
    with evaluating(net):
        for path, classes in photos:
            photo = load_photo(path)
            maps = class_maps(net, views(photo, (1.0,)), classes, photo.size[::-1], device).cpu().numpy()
            pictures = [np.array(photo), *(heat(np.array(photo), class_map) for class_map in maps)]
            yield f"Class_maps/{path.stem}", np.hstack(pictures)


def views(photo: Image.Image, scales: tuple[float, ...] = SCALES) -> list[Tensor]:
    """Return the photo at each scale, bicubic, sizes rounded: uint8 (h, w, 3) tensors."""
    sizes = ([max(1, round(side * scale)) for side in photo.size] for scale in scales)
    return [torch.from_numpy(np.array(photo.resize(size, Image.Resampling.BICUBIC))) for size in sizes]
