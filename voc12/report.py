"""prepare.py's report: the counts, and all that looks wrong."""

import itertools
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from tool.cli import UserError, counted, summarize_ids
from voc12.classes import VOC, Classes

PUBLISHED = {"train": 1464, "val": 1449, "test": 1456, "train_aug": 10582}
"""Images per list of VOC 2012, train_aug with SBD."""
PLAUSIBLE = 0.9
"""Share of the images whose label and mask show the same classes, at least; of VOC's own masks it is all."""


class Findings:
    """Things that look wrong, by kind, in the order found."""

    def __init__(self) -> None:
        self._by_kind: dict[str, list[str]] = {}

    def add(self, kind: str, item: str) -> None:
        self._by_kind.setdefault(kind, []).append(item)

    def lines(self) -> list[str]:
        """A heading, and one line a kind: how many, and the first names."""
        found = [f"  {counted(len(items), kind)}: {summarize_ids(items)}" for kind, items in self._by_kind.items()]
        return ["please look at these:", *found] if found else ["nothing looks wrong"]


def list_table(
    lists: Mapping[str, Sequence[str]], published: Mapping[str, int] = PUBLISHED, dataset: str = "VOC 2012"
) -> list[str]:
    """Images per list, beside the published number where that differs."""
    lines = ["images per list:"]
    for name, ids in lists.items():
        known = published.get(name, len(ids))
        note = "" if len(ids) == known else f"   ({dataset}: {known})"
        lines.append(f"  {name:<12}{len(ids):>6}{note}")
    return lines


def class_table(
    lists: Mapping[str, Sequence[str]],
    labels: Mapping[str, np.ndarray],
    shown: Mapping[str, Sequence[int]],
    pairs: Sequence[tuple[str, str, int]],
    findings: Findings,
    classes: Classes = VOC,
) -> list[str]:
    """Images and pairs per class, and where the labels (from XML) and the masks disagree: a finding if that is often.

    labels: id -> (C,) multi-hot; shown: id -> the classes with pixels in the mask.
    """
    both = [image_id for image_id in labels if image_id in shown]
    of_label = np.array([labels[image_id] > 0 for image_id in both], bool).reshape(-1, len(classes))
    of_mask = np.zeros(of_label.shape, bool)
    for row, image_id in zip(of_mask, both, strict=True):
        row[list(shown[image_id])] = True
    columns = {name: per_class(lists[name], labels, len(classes)) for name in ("train_aug", "val")}
    columns["pairs"] = np.bincount([label for *_, label in pairs], minlength=len(classes))
    columns["XML only"] = (of_label & ~of_mask).sum(0)
    columns["mask only"] = (of_mask & ~of_label).sum(0)
    same = (of_label == of_mask).all(1)
    if same.sum() < PLAUSIBLE * len(both):
        kind = f"of {len(both)} images whose mask shows other classes than their label (is each mask class values, of this photo?)"
        for image_id in itertools.compress(both, ~same):
            findings.add(kind, image_id)
    return [
        "images per class; pairs; images whose XML or whose mask alone shows the class:",
        f"  {'':<12}" + "".join(f"{name:>11}" for name in columns),
        *(
            f"  {name:<12}" + "".join(f"{counts[index]:>11}" for counts in columns.values())
            for index, name in enumerate(classes.names)
        ),
        f"  labels and masks agree on {same.sum()} of {len(both)} images",
    ]


def per_class(ids: Iterable[str], labels: Mapping[str, np.ndarray], count: int) -> np.ndarray:
    """(count,) int: how many of the images show each class."""
    return sum((labels[image_id] > 0 for image_id in ids if image_id in labels), np.zeros(count, int))


def check_every_class(labels: Mapping[str, np.ndarray], classes: Classes, where: str | Path) -> None:
    """UserError naming the classes of the file `where` that none of the images shows."""
    counts = per_class(labels, labels, len(classes))
    if missing := [name for name, count in zip(classes.names, counts, strict=True) if not count]:
        raise UserError(
            f"{where}: no photo to train on shows {summarize_ids(missing)}; label some, or take the name out of the file"
        )


def next_command(root: Path, pair_list: Path, pairs: int | None = None) -> list[str]:
    """Lines with the command to type after the lists are there. pairs: how many, of another dataset than VOC."""
    try:
        pair_list = pair_list.resolve().relative_to(Path.cwd())
    except ValueError:
        pair_list = pair_list.resolve()
    command = ["python", "train_EDAM_cls.py", "--voc12_root", str(root), "--train_list", str(pair_list)]
    command += ["--batch_size", "4", "--lr", "0.001", "--weights", "ilsvrc-cls_rna-a1_cls1000_ep-0001.params"]
    session = "resnet38_EDAM_cls"
    if pairs is not None:
        command += ["--warmup_steps", str(pairs // 64)]  # VOC's 2000 steps are a sixteenth of its run
        session = re.sub("[^A-Za-z0-9_]+", "_", root.resolve().name)[:100]
    command += ["--session_name", session]
    title = "Next, train (--weights: the ImageNet ResNet-38; without it, from random weights):"
    return ["", title, f"  {shlex.join(command)}"]
