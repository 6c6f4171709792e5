"""voc12/prepare.py: lists, masks, labels and pairs of a devkit; what looks wrong is reported."""

import os
import re

import numpy as np
import pytest
from conftest import SHARED
from PIL import Image
from voc12_devkit import LABELS, SBD_ONLY, TRAIN, VAL, hot, mask, write_devkit, write_png, write_voc_and_sbd, xml

from tool.cli import UserError
from voc12.classes import CLASSES
from voc12.lists import read_image_list, read_pairs
from voc12.prepare import main

TRAIN_AUG = sorted(TRAIN + SBD_ONLY)


def prepare(out, *arguments) -> None:
    main(["--out_dir", str(out), *map(str, arguments)])


def lines_of(ids, folder="SegmentationClassAug") -> str:
    return "".join(f"/JPEGImages/{i}.jpg /{folder}/{i}.png\n" for i in sorted(ids))


def ids_in(pairs) -> list[str]:
    return sorted({image_id for pair in pairs for image_id in pair[:2]})


def load_npy(path) -> dict:
    return np.load(path, allow_pickle=True).item()  # as PSA, SEAM and IRN do


def test_lists_masks_labels_and_pairs_of_a_devkit_and_sbd(tmp_path, capsys):
    root, sbd = write_voc_and_sbd(tmp_path)
    (root / "ImageSets/Segmentation/test.txt").write_text("2009_000008\n2008_000005\n")
    out = tmp_path / "out"
    prepare(out, "--voc12_root", root, "--sbd_root", sbd, "--epochs", 3)
    for name, ids in (("train", TRAIN), ("val", VAL), ("train_aug", TRAIN_AUG)):
        assert (out / f"{name}.txt").read_text() == lines_of(ids)
    assert (out / "test.txt").read_text() == "/JPEGImages/2008_000005.jpg\n/JPEGImages/2009_000008.jpg\n"

    masks = {path.stem: Image.open(path) for path in (root / "SegmentationClassAug").iterdir()}
    assert masks.keys() == LABELS.keys()
    for image_id, image in masks.items():
        expected = mask(*LABELS[image_id])
        if image_id in SBD_ONLY:
            expected[expected == 255] = 0  # SBD has no void; VOC's own masks, with void, win over SBD's
        assert image.mode == "P" and np.array_equal(np.array(image), expected)

    labels = load_npy(out / "cls_labels.npy")
    assert list(labels) == sorted(LABELS) and {label.dtype for label in labels.values()} == {np.dtype(np.float32)}
    assert all(np.array_equal(labels[image_id], hot(*classes)) for image_id, classes in LABELS.items())
    pairs = read_pairs(out / "EDAM_train.txt")
    assert len(pairs) == 9 and ids_in(pairs[:3]) == ids_in(pairs[6:]) == TRAIN_AUG

    said = capsys.readouterr().out
    assert "train_aug.txt: 6 lines (published: 10582), written" in said
    assert "photos: aeroplane 2, bicycle 0" in said and "agree on 8 of 8 images" in said and "nothing looks" in said
    assert f"\n  python train_EDAM_cls.py --voc12_root {root} --train_list {out / 'EDAM_train.txt'} " in said

    files = [*out.iterdir(), *(root / "SegmentationClassAug").iterdir()]
    before = {path: path.stat().st_ino for path in files}
    prepare(out, "--voc12_root", root, "--epochs", 3)
    said = capsys.readouterr().out
    assert {path: path.stat().st_ino for path in files} == before
    assert said.count(", already right\n") == 6 and "written" not in said


def test_without_sbd_train_aug_is_train_and_the_command_is_printed(tmp_path, capsys):
    root, _ = write_voc_and_sbd(tmp_path)
    prepare(tmp_path / "out", "--voc12_root", root)
    assert not (root / "SegmentationClassAug").exists()
    assert read_image_list(tmp_path / "out/train_aug.txt") == list(TRAIN)
    assert f"python voc12/prepare.py --voc12_root {root} --download DIR" in capsys.readouterr().out
    (tmp_path / "out/train.txt").write_text("2007_000001\n")  # by the user
    for _ in range(2):
        prepare(tmp_path / "out", "--voc12_root", root)
    assert sorted(path.name for path in (tmp_path / "out").glob("train.*")) == ["train.txt", "train.txt.1"]
    assert (tmp_path / "out/train.txt.1").read_text() == "2007_000001\n"


