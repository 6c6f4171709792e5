"""SegmentationClassAug: a mask for each image that VOC 2012 or SBD has one for."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tool import VOID
from tool.cli import UserError
from tool.files import back_up, make_folder, remove_leftovers
from voc12.dataset import Dataset, Files, label_maps
from voc12.images import load_label, read_label, save_label, values_in
from voc12.lists import check_id
from voc12.report import Findings
from voc12.sbd import find_sbd_masks, read_sbd_mask

AUG = "SegmentationClassAug"
OWN = "SegmentationClass"


def count_aug(root: Path) -> int:
    """Return the number of masks in the devkit's SegmentationClassAug; 0 without that folder."""
    return len(label_maps(root / AUG).ids())


def complete_masks(
    data: Dataset, sbd_root: Path | None, findings: Findings, repair: bool = False
) -> dict[str, tuple[int, ...] | None]:
    """Create the masks that SegmentationClassAug lacks, and return the values in each; None for an unusable mask.

    VOC's own masks win over SBD's. A new folder appears when it is complete. Without SBD and without the folder
    nothing is written, and VOC's own masks are read.

    Args:
        sbd_root: SBD, unpacked; None if there is none.
        findings: receives what looks wrong.
        repair: rewrite masks of colours as class values and unusable ones from their source; old files become `<id>.png.1`.
    """
    count, folder, partial = len(data.classes), data.root / AUG, data.root / f"{AUG}.partial"
    if sbd_root is None and not count_aug(data.root):
        return _complete(data.mask_dir, {}, {}, findings, False, count)
    own = find_all(label_maps(data.mask_dir), findings)
    sbd = find_all(Files("SBD mask", find_sbd_masks(sbd_root), (".mat",)), findings) if sbd_root else {}
    if folder.exists():
        remove_leftovers(folder)
        return _complete(folder, own, sbd, findings, repair, count)
    shutil.rmtree(partial, ignore_errors=True)  # of an interrupted run, perhaps with other sources
    masks = _complete(make_folder(partial), own, sbd, findings, repair, count)
    os.replace(partial, folder)
    return masks


def _complete(
    folder: Path, own: Mapping[str, Path], sbd: Mapping[str, Path], findings: Findings, repair: bool, count: int
) -> dict[str, tuple[int, ...] | None]:
    """Write the masks that `folder` lacks, and return the values in each mask."""
    files = label_maps(folder)
    present = find_all(files, findings)
    ambiguous = set(files.ids()) - present.keys()  # several files: none is replaced
    masks: dict[str, tuple[int, ...] | None] = {}
    for image_id in tqdm(sorted({*own, *sbd, *present} - ambiguous), "masks", disable=None):
        path, label = present.get(image_id), None
        if path is not None:
            try:
                label = _read(path, findings, repair)
            except UserError as error:
                masks[image_id] = None
                if not repair or not (image_id in own or image_id in sbd):
                    findings.add("masks that cannot be used (--repair makes those of VOC and SBD again)", str(error))
                    continue
        if label is None:
            try:
                label = load_label(own[image_id]) if image_id in own else read_sbd_mask(sbd[image_id])
            except UserError as error:
                findings.add("masks that could not be made", str(error))
                continue
            if path is not None:
                back_up(path, copy=True)
                findings.add("masks that could not be used, made again (old files: <id>.png.1)", image_id)
            save_label(path or folder / f"{image_id}.png", label)
        masks[image_id] = tuple(values_in(label))  # no array: many small ones fragment the heap by 1 GB
        if any(count < value < VOID for value in masks[image_id] or ()):
            findings.add(f"masks with values other than 0..{count} and {VOID}", image_id)
    return masks


def find_all(files: Files, findings: Findings) -> dict[str, Path]:
    """Return id -> path of the files, in order of the ids, without ambiguous ones and names that are no ids."""
    found = {}
    for image_id in files.ids():
        try:
            found[check_id(image_id, str(files.folder))] = files.find(image_id)
        except UserError as error:
            findings.add("file names that are no id, or an id twice, left out", str(error))
    return found


def _read(path: Path, findings: Findings, repair: bool) -> np.ndarray:
    """Return a label map; with `repair` rewrite one of colours as class values. UserError if it is unusable."""
    label, stored = read_label(path)
    if not stored and path.parent.name != OWN:
        if repair:
            back_up(path, copy=True)
            save_label(path, label)
        done = "rewritten as class values (old files: <id>.png.1)" if repair else "not class values; use --repair"
        findings.add(f"masks of colours, {done}", path.stem)
    return label
