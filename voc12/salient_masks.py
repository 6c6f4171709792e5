"""Masks of what is salient: grey ones, or label maps, foreground against background."""

from pathlib import Path

import numpy as np

from tool import VOID
from tool.cli import UserError
from voc12.images import load_grey

UNKNOWN = -1.0  # in masks: the pixel counts neither as salient nor as not


def from_grey(grey: np.ndarray) -> np.ndarray:
    """uint8 (H, W), 0..255 -> float32 (H, W), 0..1; not binarised, as published."""
    return grey / np.float32(255)


def from_label(label: np.ndarray, path: Path) -> np.ndarray:
    """Label map uint8 (H, W) -> float32 (H, W): 0 of background, 1 of any class, UNKNOWN of void (255).

    UserError naming `path`: it holds 0 and 255 alone, so that the 255 are no void but what is salient.
    """
    if label.max(initial=0) == VOID and not ((label > 0) & (label < VOID)).any():
        raise UserError(
            f"label map {path} holds 0 and {VOID} only, background and void: masks of 0..255 are read where no --voc12_root is given"
        )
    return np.where(label == VOID, np.float32(UNKNOWN), (label > 0).astype(np.float32))


def load_mask(path: Path) -> np.ndarray:
    """The mask at `path`, uint8 (H, W), 0..255. UserError: as `load_grey`, or its pixels have one bit."""
    return load_grey(path, "mask", one_bit=False)


def check_same_size(path: Path, mask: tuple[int, ...], photo: tuple[int, ...]) -> None:
    """UserError naming the mask: its (H, W) is not the photo's."""
    if mask != photo[:2]:
        raise UserError(f"mask {path} is {mask[1]}x{mask[0]} pixels, its photo {photo[1]}x{photo[0]}")
