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
    """What a network wants its photos to be: `(x / scale - mean) / std` of x in 0..255, the channels (and both tuples) in `order`."""

    order: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    scale: float = 1.0

    def normalise(self, image: Tensor) -> Tensor:
        """RGB (..., H, W, 3), uint8 or float 0..255 -> float32 (..., 3, H, W)."""
        channels = ["RGB".index(channel) for channel in self.order]
        mean, std = self._tensors(image.device)
        return ((image[..., channels].float() / self.scale - mean) / std).movedim(-1, -3).contiguous()

    @functools.cache  # noqa: B019, there are few, and they live as long as the process
    def _tensors(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation on a device, copied there once."""
        return torch.tensor(self.mean, device=device), torch.tensor(self.std, device=device)


IMAGENET = Normalization("RGB", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), scale=255)


@functools.lru_cache(256)
def _nearest(side: int, n: int) -> np.ndarray:
    """(n,) indices floor((i + 0.5) * side / n), Pillow's own: where that is a whole number, its rounding decides."""
    return np.array(Image.fromarray(np.arange(side, dtype=np.int32)[None]).resize((n, 1), Image.Resampling.NEAREST))[0]


def resize_labels(labels: Tensor, size: Sequence[int]) -> Tensor:
    """(..., H, W) -> (..., h, w): of each pixel the label at its centre, as Pillow's NEAREST and unlike F.interpolate's "nearest"."""
    rows, columns = (
        torch.from_numpy(_nearest(side, n)).to(labels.device) for side, n in zip(labels.shape[-2:], size, strict=True)
    )
    return labels[..., rows[:, None], columns]
