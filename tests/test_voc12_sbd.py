"""SBD's .mat masks."""

import io

import numpy as np
import pytest
from scipy.io import savemat
from voc12_devkit import write_mat

from tool.cli import UserError
from voc12.sbd import find_sbd_masks, read_sbd_mask


@pytest.mark.parametrize("compressed", [True, False])
def test_read_sbd_mask_returns_the_stored_values(tmp_path, compressed):
    label = np.random.default_rng(0).integers(0, 21, (37, 50), dtype=np.uint8)
    write_mat(tmp_path / "a.mat", label, compressed)
    read = read_sbd_mask(tmp_path / "a.mat")
    assert read.dtype == np.uint8 and np.array_equal(read, label)


def test_find_sbd_masks_at_each_level_of_the_archive(tmp_path):
    cls = tmp_path / "benchmark_RELEASE/dataset/cls"
    write_mat(cls / "a.mat", np.zeros((2, 3), np.uint8))
    for root in (tmp_path, tmp_path / "benchmark_RELEASE", cls.parent):
        assert find_sbd_masks(root) == cls
    with pytest.raises(UserError, match=f"--sbd_root {cls}.*--download"):
        find_sbd_masks(cls)


def saved(**content) -> bytes:
    file = io.BytesIO()
    savemat(file, content)
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "keyword"),
    [
        (b"", "damaged"),
        (b"not a mask " * 30, "damaged"),
        (saved(GTinst=1), "damaged"),
        (saved(GTcls={"Segmentation": np.zeros((9, 9), np.uint8)})[:-40], "damaged"),
        (saved(GTcls={"Segmentation": np.zeros((3, 3))}), "matrix"),
        (saved(GTcls={"Segmentation": np.full((3, 3), 21, np.uint8)}), "0..20"),
    ],
)
def test_read_sbd_mask_rejects_other_files(tmp_path, data, keyword):
    (tmp_path / "a.mat").write_bytes(data)
    with pytest.raises(UserError, match=rf"a\.mat.*{keyword}"):
        read_sbd_mask(tmp_path / "a.mat")
