"""SegmentationClassAug, a mask for every image that VOC 2012 or SBD has one for: making it, and looking through it."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tool import VOID
from tool.aside import keep_aside
from tool.cli import UserError
from tool.files import make_folder, remove_leftovers
from voc12.classes import CLASSES
from voc12.folders import LABEL_ENDINGS, PHOTO_ENDINGS, files_of, find_file, photos_below
from voc12.images import load_label, read_label, save_label
from voc12.lists import check_id
from voc12.report import Findings
from voc12.sbd import find_sbd_masks, read_sbd_mask

AUG = "SegmentationClassAug"
OWN = "SegmentationClass"


@dataclass(frozen=True)
class Mask:
    """What a mask says: the classes (from 0) with at least one pixel; its height and width.

    A tuple on purpose: a small array kept from each of 12031 masks holds 1 GB of freed memory back from reuse.
    """

    classes: tuple[int, ...]
    shape: tuple[int, int]


def count_aug(voc12_root: str | Path) -> int:
    """Number of masks in the devkit's SegmentationClassAug, 0 where there is no such folder."""
    return len(files_of(Path(voc12_root) / AUG, LABEL_ENDINGS))


def complete_masks(
    voc12_root: str | Path,
    sbd_root: str | Path | None,
    findings: Findings,
    repair: bool = False,
    count: int = len(CLASSES),
) -> dict[str, Mask | None]:
    """Make the masks that SegmentationClassAug lacks, and say what each mask shows; None for one that cannot be used.

    There are `count` classes. VOC's own masks win over SBD's. A new folder appears when it is whole. What is there already stays,
    unless `repair` is set: then colours become class values, and a mask that cannot be used is made anew where its source is at hand;
    the old files are kept in SegmentationClassAug.old. Without SBD and without the folder nothing is written, and VOC's own masks
    are looked through.
    """
    root = Path(voc12_root)
    own = files_by_id(root / OWN, LABEL_ENDINGS, findings)
    sbd = files_by_id(find_sbd_masks(sbd_root), (".mat",), findings) if sbd_root else {}
    folder, partial = root / AUG, root / f"{AUG}.partial"
    if partial.exists():  # from a run that was killed, perhaps with other sources
        shutil.rmtree(partial)
    if not sbd and not count_aug(root):
        return {
            image_id: _look(path, findings, False, False, count)
            for image_id, path in tqdm(own.items(), "masks", disable=None)
        }
    if folder.exists():
        remove_leftovers(folder)
        return _fill(folder, own, sbd, findings, repair, count)
    try:
        masks = _fill(make_folder(partial), own, sbd, findings, repair, count)
        os.replace(partial, folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return masks


def _fill(
    folder: Path, own: dict[str, Path], sbd: dict[str, Path], findings: Findings, repair: bool, count: int
) -> dict[str, Mask | None]:
    """Write to `folder` the masks that it lacks, and look through all."""
    present = files_by_id(folder, LABEL_ENDINGS, findings)
    unclear = files_of(folder, LABEL_ENDINGS).keys() - present.keys()  # a mask of several files: which one to replace?
    masks: dict[str, Mask | None] = {}
    for image_id in tqdm(sorted({*own, *sbd, *present} - unclear), "masks", disable=None):
        source = own.get(image_id) or sbd.get(image_id)
        if image_id in present:
            masks[image_id] = _look(present[image_id], findings, repair, source is not None, count)
            if masks[image_id] or source is None or not repair:
                continue
        try:
            label = load_label(own[image_id]) if image_id in own else read_sbd_mask(sbd[image_id])
        except UserError as error:
            findings.add("masks that could not be made", str(error))
            continue
        save_label(present.get(image_id, folder / f"{image_id}.png"), label)
        if image_id in present:
            findings.add(f"masks that could not be used, made anew; the old ones are in {_kept(folder)}", image_id)
        masks[image_id] = _facts(label, image_id, findings, count)
    return masks


def files_by_id(folder: Path, endings: tuple[str, ...], findings: Findings) -> dict[str, Path]:
    """id -> path of the files in `folder`, of photos also below it, in order of the id; empty if there is no such folder."""
    found = {}
    listed = photos_below(folder) if endings == PHOTO_ENDINGS else files_of(folder, endings)
    for image_id, names in sorted(listed.items()):
        try:
            found[check_id(image_id, str(folder / names[0]))] = find_file(folder, image_id, endings)
        except UserError as error:
            kind = "images with more than one file" if len(names) > 1 else "file names other than image ids"
            findings.add(f"{kind}, left out", str(error))
    return found


def _look(path: Path, findings: Findings, repair: bool, replaceable: bool, count: int) -> Mask | None:
    """What a mask shows; None if it cannot be used. Where `repair` is set, one of colours is rewritten, and one that cannot be used
    is kept aside if it is `replaceable`, for the caller to make anew."""
    kept = _kept(path.parent)
    try:
        label, stored = read_label(path)
    except UserError as error:
        if not replaceable:
            findings.add("masks that cannot be used", str(error))
        elif not repair:
            findings.add(
                f"masks that cannot be used; --repair makes them anew and keeps the old ones in {kept}", str(error)
            )
        else:
            keep_aside(path, kept)
        return None
    if not stored and path.parent.name == AUG:  # elsewhere it is only read
        if repair:
            keep_aside(path, kept)
            save_label(path, label)
            findings.add(f"masks of colours, converted to class values; the old ones are in {kept}", path.stem)
        else:
            kind = "masks of colours, not class values; --repair converts them and keeps the old ones in"
            findings.add(f"{kind} {kept}", path.stem)
    return _facts(label, path.stem, findings, count)


def _kept(folder: Path) -> Path:
    """Where the old masks of SegmentationClassAug go."""
    return folder.with_name(f"{AUG}.old")


def _facts(label: np.ndarray, image_id: str, findings: Findings, count: int) -> Mask:
    counts = np.bincount(label.ravel(), minlength=256)
    if counts[count + 1 : VOID].any():
        findings.add(f"masks with values other than 0..{count} and {VOID}", image_id)
    return Mask(tuple(np.flatnonzero(counts[1 : count + 1]).tolist()), label.shape)
