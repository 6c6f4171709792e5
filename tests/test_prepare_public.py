"""voc12/prepare.py against the public lists and labels, and on real photos."""

import os

import numpy as np
import pytest
from PIL import Image
from voc12_devkit import SHARED, mask, write_devkit, write_png, xml

from voc12.classes import CLASSES
from voc12.lists import read_image_list, read_pairs
from voc12.prepare import main


def prepare(out, *arguments) -> None:
    main(["--out_dir", str(out), *map(str, arguments)])


@pytest.mark.skipif(not (SHARED / "voc12_lists").exists(), reason="needs ../shared/voc12_lists")
def test_public_ids_and_labels_come_out_as_the_public_files(tmp_path):
    public = np.load(SHARED / "voc12_lists/cls_labels.npy", allow_pickle=True).item()  # a file of our own
    root = write_devkit(tmp_path / "VOC2012", {})
    (root / "SegmentationClassAug").mkdir()
    Image.new("RGB", (4, 3)).save(tmp_path / "stub.jpg")
    write_png(tmp_path / "stub.png", mask(shape=(3, 4)))
    for image_id, label in public.items():
        os.link(tmp_path / "stub.jpg", root / f"JPEGImages/{image_id}.jpg")
        os.link(tmp_path / "stub.png", root / f"SegmentationClassAug/{image_id}.png")
        text = xml([CLASSES[index] for index in np.flatnonzero(label)])
        (root / f"Annotations/{image_id}.xml").write_text(text)
    for image_id in read_image_list(SHARED / "voc12_lists/test.txt"):
        os.link(tmp_path / "stub.jpg", root / f"JPEGImages/{image_id}.jpg")
    for name in ("train", "val", "test"):
        ids = read_image_list(SHARED / f"voc12_lists/{name}.txt")
        (root / f"ImageSets/Segmentation/{name}.txt").write_text("\n".join(ids))

    prepare(tmp_path / "out", "--voc12_root", root, "--epochs", 1)
    for name in ("train", "val", "test", "train_aug"):
        assert (tmp_path / f"out/{name}.txt").read_bytes() == (SHARED / f"voc12_lists/{name}.txt").read_bytes()
    labels = np.load(tmp_path / "out/cls_labels.npy", allow_pickle=True).item()
    assert labels.keys() == public.keys()
    assert all(np.array_equal(labels[image_id], public[image_id]) for image_id in public)
    assert len(read_pairs(tmp_path / "out/EDAM_train.txt")) == 5291


@pytest.mark.skipif(not (SHARED / "voc12_mini").exists(), reason="needs ../shared/voc12_mini")
def test_real_photos_masks_and_annotations(tmp_path, capsys):
    root = SHARED / "voc12_mini/VOC2012"
    prepare(tmp_path, "--voc12_root", root)
    said = capsys.readouterr().out
    assert "labels and masks agree on 54 of 54 images" in said
    findings = said.split("please look at these:\n")[1].split("\n\n")[0]
    assert findings == "  1 folder missing, so train_aug is no more than train (see below): SegmentationClassAug"
    ids = (root / "ImageSets/Segmentation/train.txt").read_text().split()
    assert read_image_list(tmp_path / "train_aug.txt") == ids
    labels = np.load(tmp_path / "cls_labels.npy", allow_pickle=True).item()
    pairs = read_pairs(tmp_path / "EDAM_train.txt")
    assert all(labels[first][label] and labels[second][label] for first, second, label in pairs)
    assert {image_id for pair in pairs for image_id in pair[:2]} == set(ids)
