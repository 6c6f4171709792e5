"""What the colours of a label PNG say. Pure, on arrays; VOC's colours are those of the devkit, 256 different ones."""

import numpy as np

from tool import VOID
from voc12.classes import PALETTE


def _key(colours: np.ndarray) -> np.ndarray:
    """One number for each colour: (..., 3) uint8 -> (...) int64."""
    return colours.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])


_ORDER = np.argsort(_key(PALETTE))
_KEYS = _key(PALETTE)[_ORDER]
_GREYS = (PALETTE @ np.array([0.299, 0.587, 0.114])).round().astype(int)  # what reading a palette PNG as grey gives


def values_of_colours(colours: np.ndarray) -> np.ndarray | None:
    """Return the values, uint8 (...), that have these VOC colours, uint8 (..., 3); None if one is no VOC colour."""
    keys = _key(colours)
    found = np.searchsorted(_KEYS, keys).clip(max=255)
    return _ORDER[found].astype(np.uint8) if (_KEYS[found] == keys).all() else None


def meant_values(used: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Return the values, uint8 (n,), that the used indices (n,) of a palette PNG mean; palette: uint8 (k, 3).

    Indices are values where their colours are VOC's, or grey levels equal to them, or say nothing. Other programs sort palettes
    anew and drop what is not used: where all colours are VOC's, or all are grey levels, these are the values.
    """
    indices = used.astype(np.uint8)
    if used.max(initial=0) >= len(palette):
        return indices
    colours = palette[used]
    grey = (colours == colours[:, :1]).all()
    if (colours == PALETTE[used]).all() or (colours == used[:, None]).all():
        return indices
    if len(np.unique(_key(colours))) < len(used) or len(np.unique(_key(palette))) == 1:
        return indices  # a palette that nobody filled in
    values = values_of_colours(colours)
    return values if values is not None else colours[:, 0] if grey else indices


def explain(label: np.ndarray, count: int) -> str:
    """Return why a label map may hold other values than 0..count - 1, and the remedy, as the end of a message; "" if unknown."""
    values = set(np.unique(label).tolist())
    wrong = values - set(range(count))
    if wrong == {VOID}:
        return f" ({VOID} is void, for the ground truth only: give each pixel a label, 0 for background)"
    if wrong and values <= set(_GREYS[[*range(count), VOID]].tolist()):
        return " (these are VOC's colours turned into grey: read palette PNGs by their indices, as Pillow does)"
    return ""
