"""Drawn photos of 3 and of 37 classes from a folder to scored labels, by the scripts."""

import json
import shutil

import numpy as np
import pytest
from own_dataset import draw, image_id, names
from PIL import Image

from network.weights import read_checkpoint
from tool.files import load_npy_dict
from voc12.classes import PALETTE
from voc12.images import load_label

NET = "--network tests.small_net --num_workers 0"
DEEPLAB = "--voc12_root root --network tests.small_deeplab --num_workers 0"
SCORE = "eval.py --voc12_root root --list root/with_mask.txt --num_workers 1 --predict_dir"


@pytest.fixture(scope="module", params=[3, 37])
def run(request, commands, tmp_path_factory):
    """A folder with everything from photos to EDAM's pseudo labels, and the number of classes."""
    folder, count = tmp_path_factory.mktemp("own"), request.param
    draw(folder, count, count + 1)
    shutil.copytree(folder / "masks", folder / "root/SegmentationClass")
    for line in (
        "voc12/prepare_photos.py --photos in --labels labels.csv --out root --epochs 1",
        f"train_EDAM_cls.py --voc12_root root --train_list root/EDAM_train.txt {NET} --batch_size {1 + count // 5} "
        "--crop_size 32 --long_side 32 48 --warmup_steps 4 --vis_every 2 --session_name s",
        f"infer_cls.py --voc12_root root --infer_list root/train.txt {NET} --weights checkpoints/s/s.pth --crf_workers 0 "
        "--out_cam cam --out_crf_pred crf --out_crf prob",
    ):
        commands.run(folder, *line.split())
    return folder, count


def test_pseudo_labels_are_of_the_classes_of_the_photos(run):
    folder, count = run
    upper = [name.upper() for name in names(count)]
    assert read_checkpoint(folder / "checkpoints/s/s.pth")[1] == tuple(upper)
    assert json.loads((folder / "crf/edam_manifest.json").read_text())["classes"] == upper
    for n in (0, count - 1, count):
        shown = {n % count, (n + 1) % count}
        assert set(load_npy_dict(folder / f"cam/{image_id(n)}.npy")) == shown
        label = load_label(folder / f"crf/{image_id(n)}.png")
        assert label.shape == (40, 48) and set(np.unique(label)) <= {0, *(c + 1 for c in shown)}
        assert Image.open(folder / f"crf/{image_id(n)}.png").getpalette() == PALETTE.ravel().tolist()


def test_eval_scores_them_and_colorful_draws_them(run, commands):
    folder, count = run
    for words in ("crf", "cam --type npy --curve", "prob --type npy --crf", "masks"):
        commands.run(folder, *f"{SCORE} {words} --json scores.json".split())
        scores = json.loads((folder / "scores.json").read_text())
        assert list(scores["iou"]) == ["background", *(name.upper() for name in names(count))]
    assert scores["miou"] == 100
    sheet = ("--gt_path", "masks", "--sheet", "sheet.png")
    commands.run(folder, "colorful.py", "--img_path", "crf", "--out_path", "colours")  # classes of the manifest
    commands.run(folder, "colorful.py", "--img_path", "masks", "--out_path", "drawn", "--img_root", "root", *sheet)


def test_deeplab_trains_on_them_and_predicts_them(run, commands):
    folder, count = run
    steps = "--crop_size 33 --max_iters 2 --batch_size 2 --session_name d --vis_every 1"
    train = f"train_deeplab.py {DEEPLAB} --train_list root/train.txt --label_dir masks {steps}"
    commands.run(folder, *train.split())
    assert len(read_checkpoint(folder / "checkpoints/d/d.pth")[1]) == count
    infer = f"infer_deeplab.py {DEEPLAB} --infer_list root/train.txt --weights checkpoints/d/d.pth --crf_workers 0"
    commands.run(folder, *infer.split(), "--out_prob", "p")
    assert np.load(folder / f"p/{image_id(0)}.npy").shape == (count + 1, 40, 48)


def test_single_photo_needs_no_dataset(run, commands):
    folder, count = run
    name, photo = image_id(0), next((folder / "in").rglob(f"{image_id(0)}.*"))
    shown = ",".join(names(count)[:2])
    single = ("--image", photo, *NET.split(), "--weights", "checkpoints/s/s.pth", "--classes")
    commands.run(folder, "infer_cls.py", *single, shown, "--out", "one")
    files = {f"{name}.npy", f"{name}.png", f"{name}_overlay.png", "edam_manifest.json"}
    assert {path.name for path in (folder / "one").iterdir()} == files
    maps, expected = (load_npy_dict(folder / f"{place}/{name}.npy") for place in ("one", "cam"))
    assert all(np.array_equal(maps[c], expected[c]) for c in (0, 1))
    assert (folder / f"one/{name}.png").read_bytes() == (folder / f"crf/{name}.png").read_bytes()
    width, height = Image.open(folder / f"one/{name}_overlay.png").size
    assert width == 500 and height > 400  # enlarged, over a colour key
    for classes, out, keyword in ((shown, "masks", "edam_manifest.json"), ("sofa", "one", "'sofa'")):
        assert keyword in commands.error(folder, "infer_cls.py", *single, classes, "--out", out)


def test_results_and_state_of_other_classes_are_errors(run, commands, tmp_path):
    folder, _ = run
    shutil.copytree(folder / "root", tmp_path / "root", symlinks=True)
    for path in (tmp_path / "root/classes.txt", tmp_path / "root/labels.csv"):
        path.write_text(path.read_text().replace("DING", "thing"))
    assert "DING 00" in commands.error(tmp_path, *SCORE.split(), folder / "crf")
    train = f"train_EDAM_cls.py --voc12_root root --train_list root/EDAM_train.txt {NET} --batch_size 1 --resume"
    assert "state.pth" in commands.error(tmp_path, *train.split(), folder / "checkpoints/s")
