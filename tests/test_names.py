"""Preparing a devkit whose files and classes have unusual names."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from voc12_devkit import contents, hot, mask, write_devkit, write_png, xml

from tool.cli import UserError
from voc12.dataset import Dataset
from voc12.lists import read_image_list
from voc12.prepare import main as prepare


def rename(path: Path, name: str) -> None:
    path.rename(path.with_name(name))


def test_ignore_foreign_of_every_script_that_reads_labels(tmp_path, commands):
    root = write_devkit(tmp_path / "VOC2012", {"a": (0,), "b": (0,)}, ["a"], ["b"], own="ab")
    (root / "Annotations/a.xml").write_text(xml(["zebra", "airplane"]))
    assert np.array_equal(Dataset(root, ignore_foreign=True).image_labels("a", "none/train.txt")["a"], hot(0))
    prepare(["--voc12_root", str(root), "--out_dir", str(tmp_path / "out"), "--ignore_foreign"])
    assert np.array_equal(np.load(tmp_path / "out/cls_labels.npy", allow_pickle=True).item()["a"], hot(0))
    flags = ("--voc12_root", root, "--image_list", root / "ImageSets/Segmentation/train.txt", "--out", "pairs.txt")
    assert "'zebra'" in commands.run(tmp_path, "voc12/pairs.py", *flags, status=1).stderr[0]
    commands.run(tmp_path, "voc12/pairs.py", *flags, "--ignore_foreign")
    for script in ("train_EDAM_cls.py", "infer_cls.py", "experiment/baselines.py"):
        assert "--ignore_foreign" in commands.run(tmp_path, script, "--help").stdout


def test_devkit_of_unusual_names(tmp_path, capsys):
    labels = {"my photo (1)": (7,), "été": (7, 14), "c": (14,), "d": (7,)}
    root = write_devkit(tmp_path / "VOC2012", labels, ["my photo (1)", "été", "d"], ["c"], own=labels)
    rename(root / "JPEGImages/my photo (1).jpg", "my photo (1).JPG")
    Image.new("RGB", (16, 12)).save(root / "JPEGImages/été.png")
    (root / "JPEGImages/été.jpg").unlink()
    rename(root / "SegmentationClass/c.png", "c.PNG")
    rename(root / "Annotations/c.xml", "c.XML")
    (root / "JPEGImages/d.jpeg").write_bytes(b"")
    (root / "SegmentationClassAug").mkdir()
    for image_id in labels:
        write_png(root / f"SegmentationClassAug/{image_id}.png", mask(*labels[image_id]))
    before = contents(root)
    prepare(["--voc12_root", str(root), "--out_dir", str(tmp_path / "out")])
    assert contents(root) == before
    assert "d.jpeg and d.jpg" in capsys.readouterr().out
    assert read_image_list(tmp_path / "out/train_aug.txt") == ["my photo (1)", "été"]
    pairs = Dataset(root).read_pairs(tmp_path / "out/EDAM_train.txt")
    assert {pair[:2] for pair in pairs} <= {("my photo (1)", "été"), ("été", "my photo (1)")}


def test_empty_list_of_the_devkit(tmp_path):
    root = write_devkit(tmp_path / "VOC2012", {"a": (0,)}, ["a"], [], own="a")
    with pytest.raises(UserError, match=r"val\.txt.*empty(?!.*prepare\.py)"):
        prepare(["--voc12_root", str(root), "--out_dir", str(tmp_path / "out")])
