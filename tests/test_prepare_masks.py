"""SBD's masks; voc12/prepare.py killed, and with masks and lists that a user made."""

import errno
import io
import itertools
import os
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from voc12_devkit import SBD_ONLY, contents, write_mat, write_voc_and_sbd

from tool.cli import UserError
from voc12.classes import PALETTE
from voc12.masks import AUG, OWN, mask_folder, read_sbd_mask, sbd_masks
from voc12.prepare import main as prepare

COLOURED, TRUNCATED, EMPTY, PHOTO = *SBD_ONLY[:3], "2007_000001"


def test_sbd_masks_at_each_level_of_the_archive(tmp_path):
    cls = tmp_path / "benchmark_RELEASE/dataset/cls"
    label = np.random.default_rng(0).integers(0, 21, (37, 50), dtype=np.uint8)
    write_mat(cls / "a.mat", label)
    for root in (tmp_path, tmp_path / "benchmark_RELEASE", cls.parent):
        read = read_sbd_mask(sbd_masks(root).find("a"))
        assert read.dtype == np.uint8 and np.array_equal(read, label)


def test_hidden_files_are_no_masks(tmp_path):
    (tmp_path / AUG).mkdir()
    (tmp_path / AUG / "._a.png").touch()  # as macOS leaves them
    assert mask_folder(tmp_path) == OWN


def saved(label) -> bytes:
    file = io.BytesIO()
    savemat(file, {"GTcls": {"Segmentation": label}})
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "keyword"),
    [
        (b"not a mask " * 30, "damaged"),
        (saved(np.zeros((9, 9), np.uint8))[:-40], "damaged"),
        (saved(np.zeros((3, 3))), "matrix"),
        (saved(np.full((3, 3), 21, np.uint8)), "0..20"),
    ],
)
def test_read_sbd_mask_rejects_other_files(tmp_path, data, keyword):
    (tmp_path / "a.mat").write_bytes(data)
    with pytest.raises(UserError, match=rf"a\.mat.*{keyword}"):
        read_sbd_mask(tmp_path / "a.mat")


def flags_for(folder):
    root, sbd = write_voc_and_sbd(folder)
    flags = ["--voc12_root", root, "--sbd_root", sbd, "--epochs", 50, "--out_dir", folder / "out"]
    return root, folder / "out", list(map(str, flags))


def killed(flags, step: int) -> bool:
    """Run in a child process that ends without any clean-up at its n-th os.replace."""
    child = os.fork()
    if child == 0:
        replace, steps = os.replace, itertools.count(1)
        os.replace = lambda *paths: os._exit(9) if next(steps) == step else replace(*paths)
        try:
            prepare(flags)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def test_killed_run_leaves_no_partial_file_and_the_next_completes(tmp_path):
    root, out, flags = flags_for(tmp_path / "whole")
    prepare(flags)
    whole = contents(root, out)
    root, out, flags = flags_for(tmp_path / "killed")
    for step in (3, 9, 11, 1):  # at a mask (8 in a new folder), at the folder, at lists
        assert killed(flags, step)
        left = {name: data for name, data in contents(root, out).items() if ".partial/" not in name}
        assert all(data == whole[name] for name, data in left.items() if "/." not in name)
    prepare(flags)
    assert contents(root, out) == whole


@pytest.fixture
def devkit(tmp_path, capsys):
    """A devkit whose SegmentationClassAug has a mask of colours, a truncated and an empty one, and a photo."""
    root, _, flags = flags_for(tmp_path)
    prepare(flags)
    folder = root / "SegmentationClassAug"
    whole = contents(folder)
    Image.fromarray(PALETTE[np.array(Image.open(folder / f"{COLOURED}.png"))]).save(folder / f"{COLOURED}.png")
    (folder / f"{TRUNCATED}.png").write_bytes((folder / f"{TRUNCATED}.png").read_bytes()[:-30])
    (folder / f"{EMPTY}.png").write_bytes(b"")
    Image.effect_noise((16, 12), 50).convert("RGB").save(folder / f"{PHOTO}.png")
    capsys.readouterr()
    return folder, flags, whole, contents(folder)


def test_masks_are_not_replaced_without_repair(devkit, capsys):
    folder, flags, _, before = devkit
    prepare(flags)
    assert contents(folder) == before
    said = capsys.readouterr().out.splitlines()
    assert any("1 mask with colours" in line and "--repair" in line and COLOURED in line for line in said)
    unusable = next(line for line in said if "3 masks that cannot be used" in line)
    assert "--repair" in unusable and all(f"{name}.png" in unusable for name in (TRUNCATED, EMPTY, PHOTO))
    assert "labels and masks agree on 5 of 5 images" in said  # the colours were understood


def test_repair_rewrites_masks_and_backs_them_up_even_if_killed(devkit):
    folder, flags, whole, before = devkit
    assert killed([*flags, "--repair"], 2)
    assert set(before.values()) <= set(contents(folder).values())
    prepare([*flags, "--repair"])
    broken = {f"SegmentationClassAug/{name}.png" for name in (COLOURED, TRUNCATED, EMPTY, PHOTO)}
    left = {name: data for name, data in contents(folder).items() if "/." not in name}
    assert left == whole | {f"{name}.1": before[name] for name in broken}


def test_repair_keeps_masks_without_source_and_ambiguous_ones(devkit, capsys):
    folder, flags, _, before = devkit
    (folder / f"{EMPTY}.PNG").write_bytes(b"mine")
    prepare([*flags[:2], *flags[4:], "--repair"])  # without SBD
    changed = {name for name, data in before.items() if contents(folder)[name] != data}
    assert changed == {f"SegmentationClassAug/{name}.png" for name in (COLOURED, PHOTO)}
    said = capsys.readouterr().out
    assert f"{EMPTY}.PNG and {EMPTY}.png" in said and f"{TRUNCATED}.png" in said


def test_full_disk_stops_the_run(tmp_path, monkeypatch):
    root, out, flags = flags_for(tmp_path)
    monkeypatch.setattr(os, "fsync", Mock(side_effect=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    with pytest.raises(UserError, match=r"cannot write .*SegmentationClassAug.*No space"):
        prepare(flags)
    assert not (root / "SegmentationClassAug").exists() and not list(out.iterdir())
