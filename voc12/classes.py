"""The facts of PASCAL VOC 2012 segmentation: names, label values, palette. Imports nothing of the project."""

import numpy as np

CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
"""Class c of the network and of the image-level labels is `CLASSES[c]`, c in 0..19."""

LABELS = ("background", *CLASSES)
"""Value v of a label PNG is `LABELS[v]`, v in 0..20."""

VOID = 255
"""Value of ground-truth pixels that belong to no label (object borders)."""


def _palette() -> np.ndarray:
    """(256, 3) uint8 RGB. As the devkit's VOCcolormap.m: bits 0, 1, 2 of the value, then of value >> 3, ...
    become the bits 7, 6, ... of red, green, blue."""
    colours = np.zeros((256, 3), np.uint8)
    for value in range(256):
        rest = value
        for bit in range(7, -1, -1):
            for channel in range(3):
                colours[value, channel] |= (rest >> channel & 1) << bit
            rest >>= 3
    return colours


PALETTE = _palette()
PALETTE.setflags(write=False)
