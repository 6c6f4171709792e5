"""Masks of SBD, the Semantic Boundaries Dataset (Hariharan et al., "Semantic contours from inverse detectors")."""

from pathlib import Path

import numpy as np
from scipy.io import loadmat

from tool.cli import UserError
from voc12.classes import CLASSES

SBD_PAGE = "http://home.bharathh.info/pubs/codes/SBD/download.html"
_FOLDERS = ("cls", "dataset/cls", "benchmark_RELEASE/dataset/cls")


def find_sbd_masks(sbd_root: str | Path) -> Path:
    """Return the folder of SBD's class masks (`<id>.mat`), for any level of the unpacked archive as `sbd_root`."""
    for folder in (Path(sbd_root) / name for name in _FOLDERS):
        if folder.is_dir() and any(folder.glob("*.mat")):
            return folder
    raise UserError(
        f"--sbd_root {sbd_root}: no .mat files in {', '.join(_FOLDERS)}. Give the folder that SBD's benchmark.tgz "
        f"unpacks to ({SBD_PAGE}), or --download DIR to fetch it."
    )


def read_sbd_mask(path: str | Path) -> np.ndarray:
    """Return `GTcls.Segmentation` of an SBD `.mat` file: uint8 (H, W), 0 background, 1..20 VOC class + 1.

    UserError: the file is missing, damaged, or holds something else.
    """
    try:
        label = loadmat(path, variable_names=["GTcls"])["GTcls"]["Segmentation"].ravel()[0]
    except Exception as error:  # scipy raises a dozen types for damaged files
        raise UserError(f"{path}: damaged or no SBD mask ({error!r}). Unpack SBD's benchmark.tgz again.") from error
    is_map = isinstance(label, np.ndarray) and label.ndim == 2 and label.dtype == np.uint8 and label.size > 0
    if not is_map or label.max() > len(CLASSES):
        raise UserError(
            f"{path}: GTcls.Segmentation is no matrix of 0..{len(CLASSES)}. Unpack SBD's benchmark.tgz again."
        )
    return label
