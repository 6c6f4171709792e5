"""demo/draw.py: its files, and properties of the photos that the demo's figures rest on."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from demo.draw import Sample, draw_photo, make_devkit, photo_id
from tool import VOID
from tool.cli import UserError
from tool.files import HOST
from voc12.classes import CLASSES, PALETTE
from voc12.dataset import read_image_list
from voc12.images import load_grey, load_label, load_photo
from voc12.labels import read_annotation


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def devkit(tmp_path_factory) -> Path:
    return make_devkit(tmp_path_factory.mktemp("set"), seed=3, train=20, val=2, size=96, num_workers=1)


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return [draw_photo(0, number, 128) for number in range(1, 61)]


def test_layout_of_the_devkit(devkit):
    ids = [photo_id(number) for number in range(1, 23)]
    assert ids[0] == "2099_000001"
    for folder, suffix in (("JPEGImages", "jpg"), ("SegmentationClass", "png"), ("saliency", "png")):
        assert sorted(path.name for path in (devkit / folder).glob(f"*.{suffix}")) == [f"{i}.{suffix}" for i in ids]
    lists = devkit / "ImageSets" / "Segmentation"
    assert read_image_list(lists / "train.txt") == ids[:20]
    assert read_image_list(lists / "val.txt") == ids[20:]
    assert read_image_list(lists / "trainval.txt") == ids
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


def test_borders_are_void_and_separate_labels(samples):
    for sample in samples:
        for left, right in ((sample.label[:, :-1], sample.label[:, 1:]), (sample.label[:-1], sample.label[1:])):
            differ = left != right
            assert ((left[differ] == VOID) | (right[differ] == VOID)).all()
        assert 0.02 < (sample.label == VOID).mean() < 0.2


def test_photo_depends_on_seed_and_number_only(devkit, tmp_path, commands):
    flags = ("--seed", 3, "--train", 20, "--val", 2, "--size", 96, "--num_workers", 2)
    command = commands.run(tmp_path, "demo/draw.py", "--out", ".", *flags)
    assert "20 training and 2 validation photos" in command.stdout
    assert files_of(tmp_path / "VOC2012") == files_of(devkit)
    fewer = make_devkit(tmp_path / "fewer", seed=3, train=4, val=1, size=96, num_workers=1)
    name = f"JPEGImages/{photo_id(5)}.jpg"
    assert (fewer / name).read_bytes() == (devkit / name).read_bytes()
    assert draw_photo(4, 1, 96).image.tobytes() != draw_photo(3, 1, 96).image.tobytes()


def test_interrupted_set_is_completed_and_others_are_kept(devkit, tmp_path):
    """Left by a killed run: a photo without its XML, half a file of a process that is gone, no lists."""
    root = tmp_path / "VOC2012"
    shutil.copytree(devkit, root)
    photo, settings = root / "JPEGImages" / f"{photo_id(7)}.jpg", root / "SegmentationClass/edam_manifest.json"
    photo.unlink()
    (root / "Annotations" / f"{photo_id(7)}.xml").unlink()
    (root / f"saliency/.{photo_id(1)}.png.{HOST}.999999999.tmp").touch()
    shutil.rmtree(root / "ImageSets")
    make_devkit(tmp_path, seed=3, train=20, val=2, size=96, num_workers=1)
    assert files_of(root) == files_of(devkit)

    photo.write_bytes(b"edited")
    make_devkit(tmp_path, seed=3, train=20, val=2, size=96, num_workers=1)  # it is complete
    assert photo.read_bytes() == b"edited"
    with pytest.raises(UserError, match="VOC2012"):
        make_devkit(tmp_path, seed=4, train=20, val=2, size=96, num_workers=1)
    settings.unlink()
    for path in settings.parent.iterdir():
        path.unlink()  # photos and lists are left, as of a devkit without masks
    with pytest.raises(UserError, match="VOC2012"):
        make_devkit(tmp_path, seed=3, train=20, val=2, size=96, num_workers=1)


def test_photos_show_one_to_three_objects_of_varied_size(samples):
    counts = np.bincount([len(sample.names) for sample in samples], minlength=4)
    assert counts[0] == 0
    assert counts[1:].min() >= 0.15 * len(samples)
    shown = [sample.label == CLASSES.index(name) + 1 for sample in samples for name in sample.names]
    long_sides = np.array([np.ptp(np.argwhere(pixels), 0).max() for pixels in shown])
    assert 40 < np.median(long_sides) < 85
    assert np.percentile(long_sides, 95) > 1.4 * np.percentile(long_sides, 5)


def test_single_photos_show_one_object_of_every_class(tmp_path):
    single = make_devkit(tmp_path, seed=3, train=20, val=0, size=96, num_workers=1, single=True)
    shown = [read_annotation(path) for path in sorted((single / "Annotations").iterdir())]
    assert [labels.sum() for labels in shown] == [1] * 20
    assert np.sum(shown, 0).tolist() == [1] * 20
    with pytest.raises(UserError, match="VOC2012"):
        make_devkit(tmp_path, seed=3, train=20, val=0, size=96, num_workers=1)
