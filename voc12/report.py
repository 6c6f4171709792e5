"""Report of the prepare scripts: counts, and all that looks wrong."""

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tool import VOID
from tool.cli import UserError, counted, summarize_ids
from voc12.classes import VOC, Classes
from voc12.label_check import find_suspicion

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


def list_lines(lists: Mapping[str, Sequence[object]], published: Mapping[str, int] | None = None) -> list[str]:
    """Return lines with the entries per list, and the published number where it differs."""
    lines = ["entries per list:"]
    for name, ids in lists.items():
        known = (published or {}).get(name, len(ids))
        lines.append(f"  {name:<14}{len(ids):>6}{'' if len(ids) == known else f'   (published: {known})'}")
    return lines


def count_classes(labels: Mapping[str, np.ndarray], classes: Classes, where: str | Path) -> str:
    """Return a line with the number of training photos per class; `labels` holds (C,) multi-hots.

    UserError naming the file `where`: no photo shows one of its classes.
    """
    counts = sum((label > 0 for label in labels.values()), np.zeros(len(classes), int))
    missing = [name for name, count in zip(classes.names, counts, strict=True) if not count]
    if missing and classes != VOC:
        raise UserError(f"{where}: no training photo shows {summarize_ids(missing)}. Label some, or remove the name.")
    return f"training photos: {', '.join(f'{name} {count}' for name, count in zip(classes.names, counts, strict=True))}"


def compare_masks(
    folder: Path, labels: Mapping[str, np.ndarray], masks: Mapping[str, Sequence[int] | None], findings: Findings
) -> str:
    """Return a line with the number of images whose mask shows the classes of their label; too few become a finding.

    labels: id -> (C,) multi-hot; masks: id -> values in the mask, None for an unusable one. UserError: they are no label maps.
    """
    both = {image_id: values for image_id in labels if (values := masks.get(image_id)) is not None}
    if suspicion := find_suspicion(folder, both):
        findings.add("folder of masks that look wrong", suspicion)
    other = [
        i for i, values in both.items() if {v - 1 for v in values} - {-1, VOID - 1} != set(np.flatnonzero(labels[i]))
    ]
    if len(other) > (1 - PLAUSIBLE) * len(both):
        for image_id in other:
            findings.add(f"masks of {len(both)} with other classes than their label: are they class values?", image_id)
    return f"labels and masks agree on {len(both) - len(other)} of {len(both)} images"


def next_command(root: Path, pair_list: Path, pairs: int | None = None) -> list[str]:
    """Return lines with the command to type next. pairs: their number, for another dataset than the whole VOC 2012."""
    script = os.path.relpath(Path(__file__).parents[1] / "train_EDAM_cls.py")
    pair_list = pair_list.resolve()
    if pair_list.is_relative_to(Path.cwd()):
        pair_list = pair_list.relative_to(Path.cwd())
    command = ["python", script, "--voc12_root", str(root), "--train_list", str(pair_list)]
    command += ["--batch_size", "4", "--lr", "0.001", "--weights", "ilsvrc-cls_rna-a1_cls1000_ep-0001.params"]
    session = "resnet38_EDAM_cls"
    if pairs is not None:
        command += ["--warmup_steps", str(pairs // 64)]  # VOC's 2000 steps are a sixteenth of its run
        session = re.sub("[^A-Za-z0-9_]+", "_", root.resolve().name)[:100]
    command += ["--session_name", session]
    title = "Next, train (--weights: the ImageNet ResNet-38; without it, from random weights):"
    return ["", title, f"  {shlex.join(command)}"]
