"""What prepare.py tells: the counts, and all that looks wrong."""

from collections.abc import Mapping, Sequence

import numpy as np

from voc12.classes import CLASSES

PUBLISHED = {"train": 1464, "val": 1449, "test": 1456, "train_aug": 10582}
"""Images per list of VOC 2012, train_aug with SBD."""
_NAMED = 10


class Findings:
    """Things that look wrong, by kind, in the order found."""

    def __init__(self) -> None:
        self._by_kind: dict[str, list[str]] = {}

    def add(self, kind: str, item: str) -> None:
        self._by_kind.setdefault(kind, []).append(item)

    def lines(self) -> list[str]:
        """One line a kind: how many, and the first names."""
        lines = []
        for kind, items in self._by_kind.items():
            more = f" and {len(items) - _NAMED} more" if len(items) > _NAMED else ""
            lines.append(f"  {len(items)} {kind}: {', '.join(items[:_NAMED])}{more}")
        return lines


def list_table(lists: Mapping[str, Sequence[str]]) -> list[str]:
    """Images per list, beside the published number where that differs."""
    lines = ["images per list:"]
    for name, ids in lists.items():
        note = "" if len(ids) == PUBLISHED[name] else f"   (VOC 2012: {PUBLISHED[name]})"
        lines.append(f"  {name:<12}{len(ids):>6}{note}")
    return lines


def class_table(
    lists: Mapping[str, Sequence[str]],
    labels: Mapping[str, np.ndarray],
    shown: Mapping[str, Sequence[int]],
    pairs: Sequence[tuple[str, str, int]],
) -> list[str]:
    """Images and pairs per class, and where the labels (from XML) and the masks disagree.

    labels: id -> (20,) multi-hot; shown: id -> the classes with pixels in the mask.
    """
    both = [image_id for image_id in labels if image_id in shown]
    of_label = np.array([labels[image_id] > 0 for image_id in both], bool).reshape(-1, len(CLASSES))
    of_mask = np.zeros(of_label.shape, bool)
    for row, image_id in zip(of_mask, both, strict=True):
        row[list(shown[image_id])] = True
    columns = {name: _per_class(lists[name], labels) for name in ("train_aug", "val")}
    columns["pairs"] = np.bincount([label for *_, label in pairs], minlength=len(CLASSES))
    columns["XML only"] = (of_label & ~of_mask).sum(0)
    columns["mask only"] = (of_mask & ~of_label).sum(0)
    agree = int((of_label == of_mask).all(1).sum())
    return [
        "images per class; pairs; images whose XML or whose mask alone shows the class:",
        f"  {'':<12}" + "".join(f"{name:>11}" for name in columns),
        *(
            f"  {name:<12}" + "".join(f"{counts[index]:>11}" for counts in columns.values())
            for index, name in enumerate(CLASSES)
        ),
        f"  labels and masks agree on {agree} of {len(both)} images",
    ]


def _per_class(ids: Sequence[str], labels: Mapping[str, np.ndarray]) -> np.ndarray:
    """(20,) int: how many of the images show each class."""
    return sum((labels[image_id] > 0 for image_id in ids if image_id in labels), np.zeros(len(CLASSES), int))
