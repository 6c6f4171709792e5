"""demo/draw.py: its files, and properties of the photos that the demo's figures rest on."""

import os
import shutil
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from training import image_id

from demo.draw import draw_photo, make_devkit
from tool import VOID
from tool.cli import UserError
from tool.files import HOST
from voc12.classes import CLASSES, PALETTE
from voc12.dataset import read_image_list
from voc12.images import load_grey, load_label, load_photo
from voc12.labels import read_annotation

make = partial(make_devkit, seed=3, train=20, val=2, size=96, num_workers=1)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def devkit(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("set"))


def test_layout_of_the_devkit(devkit):
    ids = [image_id(number) for number in range(1, 23)]
    lists = devkit / "ImageSets" / "Segmentation"
    for name, expected in (("train", ids[:20]), ("val", ids[20:]), ("trainval", ids)):
        assert read_image_list(lists / f"{name}.txt") == expected
    with Image.open(devkit / "SegmentationClass" / f"{ids[0]}.png") as image:
        assert image.mode == "P"
        assert image.getpalette() == PALETTE.ravel().tolist()


def test_annotations_agree_with_the_masks(devkit):
    seen = np.zeros(20)
    for path in sorted((devkit / "Annotations").iterdir()):
        label = load_label(devkit / "SegmentationClass" / f"{path.stem}.png")
        shown = np.setdiff1d(np.unique(label), (0, VOID)) - 1
        assert np.array_equal(np.flatnonzero(read_annotation(path)), shown)
        seen[shown] += 1
        assert load_photo(devkit / "JPEGImages" / f"{path.stem}.jpg").size == label.shape[::-1]
        assert load_grey(devkit / "saliency" / f"{path.stem}.png").shape == label.shape
        assert max(label.shape) == 96
    assert seen.min() >= 1  # 20 photos are enough for every class to occur


def test_borders_are_void_and_separate_labels_of_one_to_three_objects():
    samples = [draw_photo(0, number, 128) for number in range(1, 61)]
    counts = np.bincount([len(sample.names) for sample in samples], minlength=4)
    assert counts[0] == 0 and counts[1:].min() >= 0.15 * len(samples)
    for sample in samples:
        for left, right in ((sample.label[:, :-1], sample.label[:, 1:]), (sample.label[:-1], sample.label[1:])):
            differ = left != right
            assert ((left[differ] == VOID) | (right[differ] == VOID)).all()
        assert 0.02 < (sample.label == VOID).mean() < 0.2


def test_photo_depends_on_seed_and_number_only(devkit, tmp_path, commands):
    flags = ("--seed", 3, "--train", 20, "--val", 2, "--size", 96, "--num_workers", 2)
    commands.run(tmp_path, "demo/draw.py", "--out", ".", *flags)
    assert files_of(tmp_path / "VOC2012") == files_of(devkit)
    assert draw_photo(4, 1, 96).image.tobytes() != draw_photo(3, 1, 96).image.tobytes()


def test_interrupted_set_is_completed_and_others_are_kept(devkit, tmp_path):
    """Left by a killed run: a photo without its XML, half a file of a process that is gone, no lists."""
    root = tmp_path / "VOC2012"
    shutil.copytree(devkit, root)
    photo = root / "JPEGImages" / f"{image_id(7)}.jpg"
    photo.unlink()
    (root / "Annotations" / f"{image_id(7)}.xml").unlink()
    (root / f"saliency/.{image_id(1)}.png.{HOST}.999999999.tmp").touch()
    shutil.rmtree(root / "ImageSets")
    make(tmp_path)
    assert files_of(root) == files_of(devkit)

    photo.write_bytes(b"edited")
    make(tmp_path)  # it is complete
    assert photo.read_bytes() == b"edited"
    for other in ({"seed": 4}, {"single": True}):
        with pytest.raises(UserError, match="VOC2012"):
            make(tmp_path, **other)
    shutil.rmtree(root / "SegmentationClass")  # photos and lists are left, as of a devkit without masks
    with pytest.raises(UserError, match="VOC2012"):
        make(tmp_path)


def test_killed_drawing_process(tmp_path, monkeypatch):
    monkeypatch.setattr("demo.draw.draw_photo", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(UserError, match=r"--num_workers: .*killed"):
        make(tmp_path)


def test_single_photos_show_one_object_of_every_class():
    assert sorted(draw_photo(3, n, 96, single=True).names for n in range(20)) == sorted((name,) for name in CLASSES)
