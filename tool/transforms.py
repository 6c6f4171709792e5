"""Image transforms: the training augmentation, the normalisation, the views of multi-scale inference.

Random choices come from an explicit numpy Generator, so that an image's augmentation depends on nothing else.
"""

import functools
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch import Tensor

SCALES = (1.0, 0.5, 1.5, 2.0)


@dataclass(frozen=True)
class PictureStatistics:
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


IMAGENET = PictureStatistics("RGB", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), scale=255)


def resize_long_side(image: Image.Image, long_side: int) -> Image.Image:
    """Resize so that the longer side has `long_side` pixels, bicubic."""
    scale = long_side / max(image.size)
    return image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.BICUBIC)


def color_jitter(image: Image.Image, rng: np.random.Generator, strength: float = 0.3, hue: float = 0.1) -> Image.Image:
    """Brightness, contrast and saturation times 1 - strength .. 1 + strength, hue shifted by -hue .. hue, in random order."""
    adjust = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    factors = rng.uniform(1 - strength, 1 + strength, 3)
    shift = rng.uniform(-hue, hue)
    for i in rng.permutation(4):
        image = shift_hue(image, shift) if i == 3 else adjust[i](image).enhance(factors[i])
    return image


def shift_hue(image: Image.Image, turn: float) -> Image.Image:
    """Turn the hue of an RGB photo by a part of the colour circle, rounded towards zero to 255ths."""
    hue, saturation, value = image.convert("HSV").split()
    steps = int(turn * 255)
    return Image.merge("HSV", (hue.point([(h + steps) % 256 for h in range(256)]), saturation, value)).convert("RGB")


def crop_or_pad(image: Tensor, size: int, rng: np.random.Generator) -> Tensor:
    """Random crop of (C, h, w) to (C, size, size); a shorter side is placed at a random offset on zeros."""
    out = image.new_zeros(image.shape[0], size, size)
    source, target = [], []
    for length in image.shape[1:]:
        taken = min(length, size)
        start, place = int(rng.integers(length - taken + 1)), int(rng.integers(size - taken + 1))
        source.append(slice(start, start + taken))
        target.append(slice(place, place + taken))
    out[:, target[0], target[1]] = image[:, source[0], source[1]]
    return out


def augment(
    photo: Image.Image,
    crop_size: int,
    rng: np.random.Generator,
    long_side: tuple[int, int] = (256, 512),
    statistics: PictureStatistics = IMAGENET,
) -> Tensor:
    """The training augmentation of one RGB photo -> float32 (3, crop_size, crop_size), normalised."""
    photo = resize_long_side(photo, int(rng.integers(long_side[0], long_side[1] + 1)))
    if rng.random() < 0.5:
        photo = photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    photo = color_jitter(photo, rng)
    return crop_or_pad(statistics.normalise(torch.from_numpy(np.array(photo))), crop_size, rng)


def views(photo: Image.Image, scales: tuple[float, ...] = SCALES) -> list[Tensor]:
    """The photo at each scale, rounded size, bicubic: uint8 (h, w, 3) tensors."""
    resized = (
        photo.resize([max(1, round(side * scale)) for side in photo.size], Image.Resampling.BICUBIC)
        if scale != 1
        else photo
        for scale in scales
    )
    return [torch.from_numpy(np.array(image)) for image in resized]
