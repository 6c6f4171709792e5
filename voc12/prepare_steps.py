"""Steps that the prepare scripts share: links to photos; writing of lists, pairs and labels, and the report."""

import argparse
import io
import os
import re
import shlex
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tool.cli import UserError, counted, summarize_ids
from tool.files import make_folder
from voc12.classes import VOC
from voc12.dataset import Dataset
from voc12.labels import LABELS_FILE
from voc12.lists import CLASSES_FILE, format_pairs, write_text
from voc12.pairs import PAIRS_FILE, make_pairs

Findings = defaultdict[str, list[str]]  # what looks wrong: a kind, "masks without a photo" -> images or messages


def link(path: Path, folder: Path) -> None:
    """Make `path` a link to `folder`, absolute or relative to the link. UserError: something else is there."""
    if path.exists() and path.resolve() == (path.parent / folder).resolve():
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(folder, target_is_directory=True)
    except OSError as error:
        remedy = "Remove what is there, or give --out DIR on a disk that can be written to and has links."
        raise UserError(f"{path}: cannot be linked to {folder} ({error.strerror}). {remedy}") from error


def finish(
    args: argparse.Namespace,
    data: Dataset,
    lists: Mapping[Path, str],
    trained: Mapping[str, np.ndarray],
    findings: Findings,
    labels: Mapping[str, np.ndarray] | None,
    published: Mapping[str, int],
) -> None:
    """Write lists (path -> text) and, next to the first, training pairs and labels; print findings and the next command.

    args: with the flags of `pairs.add_flags`. published: list -> number of its images.
    trained: id -> (C,) multi-hot of the training photos. UserError: a class has none (VOC's are exempt).
    labels: the same of all photos, for cls_labels.npy; None if the dataset has a labels.csv.
    """
    names, out = data.classes.names, next(iter(lists)).parent
    counts = dict(zip(names, np.count_nonzero(list(trained.values()), 0).tolist(), strict=True))
    missing = [name for name, count in counts.items() if not count]
    if missing and data.classes != VOC:
        problem = f"no training photo shows {summarize_ids(missing)}"
        raise UserError(f"{data.root / CLASSES_FILE}: {problem}. Label some, or remove the name there.")
    pairs = make_pairs(trained, args.epochs, args.seed)

    files: dict[Path, str | bytes] = {**lists, out / PAIRS_FILE: format_pairs(pairs)}
    if labels is not None:
        np.save(content := io.BytesIO(), np.array(dict(labels), dtype=object), allow_pickle=True)
        files[out / LABELS_FILE] = content.getvalue()
    for path, text in files.items():
        make_folder(path.parent)
        state = "written" if write_text(path, text) else "already right"
        lines = text.count("\n") if isinstance(text, str) else len(labels or ())
        note = f" (published: {published[path.stem]})" if path.stem in published else ""
        print(f"{path}: {counted(lines, 'lines')}{note}, {state}")

    print("\ntraining photos:", ", ".join(f"{name} {count}" for name, count in counts.items()))
    found = [f"  {counted(len(items), kind)}: {summarize_ids(items)}" for kind, items in findings.items() if items]
    print("\n".join(["please look at these:", *found] if found else ["nothing looks wrong"]))
    print("\nNext, train (--weights: the ImageNet ResNet-38, see README.md; without it, from random weights):")
    script = os.path.relpath(Path(__file__).parents[1] / "train_EDAM_cls.py")
    command = ["python", script, "--voc12_root", str(data.root), "--train_list", str(out / PAIRS_FILE)]
    command += ["--batch_size", "4", "--lr", "0.001", "--weights", "ilsvrc-cls_rna-a1_cls1000_ep-0001.params"]
    if data.classes == VOC and published:
        session = "resnet38_EDAM_cls"
    else:
        command += ["--warmup_steps", str(len(pairs) // 64)]  # VOC's 2000 steps are a sixteenth of its run
        session = re.sub("[^A-Za-z0-9_]+", "_", data.root.resolve().name)[:100]
    print(" ", shlex.join([*command, "--session_name", session]))
