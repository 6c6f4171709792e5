"""A photo together with its label map: DeepLab-v2's training augmentation, and how label maps are resized.

Random choices come from an explicit numpy Generator, so that an image's augmentation depends on nothing else.
"""

import functools
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from tool.transforms import PictureStatistics

VOID = 255  # label of pixels without a class
SCALES = (0.5, 0.75, 1.0, 1.25, 1.5)


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


def _bilinear(photo: np.ndarray, size: Sequence[int], window: Sequence[tuple[int, int]]) -> np.ndarray:
    """uint8 (H, W, C) resized to `size` as OpenCV does it; of that only the window, (first row, end), (first column, end). float32."""
    image = photo
    for axis, (n, (start, stop)) in enumerate(zip(size, window, strict=True)):
        side = photo.shape[axis]
        at = np.clip((np.arange(start, stop) + 0.5) * side / n - 0.5, 0, side - 1)
        low = at.astype(int)
        weight = np.expand_dims((at - low).astype(np.float32), [i for i in range(photo.ndim) if i != axis])
        image = image.take(low, axis) * (1 - weight) + image.take(np.minimum(low + 1, side - 1), axis) * weight
    return image


def augment_at(
    photo: np.ndarray,
    label: np.ndarray,
    scale: float,
    top: int,
    left: int,
    mirror: bool,
    crop_size: int,
    statistics: PictureStatistics,
) -> tuple[Tensor, Tensor]:
    """Scale, pad, crop and mirror a photo with its label, by given choices.

    Args:
        photo: uint8 RGB (H, W, 3). label: uint8 (H, W).
        scale: of both sides, truncated to whole pixels; bilinear, without antialiasing.
        top, left: of the crop in what was scaled and then padded, at the bottom and right, to the crop's size.
        statistics: of the network that it is for.

    Returns:
        float32 (3, crop_size, crop_size) normalised, 0 where padded; uint8 (crop_size, crop_size), 255 where padded.
    """
    size = [int(side * scale) for side in label.shape]
    window = [(start, min(n, start + crop_size)) for start, n in zip((top, left), size, strict=True)]
    image = statistics.normalise(torch.from_numpy(_bilinear(photo, size, window)))
    labels = resize_labels(torch.from_numpy(label), size)[tuple(slice(*side) for side in window)]
    padding = (0, crop_size - labels.shape[1], 0, crop_size - labels.shape[0])
    image, labels = F.pad(image, padding), F.pad(labels, padding, value=VOID)
    if mirror:
        image, labels = image.flip(-1), labels.flip(-1)
    return image.contiguous(), labels.contiguous()


def augment(
    photo: np.ndarray, label: np.ndarray, crop_size: int, rng: np.random.Generator, statistics: PictureStatistics
) -> tuple[Tensor, Tensor]:
    """`augment_at` with a scale of SCALES, an offset and a mirroring drawn from `rng`, each choice equally likely."""
    scale = SCALES[rng.integers(len(SCALES))]
    top, left = (int(rng.integers(max(0, int(side * scale) - crop_size) + 1)) for side in label.shape)
    return augment_at(photo, label, scale, top, left, bool(rng.integers(2)), crop_size, statistics)
