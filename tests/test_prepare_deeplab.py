"""voc12/prepare.py --label_dir: lists for kazuto1011/deeplab-pytorch."""

import numpy as np
import pytest
from voc12_devkit import SBD_ONLY, TRAIN, VAL, contents, write_png, write_voc_and_sbd

from tool.cli import UserError
from voc12.lists import read_image_list
from voc12.prepare import main

TRAIN_AUG = sorted(TRAIN + SBD_ONLY)


@pytest.fixture
def devkit(tmp_path):
    """A devkit with pseudo labels of train_aug in labels/edam, and SBD; the flags that prepare it."""
    root, sbd = write_voc_and_sbd(tmp_path)
    for image_id in TRAIN_AUG:
        write_png(root / f"labels/edam/{image_id}.png", np.zeros((12, 16), np.uint8))
    return root, sbd, ["--voc12_root", str(root), "--epochs", "2", "--out_dir", str(tmp_path / "out")]


def as_deeplab_reads(path) -> list[list[str]]:
    """Each line in two, as that repository's reader of lists takes it: at single blanks, without any check."""
    return [line.rstrip("\n").split(" ") for line in open(path)]


def test_the_lists_name_the_labels_and_the_ground_truth(devkit, tmp_path):
    root, sbd, flags = devkit
    main([*flags, "--sbd_root", str(sbd), "--label_dir", str(root / "labels/edam")])
    lists = root / "ImageSets/SegmentationAug"
    assert sorted(path.name for path in lists.iterdir()) == ["train_aug.txt", "val.txt"]
    lines = [f"/JPEGImages/{i}.jpg /labels/edam/{i}.png\n" for i in TRAIN_AUG]
    assert (lists / "train_aug.txt").read_bytes() == "".join(lines).encode()
    truth = [f"/JPEGImages/{i}.jpg /SegmentationClassAug/{i}.png\n" for i in VAL]
    assert (lists / "val.txt").read_bytes() == "".join(truth).encode()
    for name, count in (("train_aug", 6), ("val", 2)):
        read = as_deeplab_reads(lists / f"{name}.txt")
        assert len(read) == count
        assert all((root / photo[1:]).is_file() and (root / label[1:]).is_file() for photo, label in read)
    assert read_image_list(lists / "train_aug.txt") == TRAIN_AUG
    assert "SegmentationClassAug" in (tmp_path / "out/train_aug.txt").read_text()  # ours stay as they are


def test_without_sbd_val_has_vocs_own_masks_and_missing_labels_are_named(devkit, monkeypatch, capsys):
    root, _, flags = devkit
    (root / f"labels/edam/{TRAIN[1]}.png").unlink()
    monkeypatch.chdir(root)
    main([*flags, "--label_dir", "labels/edam"])
    lists = root / "ImageSets/SegmentationAug"
    assert (lists / "train_aug.txt").read_text() == f"/JPEGImages/{TRAIN[0]}.jpg /labels/edam/{TRAIN[0]}.png\n"
    assert (lists / "val.txt").read_text() == "".join(f"/JPEGImages/{i}.jpg /SegmentationClass/{i}.png\n" for i in VAL)
    said = capsys.readouterr().out
    missing = f"1 image of train_aug without a label in labels/edam, left out of {lists / 'train_aug.txt'}: {TRAIN[1]}"
    assert f"  {missing}\n" in said


def test_a_list_of_the_users_is_kept(devkit):
    root, _, flags = devkit
    lists = root / "ImageSets/SegmentationAug"
    lists.mkdir()
    (lists / "train_aug.txt").write_text("mine")
    for _ in range(2):
        main([*flags, "--label_dir", str(root / "labels/edam")])
    assert (lists / "train_aug.txt.1").read_text() == "mine"
    assert sorted(path.name for path in lists.iterdir()) == ["train_aug.txt", "train_aug.txt.1", "val.txt"]


def test_a_link_into_the_devkit_will_do(devkit, tmp_path):
    root, _, flags = devkit
    (root / "labels").rename(tmp_path / "elsewhere")
    (root / "pseudo").symlink_to(tmp_path / "elsewhere/edam")
    main([*flags, "--label_dir", str(root / "pseudo")])
    text = (root / "ImageSets/SegmentationAug/train_aug.txt").read_text()
    assert text.startswith(f"/JPEGImages/{TRAIN[0]}.jpg /pseudo/{TRAIN[0]}.png\n")


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("VOCdevkit/labels", "is not within .*VOC2012, where deeplab-pytorch reads: move or copy it there$"),
        ("VOCdevkit/VOC2012/../labels", "is not within .*VOC2012, where"),
        ("VOCdevkit/VOC2012/nothing", "holds no label PNG: give the folder that infer_cls.py wrote$"),
        ("VOCdevkit/VOC2012/my labels", "deeplab-pytorch reads no list with blanks in it; rename the folder$"),
    ],
)
def test_a_folder_that_it_could_not_read_is_refused_before_the_work(devkit, tmp_path, folder, message):
    root, _, flags = devkit
    for name in (root.parent / "labels/a.png", root / "my labels/a.png"):
        write_png(name, np.zeros((2, 2), np.uint8))
    before = contents(tmp_path)
    with pytest.raises(UserError, match=f"^--label_dir {tmp_path / folder}.*{message}") as error:
        main([*flags, "--label_dir", str(tmp_path / folder)])
    assert "\n" not in str(error.value) and contents(tmp_path) == before