def test_everything_that_looks_wrong_is_reported(tmp_path, capsys):
    root, sbd = write_voc_and_sbd(tmp_path)
    prepare(tmp_path / "whole", "--voc12_root", root, "--sbd_root", sbd)
    capsys.readouterr()
    aug = root / "SegmentationClassAug"
    (root / "Annotations/2008_000005.xml").unlink()
    (root / "Annotations/2008_000006.xml").write_text(xml(["unicorn"]))
    write_png(aug / "2010_000001.png", mask(1))  # no photo
    (root / "JPEGImages/2007_000004.jpg").unlink()  # of val
    photo = root / "JPEGImages/2007_000003.jpg"
    photo.write_bytes(photo.read_bytes()[:-30])
    (aug / "2009_000008.png").write_bytes((aug / "2009_000008.png").read_bytes()[:-30])
    write_png(aug / "2009_000007.png", np.full((12, 16), 77, np.uint8))
    write_png(aug / "2008_000005.png", np.zeros((5, 5), np.uint8))
    for name in ("SegmentationClass", "SegmentationClassAug"):
        (root / name / "2007_000002.png").unlink()
    (root / "ImageSets/Segmentation/train.txt").write_text("2007_000001\n2007_000003\n2007_000002\n2012_999999\n")

    prepare(tmp_path / "out", "--voc12_root", root)
    said = capsys.readouterr().out
    for kind, name in (
        ("2 photos without a usable XML", r"2008_000005\.xml.*'unicorn'"),
        ("2 masks without exactly one photo", "2007_000004, 2010_000001"),
        ("1 image of val.txt without exactly one photo", "2007_000004"),
        ("1 image of train.txt without exactly one photo", "2012_999999"),
        ("1 image of val.txt without a mask", "2007_000002"),
        ("1 image in both train.txt and val.txt", "2007_000002"),
        ("1 mask that cannot be used", "2009_000008.png"),
        ("1 mask with values other than 0..20 and 255", "2009_000007"),
        ("2 photos that cannot be used, or masks of another size", r"2007_000003.*2008_000005\.png"),
    ):
        assert re.search(rf"^  {kind}.*: .*{name}", said, re.MULTILINE), kind
    assert read_image_list(tmp_path / "out/train_aug.txt") == ["2007_000001", "2007_000003", *SBD_ONLY]
    assert read_image_list(tmp_path / "out/val.txt") == ["2007_000002"]
    in_pairs = ids_in(read_pairs(tmp_path / "out/EDAM_train.txt"))
    assert in_pairs == ["2007_000001", "2007_000003", "2009_000007", "2009_000008"]
    assert load_npy(tmp_path / "out/cls_labels.npy").keys() == {*in_pairs, "2007_000002"}


