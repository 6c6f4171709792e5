"""Operations on images that networks and datasets share: normalisation, resizing of label maps."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor


@dataclass(frozen=True)
class Normalization:
    """Normalization of a network's input: (x / scale - mean) / std for x in 0..255."""

    order: str  # of the input's channels, "RGB" or "BGR", which mean and std follow
    mean: tuple[float, float, float]
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    scale: float = 1.0

    def normalise(self, image: Tensor) -> Tensor:
        """Return RGB images (..., H, W, 3), uint8 or float in 0..255, as normalised float32 (..., 3, H, W)."""
        channels = ["RGB".index(channel) for channel in self.order]
        mean, std = (torch.tensor(values, device=image.device) for values in (self.mean, self.std))
        return ((image[..., channels].float() / self.scale - mean) / std).movedim(-1, -3).contiguous()


IMAGENET = Normalization("RGB", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), scale=255)


@functools.lru_cache(256)
def _nearest(side: int, n: int, device: torch.device) -> Tensor:
    """Return (n,) indices floor((i + 0.5) * side / n), computed by Pillow, whose rounding decides ties."""
    row = Image.fromarray(np.arange(side, dtype=np.int32)[None])
    return torch.from_numpy(np.array(row.resize((n, 1), Image.Resampling.NEAREST))[0]).to(device)


def resize_labels(labels: Tensor, size: Sequence[int]) -> Tensor:
    """Resize (..., H, W) to (..., h, w) by the label at each pixel's centre: Pillow's NEAREST, not F.interpolate's."""
    rows, columns = (_nearest(side, n, labels.device) for side, n in zip(labels.shape[-2:], size, strict=True))
    return labels[..., rows[:, None], columns]
