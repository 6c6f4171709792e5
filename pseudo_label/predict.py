"""Predictions for one photo: class maps (section 4.1 of the paper), label probabilities, saliency; and pictures for TensorBoard."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.special import expit
from torch import Tensor, nn

from pseudo_label.visualise import heat, overlay
from tool import VOID
from tool.precision import evaluating, input_form
from voc12.data import LabelledPhotos, ShuffledPhotos
from voc12.images import load_photo

SCALES = (1.0, 0.5, 1.5, 2.0)


def views(photo: Image.Image, scales: tuple[float, ...] = SCALES) -> list[Tensor]:
    """Return the photo at each scale, bicubic, sizes rounded: uint8 (h, w, 3) tensors."""
    sizes = ([max(1, round(side * scale)) for side in photo.size] for scale in scales)
    return [torch.from_numpy(np.array(photo.resize(size, Image.Resampling.BICUBIC))) for size in sizes]


@torch.inference_mode()
def class_maps(
    net: Any, views: Sequence[Tensor], classes: Sequence[int], size: tuple[int, int], device: torch.device
) -> Tensor:
    """Return class maps, float32 (n, H, W) in 0..1: all views' and mirror images' masks, upsampled, summed, divided by each maximum.

    `net` is in eval mode on `device`; its `forward_cam` takes images (N, 3, h, w), normalised as `net.input` says, and returns
    masks (N, classes + 1, h', w') in 0..1, background last. `views` are the photo at several scales, uint8 (h, w, 3),
    `classes` the n classes to return, from 0, `size` is (H, W).
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


@torch.inference_mode()
def probabilities(net: Any, photo: Tensor, device: torch.device, flip: bool = False) -> Tensor:
    """Return each label's probability, float32 (labels, H, W): softmax of the logits, upsampled to the photo's size.

    `photo` is uint8 RGB (H, W, 3); `net` is in eval mode on `device`; `flip` averages over the photo and its mirror image.
    """
    picture = input_form(net.input.normalise(photo.to(device))[None])
    views = [picture, picture.flip(-1)] if flip else [picture]
    logits = [net(view).float() for view in views]
    found = [
        F.interpolate(each, photo.shape[:2], mode="bilinear", align_corners=False)[0].softmax(0) for each in logits
    ]
    return (found[0] + found[1].flip(-1)) / 2 if flip else found[0]


def label_pictures(net: nn.Module, data: LabelledPhotos, palette: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, picture) of the first four photos: photo, its labels over it, and the network's labels over it."""
    device = next(net.parameters()).device
    with evaluating(net):
        for image_id in data.ids[:4]:
            photo, label = data.load(image_id)
            predicted = probabilities(net, torch.from_numpy(photo), device).argmax(0).cpu().numpy()
            pictures = [overlay(photo, each, palette) for each in (np.where(label == VOID, 0, label), predicted)]
            yield f"Labels/{image_id}", np.hstack([photo, *pictures])


@torch.inference_mode()
def saliency_logits(net: Any, photo: Tensor, device: torch.device) -> Tensor:
    """Return the saliency logits, float32 (H, W), of a photo, uint8 RGB (H, W, 3), enlarged to `net.smallest_side` if smaller."""
    picture = input_form(net.input.normalise(photo.to(device))[None])
    size = picture.shape[2:]
    factor = net.smallest_side / min(size)
    if factor <= 1:
        return net(picture).float()[0, 0]
    larger = [max(net.smallest_side, round(side * factor)) for side in size]
    logits = net(F.interpolate(picture, larger, mode="bilinear", align_corners=False)).float()
    return F.interpolate(logits, size, mode="bilinear", align_corners=False)[0, 0]


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
