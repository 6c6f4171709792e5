"""Label maps and masks that say nothing, or contradict the image-level labels, in each script that reads them."""

import numpy as np
import pytest
from voc12_devkit import write_devkit

from tool.cli import UserError
from voc12.images import save_label
from voc12.labels import find_suspicion

IDS = [f"i{number}" for number in range(6)]
SHAPE = (48, 64)
MAPS = "V/SegmentationClass"
VALUES = {  # background and object
    "right": (0, 4),  # VOC's class 3, boat, as in the image-level labels
    "masks": (0, 255),
    "void": (255, 255),
    "black": (0, 0),
    "other": (0, 9),
    "one class": (9, 9),
    "white": (255, 255),
}
KEYWORDS = {"masks": "0 and 255", "void": "one label", "black": "one label", "other": "lack", "one class": "one label"}
SALIENCY = "train_sal.py --max_epoches 1 --batch_size 2 --crop_size 112 --network tests.small_poolnet --num_workers 0"
TRAININGS = {
    "deeplab": f"train_deeplab.py --voc12_root V --label_dir {MAPS} --train_list list.txt --max_iters 1 --batch_size 2 "
    "--crop_size 33 --iter_size 1 --network tests.small_deeplab --num_workers 0",
    "sal": f"{SALIENCY} --voc12_root V --mask_dir {MAPS} --train_list list.txt",
    "sal pairs": f"{SALIENCY} --root V --train_list pairs.lst",
}


@pytest.fixture
def make(tmp_path):
    """Return a writer of a devkit with label maps and pairs of one kind."""

    def write(kind: str):
        root = write_devkit(tmp_path / "V", dict.fromkeys(IDS, (3,)), IDS[:4], IDS[4:], shape=SHAPE)
        background, shown = VALUES[kind]
        for row, image_id in enumerate(IDS):
            label = np.full(SHAPE, background, np.uint8)
            label[row : row + 20, 10:40] = shown
            save_label(root / f"SegmentationClass/{image_id}.png", label, grey=True)
        (tmp_path / "list.txt").write_text("\n".join(IDS))
        pairs = (f"JPEGImages/{i}.jpg SegmentationClass/{i}.png\n" for i in IDS)
        (tmp_path / "pairs.lst").write_text("".join(pairs))
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("training", "kind"),
    [
        *(("deeplab", kind) for kind in KEYWORDS),
        *(("sal", "masks"), ("sal", "other")),
        *(("sal pairs", "black"), ("sal pairs", "white"), ("sal pairs", "right")),  # grey masks are wanted
    ],
)
def test_training_stops(make, commands, training, kind):
    folder = make(kind)
    line = commands.error(folder, *TRAININGS[training].split())
    where, keyword = ("V: ", "one label") if training == "sal pairs" else (f"{MAPS}: ", KEYWORDS[kind])
    assert line.startswith(f"{where}6 of 6") and keyword in line
    assert ("--accept_labels" in line) == (kind != "masks") and not (folder / "checkpoints").exists()


@pytest.mark.parametrize("training", ["deeplab", "sal"])
def test_training_runs_where_it_is_asked_to(make, commands, training):
    folder = make("other")
    command = commands.run(folder, *TRAININGS[training].split(), "--accept_labels")
    assert any(MAPS in line and "lack" in line for line in command.stderr)
    assert list(folder.glob("checkpoints/*/*.pth"))


@pytest.mark.parametrize(
    ("kind", "flags"),
    [
        *((kind, "--voc12_root V --list list.txt") for kind in ("right", "masks", "other")),
        ("black", f"--saliency --gt_dir {MAPS}"),
    ],
)
def test_eval(make, commands, kind, flags):
    flags = (*flags.split(), "--predict_dir", MAPS, "--num_workers", 1)
    command = commands.run(make(kind), "eval.py", *flags, status=int(kind == "masks"))
    found = [line for line in command.stderr if f"{MAPS}: 6 of 6" in line]
    assert len(found) == (kind != "right") and all(KEYWORDS[kind] in line for line in found)


@pytest.mark.parametrize("kind", ["right", "masks", "black"])
def test_prepare(make, commands, kind):
    folder, status = make(kind), int(kind == "masks")
    (folder / "V/classes.txt").write_text("car\nbus\ndog\nboat\n")
    (folder / "labels.csv").write_text("photo,classes\n" + "".join(f"{i},boat;dog;car;bus\n" for i in IDS))
    (folder / "V/JPEGImages").rename(folder / "photos")
    flags = ("--photos", "photos", "--labels", "labels.csv", "--out", "V")
    command = commands.run(folder, "voc12/prepare_photos.py", *flags, status=status)
    keyword = KEYWORDS.get(kind, "agree on 0 of 6")  # the labels name three more classes
    assert keyword in command.stdout + "".join(command.stderr)
    assert (folder / "V/train.txt").exists() == (status == 0)


def test_devkit_of_masks_is_refused_before_lists_are_written(make, commands):
    folder = make("masks")
    (line,) = commands.run(folder, "voc12/prepare.py", "--voc12_root", "V", "--out_dir", "out", status=1).stderr
    assert MAPS in line and "0 and 255" in line and not (folder / "out/train.txt").exists()


def test_few_suspicious_maps_are_accepted():
    """Photos of COCO whose objects are all crowds have label maps of 0 and 255."""
    values = {"a": [0, 4], "b": [0, 255], "c": [0, 4, 255], "d": [0, 2]}
    labels = {"a": np.eye(5)[3], "d": np.eye(5)[1]}
    assert find_suspicion("here", values, labels) == find_suspicion("here", {}, {}) == ""
    with pytest.raises(UserError, match="2 of 3"):
        find_suspicion("here", {"a": [0, 255], "b": [0, 255], "c": [0, 4]}, {})
