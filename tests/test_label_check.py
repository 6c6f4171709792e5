"""Label maps and masks that say nothing, or contradict the image-level labels, in each script that reads them."""

import numpy as np
import pytest
from voc12_devkit import write_devkit

from tool.cli import UserError
from voc12.images import save_label
from voc12.label_check import find_suspicion

IDS = [f"i{number}" for number in range(6)]
SHAPE = (48, 64)
TRAINED = ("--max_iters", 1, "--batch_size", 2, "--crop_size", 33, "--iter_size", 1, "--network", "tests.small_deeplab")
SALIENCY = ("--max_epoches", 1, "--batch_size", 2, "--crop_size", 112, "--network", "tests.small_poolnet")


def map_of(kind: str, row: int) -> np.ndarray:
    """Return a label map or mask with an object of VOC's class 3, boat, or what `kind` says; row: where it begins."""
    background, shown = {
        "right": (0, 4),
        "masks": (0, 255),
        "void": (255, 255),
        "black": (0, 0),
        "other": (0, 9),
        "one class": (9, 9),
        "label maps": (0, 4),  # where grey masks are wanted
        "white": (255, 255),
    }[kind]
    label = np.full(SHAPE, background, np.uint8)
    label[row : row + 20, 10:40] = shown
    return label


@pytest.fixture
def make(tmp_path):
    """Return a devkit with label maps and pairs of one kind."""

    def write(kind: str):
        root = write_devkit(tmp_path / "V", dict.fromkeys(IDS, (3,)), IDS[:4], IDS[4:], shape=SHAPE)
        for row, image_id in enumerate(IDS):
            save_label(root / f"SegmentationClass/{image_id}.png", map_of(kind, row), grey=True)
        (tmp_path / "list.txt").write_text("\n".join(IDS))
        pairs = (f"JPEGImages/{i}.jpg SegmentationClass/{i}.png\n" for i in IDS)
        (tmp_path / "pairs.lst").write_text("".join(pairs))
        return tmp_path

    return write


SCRIPTS = {
    "train_deeplab.py": (
        "--voc12_root",
        "V",
        "--label_dir",
        "V/SegmentationClass",
        "--train_list",
        "list.txt",
        *TRAINED,
    ),
    "train_sal.py": ("--voc12_root", "V", "--mask_dir", "V/SegmentationClass", "--train_list", "list.txt", *SALIENCY),
}


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize(
    ("kind", "keyword"),
    [
        ("masks", "0 and 255"),
        ("void", "one label"),
        ("black", "one label"),
        ("other", "lack"),
        ("one class", "one label"),
    ],
)
def test_training_stops(make, commands, script, kind, keyword):
    folder = make(kind)
    line = commands.error(folder, script, *SCRIPTS[script], "--num_workers", 0)
    assert "V/SegmentationClass" in line and "6 of 6" in line and keyword in line
    assert ("--accept_labels" in line) == (kind != "masks") and not (folder / "checkpoints").exists()


@pytest.mark.parametrize("script", SCRIPTS)
def test_training_runs_where_it_is_asked_to(make, commands, script):
    folder = make("other")
    command = commands.run(folder, script, *SCRIPTS[script], "--num_workers", 0, "--accept_labels")
    assert any("V/SegmentationClass" in line and "lack" in line for line in command.stderr)
    assert list(folder.glob("checkpoints/*/*.pth"))


@pytest.mark.parametrize("kind", ["black", "white", "label maps"])
def test_training_on_pairs_stops(make, commands, kind):
    folder = make(kind)
    flags = ("--root", "V", "--train_list", "pairs.lst", *SALIENCY, "--num_workers", 0)
    line = commands.error(folder, "train_sal.py", *flags)
    assert line.startswith("V: 6 of 6") and "--accept_labels" in line


@pytest.mark.parametrize(
    ("kind", "status", "keyword"),
    [
        ("right", 0, ""),
        ("masks", 1, "0 and 255"),
        ("void", 0, "one label"),
        ("black", 0, "one label"),
        ("other", 0, "lack"),
    ],
)
def test_eval(make, commands, kind, status, keyword):
    folder = make(kind)
    flags = ("--voc12_root", "V", "--list", "list.txt", "--predict_dir", "V/SegmentationClass", "--num_workers", 1)
    command = commands.run(folder, "eval.py", *flags, status=status)
    assert ("mIoU" in command.stdout) == (status == 0)
    found = [line for line in command.stderr if "V/SegmentationClass: 6 of 6" in line]
    assert len(found) == bool(keyword) and all(keyword in line for line in found)


def test_eval_of_black_masks(make, commands):
    folder = make("black")
    flags = (
        "--saliency",
        "--gt_dir",
        "V/SegmentationClass",
        "--predict_dir",
        "V/SegmentationClass",
        "--num_workers",
        1,
    )
    assert "V/SegmentationClass: 6 of 6" in "".join(commands.run(folder, "eval.py", *flags).stderr)


@pytest.mark.parametrize(
    ("kind", "status", "keyword"),
    [("right", 0, "nothing looks wrong"), ("masks", 1, "0 and 255"), ("black", 0, "one label")],
)
def test_prepare(make, commands, kind, status, keyword):
    folder = make(kind)
    (folder / "V/classes.txt").write_text("car\nbus\ndog\nboat\n")
    (folder / "V/labels.csv").write_text("photo,classes\n" + "".join(f"{i},boat\n" for i in IDS))
    (folder / "labels.csv").write_text("photo,classes\n" + "".join(f"{i},boat;dog;car;bus\n" for i in IDS))
    (folder / "V/JPEGImages").rename(folder / "photos")
    flags = ("--photos", "photos", "--labels", "labels.csv", "--out", "V")
    command = commands.run(folder, "voc12/prepare_photos.py", *flags, status=status)
    if kind == "right":
        keyword = "agree on 0 of 6"  # the labels name three more classes
    assert keyword in command.stdout + "".join(command.stderr)
    assert (folder / "V/train.txt").exists() == (status == 0)


def test_devkit_of_masks_is_refused_before_lists_are_written(make, commands):
    folder = make("masks")
    (line,) = commands.run(folder, "voc12/prepare.py", "--voc12_root", "V", "--out_dir", "out", status=1).stderr
    assert "V/SegmentationClass" in line and "0 and 255" in line and not (folder / "out/train.txt").exists()


def test_few_suspicious_maps_are_accepted():
    """Photos of COCO whose objects are all crowds have label maps of 0 and 255."""
    values = {"a": [0, 4], "b": [0, 255], "c": [0, 4, 255], "d": [0, 2]}
    labels = {"a": np.eye(5)[3], "d": np.eye(5)[1]}
    assert find_suspicion("here", values, labels) == find_suspicion("here", {}) == ""
    with pytest.raises(UserError, match="2 of 3"):
        find_suspicion("here", {"a": [0, 255], "b": [0, 255], "c": [0, 4]})
