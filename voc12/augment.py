"""Training augmentations of EDAM, DeepLab-v2 and PoolNet. Random choices come from a numpy Generator alone."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageEnhance
from torch import Tensor

from tool import VOID
from tool.image_ops import Normalization, resize_labels

UNKNOWN = -1.0  # in masks: the pixel does not count
LABELLED_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5)  # DeepLab-v2's


def color_jitter(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Scale brightness, contrast and saturation by 0.7 .. 1.3, shift hue by -0.1 .. 0.1, in random order."""
    adjust = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    factors, shift = rng.uniform(0.7, 1.3, 3), rng.uniform(-0.1, 0.1)
    for i in rng.permutation(4):
        if i < 3:
            image = adjust[i](image).enhance(factors[i])
        else:
            hue, saturation, value = image.convert("HSV").split()
            hue = hue.point([(h + int(shift * 255)) % 256 for h in range(256)])
            image = Image.merge("HSV", (hue, saturation, value)).convert("RGB")
    return image


def crop_or_pad(image: Tensor, size: int, rng: np.random.Generator) -> Tensor:
    """Crop (C, h, w) at random to (C, size, size); a shorter side is padded with zeros at random on both ends."""
    out = image.new_zeros(image.shape[0], size, size)
    source, target = [], []
    for length in image.shape[1:]:
        taken = min(length, size)
        start, place = int(rng.integers(length - taken + 1)), int(rng.integers(size - taken + 1))
        source.append(slice(start, start + taken))
        target.append(slice(place, place + taken))
    out[:, target[0], target[1]] = image[:, source[0], source[1]]
    return out


def augment_photo(
    photo: Image.Image, crop_size: int, rng: np.random.Generator, lengths: tuple[int, int], normalization: Normalization
) -> Tensor:
    """Return an RGB photo resized (longer side in `lengths`), mirrored, jittered, cropped: float32 (3, crop_size, crop_size)."""
    scale = int(rng.integers(lengths[0], lengths[1] + 1)) / max(photo.size)
    photo = photo.resize([max(1, round(side * scale)) for side in photo.size], Image.Resampling.BICUBIC)
    if rng.random() < 0.5:
        photo = photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    photo = color_jitter(photo, rng)
    return crop_or_pad(normalization.normalise(torch.from_numpy(np.array(photo))), crop_size, rng)


def _bilinear(photo: np.ndarray, size: Sequence[int], window: Sequence[tuple[int, int]]) -> np.ndarray:
    """Resize uint8 (H, W, C) to `size` as OpenCV does and return a window, (first, end) of rows and columns, float32."""
    image = photo
    for axis, (n, (start, stop)) in enumerate(zip(size, window, strict=True)):
        side = photo.shape[axis]
        at = np.clip((np.arange(start, stop) + 0.5) * side / n - 0.5, 0, side - 1)
        low = at.astype(int)
        weight = np.expand_dims((at - low).astype(np.float32), [i for i in range(photo.ndim) if i != axis])
        image = image.take(low, axis) * (1 - weight) + image.take(np.minimum(low + 1, side - 1), axis) * weight
    return image


def augment_labelled(
    photo: np.ndarray, label: np.ndarray, crop_size: int, rng: np.random.Generator, normalization: Normalization
) -> tuple[Tensor, Tensor]:
    """Scale, pad, crop and mirror a photo uint8 RGB (H, W, 3) with its label map uint8 (H, W).

    The scale is one of LABELLED_SCALES, sides are truncated to whole pixels, and the photo is not antialiased.
    Return float32 (3, crop_size, crop_size) normalised, 0 where padded; uint8 (crop_size, crop_size), 255 where padded.
    """
    scale = LABELLED_SCALES[rng.integers(len(LABELLED_SCALES))]
    size = [int(side * scale) for side in label.shape]
    starts = [int(rng.integers(max(0, side - crop_size) + 1)) for side in size]
    window = [(start, min(side, start + crop_size)) for start, side in zip(starts, size, strict=True)]
    image = normalization.normalise(torch.from_numpy(_bilinear(photo, size, window)))
    labels = resize_labels(torch.from_numpy(label), size)[tuple(slice(*side) for side in window)]
    padding = (0, crop_size - labels.shape[1], 0, crop_size - labels.shape[0])
    image, labels = F.pad(image, padding), F.pad(labels, padding, value=VOID)
    if rng.integers(2):
        image, labels = image.flip(-1), labels.flip(-1)
    return image.contiguous(), labels.contiguous()


def augment_masked(
    photo: np.ndarray, mask: np.ndarray, crop_size: int | None, rng: np.random.Generator, normalization: Normalization
) -> tuple[Tensor, Tensor]:
    """Crop a photo uint8 RGB (H, W, 3) with its mask float32 (H, W) if asked to, then mirror both with probability 1/2.

    Smaller photos are padded at the bottom and right. Return the normalised photo float32 (3, h, w), 0 where padded, and the mask
    float32 (1, h, w), UNKNOWN where padded.
    """
    padding = [0, 0, 0, 0]
    if crop_size is not None:
        top, left = (int(rng.integers(max(0, side - crop_size) + 1)) for side in mask.shape)
        photo, mask = (array[top : top + crop_size, left : left + crop_size] for array in (photo, mask))
        padding = [0, crop_size - mask.shape[1], 0, crop_size - mask.shape[0]]
    picture = F.pad(normalization.normalise(torch.from_numpy(photo)), padding)
    target = F.pad(torch.from_numpy(mask)[None], padding, value=UNKNOWN)
    if rng.random() < 0.5:
        picture, target = picture.flip(-1), target.flip(-1)
    return picture.contiguous(), target.contiguous()
