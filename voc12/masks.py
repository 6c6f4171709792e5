"""Masks of a dataset: SegmentationClassAug, made of VOC 2012's and SBD's (Hariharan et al., ICCV 2011); checks of masks."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from scipy.io import loadmat
from tqdm import tqdm

from tool import VOID
from tool.cli import UserError
from tool.files import back_up, make_folder, remove_leftovers
from voc12.classes import CLASSES
from voc12.dataset import Dataset, Files, check_inputs, label_maps
from voc12.images import read_label, save_label, values_in
from voc12.labels import find_suspicion
from voc12.prepare_steps import Findings

AUG = "SegmentationClassAug"
OWN = "SegmentationClass"
SBD_PAGE = "http://home.bharathh.info/pubs/codes/SBD/download.html"
Masks = dict[str, tuple[int, ...] | None]  # id -> values in the mask, None for an unusable one


def mask_folder(root: Path) -> str:
    """Return the name of the dataset's folder of masks: SegmentationClassAug if it holds any."""
    return AUG if any((root / AUG).glob("[!.]*.[pP][nN][gG]")) else OWN  # without a walk: it is asked often


def sbd_masks(sbd_root: Path) -> Files:
    """Return SBD's class masks, for any level of the unpacked archive as `sbd_root`. UserError: none."""
    for name in ("cls", "dataset/cls", "benchmark_RELEASE/dataset/cls"):
        files = Files("SBD mask", sbd_root / name, (".mat",))
        if files.names:
            return files
    remedy = f"Give the folder that SBD's benchmark.tgz unpacks to ({SBD_PAGE}), or --download DIR to fetch it."
    raise UserError(f"--sbd_root {sbd_root}: no .mat files in it or in dataset/cls. {remedy}")


def read_sbd_mask(path: Path) -> np.ndarray:
    """Return `GTcls.Segmentation` of an SBD file: uint8 (H, W), 0 background, 1..20 VOC class + 1. UserError: it holds none."""
    try:
        label = loadmat(path, variable_names=["GTcls"])["GTcls"]["Segmentation"].ravel()[0]
        if label.ndim != 2 or label.dtype != np.uint8 or label.max() > len(CLASSES):
            raise ValueError(f"GTcls.Segmentation is not a matrix of 0..{len(CLASSES)}")
    except Exception as error:  # scipy raises a dozen types for damaged files
        raise UserError(f"{path}: damaged or no SBD mask ({error!r}). Unpack SBD's benchmark.tgz again.") from error
    return label


def complete_masks(data: Dataset, sbd_root: Path | None, findings: Findings, repair: bool = False) -> Masks:
    """Create the masks that SegmentationClassAug lacks, VOC's own before SBD's, and return the values in each.

    A new folder appears when it is complete. Without SBD and without the folder only VOC's own masks are read.
    repair: rewrite masks of colours as class values and unusable ones from their source; old files become `<id>.png.1`.
    """
    count, folder, partial = len(data.classes), data.root / AUG, data.root / f"{AUG}.partial"
    if sbd_root is None and mask_folder(data.root) == OWN:
        return _complete(data.masks.folder, {}, findings, False, count)
    own, sbd = data.masks, sbd_masks(sbd_root) if sbd_root else None
    sources = {image_id: files.find(image_id) for files in (sbd, own) if files for image_id in files.names}
    if folder.exists():
        remove_leftovers(folder)
        return _complete(folder, sources, findings, repair, count)
    shutil.rmtree(partial, ignore_errors=True)  # of an interrupted run, perhaps with other sources
    masks = _complete(make_folder(partial), sources, findings, repair, count)
    os.replace(partial, folder)
    return masks


def _complete(folder: Path, sources: Mapping[str, Path], findings: Findings, repair: bool, count: int) -> Masks:
    files = label_maps(folder)
    masks: Masks = dict.fromkeys(files.names)
    for image_id in tqdm(sorted({*sources, *masks}), "masks", disable=None):
        try:
            path = files.find(image_id)
            label, is_right = _read(path, sources.get(image_id), repair)
        except UserError as error:
            remedy = " (--repair makes those of VOC and SBD again)" if folder.name != OWN else ""
            findings[f"masks that cannot be used{remedy}"].append(str(error))
            continue
        if not path.exists() or (repair and not is_right):
            if back_up(path, copy=True):
                findings["masks rewritten, damaged or in colours before (old files: <id>.png.1)"].append(image_id)
            save_label(path, label)
        elif not is_right and folder.name != OWN:
            findings["masks with colours instead of class values; --repair rewrites them"].append(image_id)
        masks[image_id] = values = tuple(values_in(label))  # no array: many small ones fragment the heap by 1 GB
        if any(count < value < VOID for value in values):
            findings[f"masks with values other than 0..{count} and {VOID}"].append(image_id)
            masks[image_id] = None
    return masks


def _read(path: Path, source: Path | None, repair: bool) -> tuple[np.ndarray, bool]:
    """Return a label map, read from `source` if missing or, with `repair`, damaged; and whether the file is right."""
    try:
        return read_label(path)
    except UserError:
        if source is None or (path.exists() and not repair):
            raise
    return read_sbd_mask(source) if source.suffix.lower() == ".mat" else read_label(source)[0], False


def check_images(
    data: Dataset, ids: list[str], labels: dict[str, np.ndarray], masks: Masks, findings: Findings
) -> None:
    """Report unusable photos and masks, and masks with other classes than the labels. UserError: they are no label maps."""
    folder = data.root / mask_folder(data.root)
    with_mask = {image_id for image_id in ids if masks.get(image_id) is not None}
    problems = check_inputs(sorted(with_mask), [data.photos, label_maps(folder)])
    problems += check_inputs(sorted(set(ids) - with_mask), [data.photos])
    findings["photos that cannot be used, or masks of another size"] += [message for _, message in problems]
    both = {image_id: values for image_id in labels if (values := masks.get(image_id)) is not None}
    if suspicion := find_suspicion(folder, both, {}):
        findings["folder of masks that look wrong"].append(suspicion)
    shown = {image_id: set(np.flatnonzero(labels[image_id]) + 1) for image_id in both}
    other = [image_id for image_id, values in both.items() if set(values) - {0, VOID} != shown[image_id]]
    if len(other) > 0.1 * len(both):  # VOC's own agree without exception
        findings[f"masks (of {len(both)}) with other classes than the image labels"] += other
    if both:
        print(f"labels and masks agree on {len(both) - len(other)} of {len(both)} images")
