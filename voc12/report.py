"""Report of the prepare scripts: counts, and all that looks wrong."""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from tool.cli import UserError, counted, summarize_ids
from voc12.classes import Classes

PUBLISHED = {"train": 1464, "val": 1449, "test": 1456, "train_aug": 10582}
"""Images per list of VOC 2012, train_aug with SBD."""
PLAUSIBLE = 0.9  # of VOC's own masks all show the classes of their label


class Findings:
    """Things that look wrong, by kind, in the order found."""

    def __init__(self) -> None:
        self._by_kind: dict[str, list[str]] = {}

    def add(self, kind: str, item: str) -> None:
        """Add an image or a message to those of a kind, such as "photos without a label"."""
        self._by_kind.setdefault(kind, []).append(item)

    def lines(self) -> list[str]:
        """Return a heading and a line for each kind: how many, and the first of them."""
        found = [f"  {counted(len(items), kind)}: {summarize_ids(items)}" for kind, items in self._by_kind.items()]
        return ["please look at these:", *found] if found else ["nothing looks wrong"]


def list_table(
    lists: Mapping[str, Sequence[str]], published: Mapping[str, int] | None = None, dataset: str = "VOC 2012"
) -> list[str]:
    """Return lines with the images per list, and the published number where it differs."""
    lines = ["images per list:"]
    for name, ids in lists.items():
        known = (published or {}).get(name, len(ids))
        lines.append(f"  {name:<14}{len(ids):>6}{'' if len(ids) == known else f'   ({dataset}: {known})'}")
    return lines


def class_table(
    labels: Mapping[str, np.ndarray], pairs: Sequence[tuple[str, str, int]], epochs: int, classes: Classes
) -> list[str]:
    """Return lines with the photos to train on, of which `labels` holds (C,) multi-hots, and the pairs per class."""
    of_pairs = np.bincount([label for *_, label in pairs], minlength=len(classes))
    counts = zip(classes.names, photos_per_class(labels.values(), classes), of_pairs, strict=True)
    return [
        f"  {'training':<20}{'photos':>8}{'pairs':>8}",
        *(f"  {name:<20}{photos:>8}{number:>8}" for name, photos, number in counts),
        f"pairs: {len(pairs) // epochs} per epoch, {epochs} epochs, {len(pairs)} in all",
    ]


def compare_masks(
    labels: Mapping[str, np.ndarray], shown: Mapping[str, Sequence[int] | None], findings: Findings
) -> str:
    """Return a line with the number of images whose mask shows the classes of their label; too few become a finding.

    labels: id -> (C,) multi-hot; shown: id -> classes in the mask, None for an unusable one.
    """
    both = {image_id: classes for image_id in labels if (classes := shown.get(image_id)) is not None}
    other = [i for i, classes in both.items() if np.flatnonzero(labels[i]).tolist() != sorted(classes)]
    if len(other) > (1 - PLAUSIBLE) * len(both):
        for image_id in other:
            findings.add(f"masks of {len(both)} with other classes than their label: are they class values?", image_id)
    return f"labels and masks agree on {len(both) - len(other)} of {len(both)} images"


def photos_per_class(labels: Iterable[np.ndarray], classes: Classes) -> np.ndarray:
    """Return (C,) int, the number of the labels that show each class."""
    return sum((label > 0 for label in labels), np.zeros(len(classes), int))


def check_every_class(labels: Mapping[str, np.ndarray], classes: Classes, where: str | Path) -> None:
    """Raise UserError naming the classes, listed in the file `where`, that no image shows."""
    counts = photos_per_class(labels.values(), classes)
    if missing := [name for name, count in zip(classes.names, counts, strict=True) if not count]:
        raise UserError(
            f"{where}: no photo to train on shows {summarize_ids(missing)}. Label some, or remove the name from the file."
        )


def next_command(root: Path, pair_list: Path, pairs: int | None = None) -> list[str]:
    """Return lines with the command to type next. pairs: their number, for another dataset than the whole VOC 2012."""
    pair_list = pair_list.resolve()
    if pair_list.is_relative_to(Path.cwd()):
        pair_list = pair_list.relative_to(Path.cwd())
    command = ["python", "train_EDAM_cls.py", "--voc12_root", str(root), "--train_list", str(pair_list)]
    command += ["--batch_size", "4", "--lr", "0.001", "--weights", "ilsvrc-cls_rna-a1_cls1000_ep-0001.params"]
    session = "resnet38_EDAM_cls"
    if pairs is not None:
        command += ["--warmup_steps", str(pairs // 64)]  # VOC's 2000 steps are a sixteenth of its run
        session = re.sub("[^A-Za-z0-9_]+", "_", root.resolve().name)[:100]
    command += ["--session_name", session]
    title = "Next, train (--weights: the ImageNet ResNet-38; without it, from random weights):"
    return ["", title, f"  {shlex.join(command)}"]
