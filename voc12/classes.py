"""Classes of a dataset: names, label values, palette; and those of PASCAL VOC 2012."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from unicodedata import normalize

import numpy as np

from tool.cli import UserError

MOST_CLASSES = 254  # 8-bit label maps have 256 values, of which 0 is background and 255 void
NO_CLASS = {"none", "n/a", "na", "nan", "null", "nil", "-", "--", "?", "unknown", "unlabeled", "unlabelled"}
"""Names, folded, that mean no class."""


@dataclass(frozen=True)
class Classes:
    """Names of the classes; class c of the network and of the image-level labels is `names[c]`, c + 1 in label PNGs."""

    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the values of a label PNG."""
        return ("background", *self.names)

    def index(self, name: str) -> int | None:
        """Return a name's class or None. Ignore case; for VOC ignore blanks too, and accept COCO's spellings."""
        return self._indices.get(self._key(name))

    @cached_property
    def _indices(self) -> dict[str, int]:
        return {self._key(name): c for c, name in enumerate(self.names)}

    def _key(self, name: str) -> str:
        squeezed = squeeze(name)
        return _COCO_SPELLINGS.get(squeezed, squeezed) if self == VOC else fold(name)

    def options(self, **counts: int) -> dict[str, Any]:
        """Return options of `make_net`: the names and these counts; empty for VOC's 20 classes, the default."""
        names = {} if self == VOC else {"class_names": self.names}
        return names if not names and len(self) == 20 else {**names, **counts}

    def check_outputs(self, network: str, found: int, wanted: int) -> None:
        """Raise UserError naming a network whose number of outputs does not fit."""
        if found != wanted:
            raise UserError(f"--network {network}: has {found} outputs, but {len(self)} classes need {wanted}.")


def fold(name: str) -> str:
    """Return a name in lower case, without blanks at its ends: the form in which names are compared."""
    return normalize("NFC", name).strip().casefold()


def squeeze(name: str) -> str:
    """Return a name in lower case, letters and digits alone."""
    return "".join(filter(str.isalnum, name.casefold()))


def make_classes(names: Sequence[str], where: str) -> Classes:
    """Return the classes of these names, `VOC` for its own. UserError naming `where`: bad names, equal ones, too many or none."""
    if not 1 <= len(names) <= MOST_CLASSES:
        raise UserError(f"{where}: names {len(names)} classes, where 1 to {MOST_CLASSES} are possible")
    seen: dict[str, str] = {}
    for name in names:
        key = fold(name)
        if not name.isprintable() or name != name.strip() or not 0 < len(name) <= 100 or set(name) & set(",;|[]{}"):
            raise UserError(f"{where}: {name[:80]!r} is not a class name (1 to 100 printable characters, no ,;|[]{{}})")
        if key == "background" or key in NO_CLASS:
            raise UserError(f"{where}: {name!r} is no class; background is always label 0. Remove or rename it")
        if key in seen:
            raise UserError(f"{where}: {seen[key]!r} and {name!r} differ in case alone. Rename one of them")
        seen[key] = name
    return VOC if tuple(names) == VOC.names else Classes(tuple(names))


CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""Classes of VOC 2012, c in 0..19."""
_COCO_SPELLINGS = {"airplane": "aeroplane", "couch": "sofa", "motorcycle": "motorbike", "tv": "tvmonitor"}
VOC = Classes(CLASSES)
LABELS = VOC.labels


def _palette() -> np.ndarray:
    """Return uint8 (256, 3) RGB as the devkit's VOCcolormap.m: bit 3 k + c of a value is bit 7 - k of its colour c."""
    values, colours = np.arange(256), np.zeros((256, 3), np.uint8)
    for bit in range(8):
        colours[:, bit % 3] |= ((values >> bit & 1) << 7 - bit // 3).astype(np.uint8)
    colours.setflags(write=False)
    return colours


PALETTE = _palette()
