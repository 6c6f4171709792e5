"""SBD's .mat masks: exact values, and files that are no SBD mask."""

import io
import struct
import zlib

import numpy as np
import pytest
from scipy.io import savemat
from voc12_devkit import write_mat

from tool.cli import UserError
from voc12.sbd import find_sbd_masks, read_sbd_mask


@pytest.mark.parametrize("compressed", [True, False])
def test_the_segmentation_is_read_exactly(tmp_path, compressed):
    label = np.random.default_rng(0).integers(0, 21, (37, 50), dtype=np.uint8)
    write_mat(tmp_path / "a.mat", label, compressed)
    read = read_sbd_mask(tmp_path / "a.mat")
    assert (read.dtype, read.shape) == (np.uint8, (37, 50))
    assert np.array_equal(read, label)


def test_any_level_of_the_unpacked_archive_will_do(tmp_path):
    cls = tmp_path / "benchmark_RELEASE/dataset/cls"
    write_mat(cls / "a.mat", np.zeros((2, 3), np.uint8))
    for root in (tmp_path, tmp_path / "benchmark_RELEASE", cls.parent):
        assert find_sbd_masks(root) == cls
    with pytest.raises(UserError, match=r"--sbd_root .*/cls holds no \.mat files.*--download DIR"):
        find_sbd_masks(cls)


def raw(**content) -> bytes:
    file = io.BytesIO()
    savemat(file, content)
    return file.getvalue()


def struct_with(label) -> bytes:
    return raw(GTcls={"Segmentation": label})


def bomb() -> bytes:
    """A compressed element of 100 MB of zeros, in 100 kB."""
    element = zlib.compress(bytes(100 << 20))
    return raw(x=1)[:128] + struct.pack("<II", 15, len(element)) + element


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no MATLAB 5 file"),
        (b"not a mask " * 30, "no MATLAB 5 file"),
        (raw(x=1)[:128] + bytes(5 << 20), "no MATLAB 5 file"),
        (raw(GTinst=1), "holds no GTcls.Segmentation"),
        (raw(GTcls={"Boundaries": 1}), "holds no GTcls.Segmentation"),
        (struct_with(np.zeros((9, 9), np.uint8))[:-40], "is damaged"),
        (raw(x=1)[:128] + struct.pack("<II", 15, 100) + b"x" * 100, "is damaged"),
        (bomb(), "decompresses to more than 64 MB"),
        (struct_with(np.zeros((3, 3))), "no uint8 matrix"),
        (struct_with("text"), "no uint8 matrix"),
        (struct_with(np.zeros((2, 2, 2), np.uint8)), "no uint8 matrix"),
        (struct_with(np.full((3, 3), 21, np.uint8)), "value 21, where 0..20"),
    ],
)
def test_what_is_no_sbd_mask_is_refused_by_name(tmp_path, data, message):
    (tmp_path / "2008_000002.mat").write_bytes(data)
    with pytest.raises(UserError, match=rf"2008_000002\.mat.*{message}"):
        read_sbd_mask(tmp_path / "2008_000002.mat")


def test_missing_mask_is_named(tmp_path):
    with pytest.raises(UserError, match=r"cannot read SBD mask .*a\.mat: No such file"):
        read_sbd_mask(tmp_path / "a.mat")
