"""Masks of SBD, the Semantic Boundaries Dataset (Hariharan et al., "Semantic contours from inverse detectors")."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from scipy.io import loadmat

from tool.cli import UserError
from voc12.classes import CLASSES

SBD_PAGE = "http://home.bharathh.info/pubs/codes/SBD/download.html"
_FOLDERS = ("cls", "dataset/cls", "benchmark_RELEASE/dataset/cls")
_LARGEST_FILE = 4 << 20  # bytes; a real one is some kB
_LARGEST_CONTENT = 64 << 20  # bytes after decompression


def find_sbd_masks(sbd_root: str | Path) -> Path:
    """The folder of SBD's class masks (`<id>.mat`) under `sbd_root`, whichever level of the archive that is."""
    for folder in (Path(sbd_root) / name for name in _FOLDERS):
        if folder.is_dir() and any(folder.glob("*.mat")):
            return folder
    raise UserError(
        f"--sbd_root {sbd_root} holds no .mat files in any of {', '.join(_FOLDERS)}: give the folder that SBD's "
        f"benchmark.tgz unpacks to ({SBD_PAGE}), or --download DIR to fetch it"
    )


def read_sbd_mask(path: str | Path) -> np.ndarray:
    """`GTcls.Segmentation` of an SBD `.mat` file: uint8 (H, W), 0 background, 1..20 VOC class + 1.

    UserError naming the file where it is missing, damaged, too large, or holds something else.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise UserError(f"cannot read SBD mask {path}: {error.strerror}") from None
    if len(data) > _LARGEST_FILE or data[124:128] not in (b"\0\1IM", b"\1\0MI"):
        raise UserError(f"SBD mask {path} is no MATLAB 5 file of SBD")
    try:
        _check_content(data, path)
        label = loadmat(io.BytesIO(data), variable_names=["GTcls"])["GTcls"]["Segmentation"].ravel()[0]
    except UserError:
        raise
    except Exception as error:  # scipy raises whatever a damaged file leads it into, of a dozen types
        raise UserError(f"SBD mask {path} is damaged or holds no GTcls.Segmentation ({type(error).__name__})") from None
    if not isinstance(label, np.ndarray) or label.ndim != 2 or label.dtype != np.uint8 or label.size == 0:
        raise UserError(f"SBD mask {path}: GTcls.Segmentation is no uint8 matrix")
    if label.max() > len(CLASSES):
        raise UserError(f"SBD mask {path}: value {label.max()}, where 0..{len(CLASSES)} was expected")
    return label


def _check_content(data: bytes, path: str | Path) -> None:
    """UserError if a compressed element of the MATLAB file would decompress to more than any mask needs."""
    order = "<" if data[126:128] == b"IM" else ">"
    offset, compressed, total = 128, 15, 0
    while offset + 8 <= len(data):
        kind, size = struct.unpack_from(f"{order}II", data, offset)
        if kind == compressed:
            total += len(zlib.decompressobj().decompress(data[offset + 8 : offset + 8 + size], _LARGEST_CONTENT + 1))
        if total > _LARGEST_CONTENT:
            raise UserError(f"SBD mask {path} decompresses to more than {_LARGEST_CONTENT >> 20} MB")
        offset += 8 + size
