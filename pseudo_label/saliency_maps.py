"""Saliency maps from PoolNet: logits of a photo of any size, and the maps that are written of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from pseudo_label.jobs import OutputJob
from pseudo_label.saliency import grey_map
from tool.cli import BadPhoto
from tool.files import atomic_write
from tool.precision import evaluating
from voc12.saliency import MaskedPhotos


@torch.inference_mode()
def saliency_logits(net: Any, photo: Tensor, device: torch.device) -> Tensor:
    """Saliency logits of a photo, uint8 RGB (H, W, 3): float32 (H, W), on `device`.

    net: a PoolNet in eval mode on `device`. A photo with a side below `net.smallest_side` is enlarged, and its logits reduced again.
    """
    picture = net.input.normalise(photo.to(device))[None].contiguous(memory_format=torch.channels_last)
    size, factor = picture.shape[2:], enlargement(net, photo.shape)
    if factor > 1:
        larger = [max(net.smallest_side, round(side * factor)) for side in size]
        picture = F.interpolate(picture, larger, mode="bilinear", align_corners=False)
    logits = net(picture).float()
    return F.interpolate(logits, size, mode="bilinear", align_corners=False)[0, 0] if factor > 1 else logits[0, 0]


def enlargement(net: Any, shape: tuple[int, ...]) -> float:
    """The factor by which a photo (H, W, 3) is enlarged: above 1 where a side is too short for the network."""
    return max(1.0, net.smallest_side / min(shape[:2]))


def saliency_pictures(net: nn.Module, data: MaskedPhotos) -> Iterator[tuple[str, np.ndarray]]:
    """(name, picture) of the first four photos beside their masks, and the maps that the network computes."""
    device = next(net.parameters()).device
    with evaluating(net):
        for image_id in data.ids[:4]:
            photo, mask = data.load_masked(image_id)
            predicted = grey_map(saliency_logits(net, torch.from_numpy(photo), device).cpu().numpy())
            greys = [np.rint(255 * mask.clip(0)).astype(np.uint8), predicted]
            yield f"Saliency/{image_id}", np.hstack([photo, *(np.dstack([grey] * 3) for grey in greys)])


@dataclass(frozen=True)
class SaliencyJob(OutputJob):
    """Saliency maps from logits. out_sal: <id>.png, 8-bit grey."""

    out_sal: Path | None = None

    def settings(self, output: str) -> dict[str, Any]:
        return {}

    def write(self, image_id: str, photo: np.ndarray, logits: np.ndarray, enlarged: bool) -> str | None:
        if not np.isfinite(logits).all():
            raise BadPhoto(
                f"the saliency of {image_id} is not finite; compute in float32 (--amp off) or check the weights"
            )
        for path in self.paths(image_id):
            with atomic_write(path) as file:
                Image.fromarray(grey_map(logits)).save(file, format="PNG")
        return "too small for PoolNet, computed enlarged" if enlarged else None
