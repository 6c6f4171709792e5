"""The classes of a dataset: names, label values, palette; and those of PASCAL VOC 2012."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Classes:
    """Class c of the network and of the image-level labels is `names[c]`; its value in label PNGs is c + 1.

    aliases: other spellings, as `fold` gives them -> the name as `fold` gives it.
    """

    names: tuple[str, ...]
    aliases: Mapping[str, str] = field(default_factory=dict, compare=False)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def labels(self) -> tuple[str, ...]:
        """Value v of a label PNG is `labels[v]`."""
        return ("background", *self.names)

    def index(self, name: str) -> int | None:
        """The class of a name, whatever its case, blanks, hyphens and underscores; None where it is unknown."""
        plain = fold(name)
        return self._indices.get(self.aliases.get(plain, plain))

    @cached_property
    def _indices(self) -> dict[str, int]:
        return {fold(name): c for c, name in enumerate(self.names)}

    def options(self, **counts: int) -> dict[str, Any]:
        """For `make_net`: the names and these counts; nothing for VOC's, which a network is for where it is not told otherwise."""
        return {} if self == VOC else {"class_names": self.names, **counts}


def fold(name: str) -> str:
    """A name without what spellings differ in."""
    plain = name.casefold().strip()
    return "".join(filter(str.isalnum, plain)) or plain


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
"""Of VOC 2012: class c of the network and of the image-level labels is `CLASSES[c]`, c in 0..19."""

VOC = Classes(
    CLASSES,
    {"airplane": "aeroplane", "couch": "sofa", "motorcycle": "motorbike", "tv": "tvmonitor"},  # COCO's spellings
)
LABELS = VOC.labels
"""Value v of a label PNG of VOC 2012 is `LABELS[v]`, v in 0..20."""


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
