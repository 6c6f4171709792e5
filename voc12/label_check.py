"""Check of a run's label maps or masks as a whole: what they hold, and whether they contradict the image-level labels."""

import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np

from tool import VOID
from tool.cli import UserError, summarize_ids

ACCEPT = (
    "use labels that look wrong as a whole: nearly all maps of one label, most of other classes, most photos of none"
)
"""Help of --accept_labels."""
NEARLY_ALL = 0.9


def find_suspicion(
    folder: str | Path, values: Mapping[str, Collection[int]], labels: Mapping[str, np.ndarray] = MappingProxyType({})
) -> str:
    """Return what makes label maps or masks suspicious, "" if nothing.

    Args:
        folder: where they are, for messages.
        values: id -> values in its label map; of a grey mask whether it holds background (0) and foreground (1).
        labels: id -> multi-hot (C,) of the images that have image-level labels.

    Raises:
        UserError: most hold 0 and 255 alone, so they are masks.
    """
    masks = [i for i, held in values.items() if set(held) == {0, VOID}]
    if 2 * len(masks) > len(values):
        problem = f"{len(masks)} of {len(values)} hold 0 and {VOID} alone, as masks do ({summarize_ids(masks)})"
        raise UserError(f"{folder}: {problem}. Label maps hold class + 1, and {VOID} where nothing counts.")
    uniform = [i for i, held in values.items() if len(set(held) - {VOID}) < 2]
    if values and len(uniform) >= NEARLY_ALL * len(values):
        return f"{folder}: {len(uniform)} of {len(values)} show one label alone, or void ({summarize_ids(uniform)})"
    shown = {i: [value - 1 for value in values[i] if 0 < value < VOID] for i in labels if i in values}
    other = [i for i, classes in shown.items() if not all(labels[i][classes])]
    if 2 * len(other) > len(shown):
        lack = f"{len(other)} of {len(shown)} show classes that their image-level labels lack"
        return f"{folder}: {lack} ({summarize_ids(other)})"
    return ""


def report_suspicion(suspicion: str, accept: bool | None) -> None:
    """Print a suspicion as a note. UserError if there is one and `accept`, the flag --accept_labels, is False."""
    if suspicion and accept is False:
        raise UserError(f"{suspicion}. Check them; --accept_labels uses them as they are.")
    if suspicion:
        print(f"note: {suspicion}. Check them.", file=sys.stderr)