def test_wrong_arguments_are_errors(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root, _ = write_voc_and_sbd(tmp_path)
    write_png(root.parent / "labels/a.png", mask())
    given, out = ("--voc12_root", root), ("--out_dir", "out")
    for arguments, keywords in (
        (out, "--voc12_root.*--download"),
        (("--voc12_root", root.parent, *out), f"{root.parent}: .*id you mean {root}"),
        ((*given, "--sbd_root", tmp_path / "none", *out), f"--sbd_root {tmp_path / 'none'}: no .mat"),
        ((*given, "--per_class", 2), "--per_class: .*--out_dir"),
        ((*given, *out, "--label_dir", root.parent / "labels"), "--label_dir .*labels: .*within"),
    ):
        with pytest.raises(UserError, match=keywords):
            main(list(map(str, arguments)))
    (root / "Annotations").rename(tmp_path / "away")
    with pytest.raises(UserError, match="Annotations"):
        prepare("out", *given)
    (root / "ImageSets/Segmentation/train.txt").write_text("2007_000001  1\n2007_000003 -1\n")  # as in ImageSets/Main
    with pytest.raises(UserError, match=r"train\.txt"):
        prepare("out", *given)
    assert not list((tmp_path / "out").iterdir())


def test_per_class_takes_the_first_photos_of_each_class(tmp_path):
    labels = {f"p{n}": classes for n, classes in enumerate([(0, 14), (14,), (6,), (14, 6), (0,), (6,), (14, 0)])}
    root = write_devkit(tmp_path / "VOC2012", labels, train=labels, val=["p0"], own=labels)
    out = tmp_path / "out"
    prepare(out, "--voc12_root", root, "--per_class", 2)
    assert (out / "train.txt").read_text() == lines_of(["p0", "p1", "p2", "p3", "p4"])
    assert (out / "train_aug.txt").read_bytes() == (out / "train.txt").read_bytes()
    assert ids_in(read_pairs(out / "EDAM_train.txt")) == ["p0", "p1", "p2", "p3", "p4"]


def test_label_dir_writes_lists_for_deeplab_pytorch(tmp_path, monkeypatch, capsys):
    root, sbd = write_voc_and_sbd(tmp_path)
    for image_id in TRAIN_AUG[:-1]:
        write_png(root / f"labels/edam/{image_id}.png", mask())
    monkeypatch.chdir(root)
    prepare(tmp_path / "out", "--voc12_root", root, "--sbd_root", sbd, "--label_dir", "labels/edam")
    lists = root / "ImageSets/SegmentationAug"
    assert (lists / "train_aug.txt").read_text() == lines_of(TRAIN_AUG[:-1], "labels/edam")
    assert (lists / "val.txt").read_text() == lines_of(VAL)
    assert f"left out of {lists / 'train_aug.txt'}: {TRAIN_AUG[-1]}" in capsys.readouterr().out


@pytest.mark.skipif(not (SHARED / "voc12_lists").exists(), reason="needs ../shared/voc12_lists")
def test_public_ids_and_labels_give_the_public_files(tmp_path):
    public = load_npy(SHARED / "voc12_lists/cls_labels.npy")  # a file of our own
    root = write_devkit(tmp_path / "VOC2012", {})
    (root / "SegmentationClassAug").mkdir()
    Image.new("RGB", (4, 3)).save(tmp_path / "stub.jpg")
    write_png(tmp_path / "stub.png", mask(14, shape=(3, 4)))
    for image_id, label in public.items():
        os.link(tmp_path / "stub.jpg", root / f"JPEGImages/{image_id}.jpg")
        os.link(tmp_path / "stub.png", root / f"SegmentationClassAug/{image_id}.png")
        (root / f"Annotations/{image_id}.xml").write_text(xml([CLASSES[index] for index in np.flatnonzero(label)]))
    for name in ("train", "val"):
        ids = read_image_list(SHARED / f"voc12_lists/{name}.txt")
        (root / f"ImageSets/Segmentation/{name}.txt").write_text("\n".join(ids))

    prepare(tmp_path / "out", "--voc12_root", root, "--epochs", 1)
    for name in ("train", "val", "train_aug"):
        assert (tmp_path / f"out/{name}.txt").read_bytes() == (SHARED / f"voc12_lists/{name}.txt").read_bytes()
    labels = load_npy(tmp_path / "out/cls_labels.npy")
    assert labels.keys() == public.keys() and all(np.array_equal(labels[i], public[i]) for i in public)
    assert len(read_pairs(tmp_path / "out/EDAM_train.txt")) == 5291


@pytest.mark.skipif(not (SHARED / "voc12_mini").exists(), reason="needs ../shared/voc12_mini")
def test_real_photos_masks_and_annotations(tmp_path, capsys):
    prepare(tmp_path, "--voc12_root", SHARED / "voc12_mini/VOC2012")
    said = capsys.readouterr().out
    assert "labels and masks agree on 54 of 54 images" in said and "nothing looks wrong" in said
