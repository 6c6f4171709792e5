"""Label maps and masks that say nothing, or contradict the image-level labels, in each script that reads them."""

import numpy as np
import pytest
from voc12_devkit import write_devkit

from tool.cli import UserError
from voc12.images import save_label
from voc12.labels import find_suspicion

IDS = [f"i{number}" for number in range(6)]
SHAPE = (48, 64)
KINDS = {  # values of background and object; those of the image-level labels, boat, would be 0 and 4
    "masks": (0, 255, "0 and 255"),
    "void": (255, 255, "one label"),
    "black": (0, 0, "one label"),
    "white": (255, 255, "one label"),
    "other": (0, 9, "lack"),
    "labels": (0, 4, "one label"),  # of label maps in place of grey masks
}
DEEPLAB = "train_deeplab.py --voc12_root V --label_dir V/SegmentationClass --train_list list.txt --max_iters 1 "
DEEPLAB += "--batch_size 2 --crop_size 33 --iter_size 1 --network tests.small_deeplab --num_workers 0"
SALIENCY = "train_sal.py --max_epoches 1 --batch_size 2 --crop_size 112 --network tests.small_poolnet --num_workers 0"
MASKS = f"{SALIENCY} --voc12_root V --mask_dir V/SegmentationClass --train_list list.txt"
PAIRS = f"{SALIENCY} --root V --train_list pairs.lst"  # grey masks
EVAL = "eval.py --voc12_root V --list list.txt --predict_dir V/SegmentationClass --num_workers 1 --json a.json"
EVAL_SALIENCY = "eval.py --saliency --gt_dir V/SegmentationClass --predict_dir V/SegmentationClass --json a.json"
PHOTOS = "voc12/prepare_photos.py --photos photos --labels labels.csv --out V"
DEVKIT = "voc12/prepare.py --voc12_root V --out_dir out"


@pytest.mark.parametrize(
    ("command", "kind", "status"),
    [
        *((DEEPLAB, kind, 1) for kind in ("masks", "void", "other")),
        *((MASKS, kind, 1) for kind in ("masks", "other")),
        *((PAIRS, kind, 1) for kind in ("black", "white", "labels")),
        *((f"{command} --accept_labels", "other", 0) for command in (DEEPLAB, MASKS)),
        *((EVAL, "masks", 1), (EVAL, "other", 0), (EVAL_SALIENCY, "black", 0)),
        *((PHOTOS, "masks", 1), (PHOTOS, "black", 0), (DEVKIT, "masks", 1)),
    ],
)
def test_script(tmp_path, commands, command, kind, status):
    root = write_devkit(tmp_path / "V", dict.fromkeys(IDS, (3,)), IDS[:4], IDS[4:], shape=SHAPE)
    background, shown, keyword = KINDS[kind]
    for row, image_id in enumerate(IDS):
        label = np.full(SHAPE, background, np.uint8)
        label[row : row + 20, 10:40] = shown
        save_label(root / f"SegmentationClass/{image_id}.png", label, grey=True)
    (tmp_path / "list.txt").write_text("\n".join(IDS))
    (tmp_path / "pairs.lst").write_text("".join(f"JPEGImages/{i}.jpg SegmentationClass/{i}.png\n" for i in IDS))
    if command is PHOTOS:
        (root / "classes.txt").write_text("car\nbus\ndog\nboat\n")
        (tmp_path / "labels.csv").write_text("photo,classes\n" + "".join(f"{i},boat;dog;car;bus\n" for i in IDS))
        (root / "JPEGImages").rename(tmp_path / "photos")
    ended = commands.run(tmp_path, *command.split(), status=status)
    (line,) = [line for line in [*ended.stderr, *ended.stdout.splitlines()] if " of 6 " in line and "agree" not in line]
    folder = "V" if command is PAIRS else "V/SegmentationClass"
    assert f"{folder}: 6 of 6 " in line and keyword in line
    assert ("--accept_labels" in line) == (status == 1 and kind != "masks")
    made = [tmp_path / "a.json", root / "train.txt", tmp_path / "out/train.txt", *tmp_path.glob("**/*.pth")]
    assert any(path.exists() for path in made) == (status == 0)


def test_value_beyond_the_classes(tmp_path, commands):
    root = write_devkit(tmp_path / "V", {"a": (3,)})
    save_label(root / "SegmentationClass/a.png", np.full((12, 16), 21, np.uint8))
    (tmp_path / "list.txt").write_text("a")
    line = commands.error(tmp_path, *DEEPLAB.split())
    assert "a.png" in line and "value 21" in line


def test_find_suspicion():
    labels = {"a": np.eye(5)[3], "d": np.eye(5)[1]}
    for values, keyword in (
        ({}, ""),
        ({"a": [0, 4], "b": [0, 255], "c": [0, 4, 255], "d": [0, 2]}, ""),  # COCO's crowds alone are 0 and 255
        (dict.fromkeys("abcd", (9,)), "4 of 4 show one label alone, or void (a, b, c, d)"),
        ({"a": [0, 2], "b": [0, 4], "d": [0, 4]}, "2 of 2 show classes that their labels lack (a, d)"),
    ):
        assert find_suspicion("here", values, labels) == (f"here: {keyword}" if keyword else "")
    with pytest.raises(UserError, match="2 of 3"):
        find_suspicion("here", {"a": [0, 255], "b": [0, 255], "c": [0, 4]}, {})
