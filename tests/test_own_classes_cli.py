"""Drawn photos of 3 and of 37 classes from a folder to scored labels, through the ordinary commands."""

import json
import shutil

import numpy as np
import pytest
import torch
from own_dataset import draw, image_id, names
from PIL import Image

from tool.files import load_npy_dict
from voc12.classes import PALETTE
from voc12.images import load_label

NET = ("--network", "tests.small_net", "--num_workers", 0)
DEEPLAB = ("--network", "tests.small_deeplab", "--num_workers", 0)


@pytest.fixture(scope="module", params=[3, 37])
def run(request, commands, tmp_path_factory):
    """A folder with everything from photos to the labels of EDAM, and the number of classes."""
    folder, count = tmp_path_factory.mktemp("own"), request.param
    draw(folder, count, count + 1)
    shutil.copytree(folder / "masks", folder / "root/SegmentationClass")
    commands.run(
        folder,
        "voc12/prepare_photos.py",
        *["--photos", "in", "--labels", "labels.csv", "--out", "root", "--epochs", "1"],
    )
    size = (
        "--batch_size",
        1 + count // 5,
        "--crop_size",
        32,
        "--long_side",
        32,
        48,
        "--warmup_steps",
        4,
        "--vis_every",
        2,
    )
    lists = ("--voc12_root", "root", "--train_list", "root/EDAM_train.txt")
    command = commands.run(folder, "train_EDAM_cls.py", *lists, *NET, *size, "--session_name", "s")
    assert command.stdout.count("finished") == 1
    weights = ("--weights", "checkpoints/s/s.pth")
    infer = ("--voc12_root", "root", "--infer_list", "root/train.txt", *NET, *weights, "--crf_workers", 0)
    commands.run(folder, "infer_cls.py", *infer, "--out_cam", "cam", "--out_crf_pred", "crf", "--out_crf", "prob")
    return folder, count


def test_labels_are_of_the_photos_own_classes(run):
    folder, count = run
    assert torch.load(folder / "checkpoints/s/s.pth", weights_only=True)["classes"] == [n.upper() for n in names(count)]
    for n in (0, count - 1, count):
        shown = {n % count, (n + 1) % count}
        assert set(load_npy_dict(folder / f"cam/{image_id(n)}.npy")) == shown
        label = load_label(folder / f"crf/{image_id(n)}.png")
        assert label.shape == (40, 48) and set(np.unique(label)) <= {0, *(c + 1 for c in shown)}
        palette = np.array(Image.open(folder / f"crf/{image_id(n)}.png").getpalette()).reshape(-1, 3)
        assert np.array_equal(palette, PALETTE)
    assert json.loads((folder / "crf/edam_manifest.json").read_text())["classes"] == [n.upper() for n in names(count)]


def test_they_are_scored_and_drawn(run, commands):
    folder, count = run
    score = ("--voc12_root", "root", "--list", "root/with_mask.txt", "--num_workers", 1)
    for words in (("crf",), ("cam", "--type", "npy", "--curve"), ("prob", "--type", "npy", "--crf")):
        commands.run(folder, "eval.py", *score, "--predict_dir", *words, "--json", "scores.json")
        assert list(json.loads((folder / "scores.json").read_text())["iou"]) == [
            "background",
            *(name.upper() for name in names(count)),
        ]
    commands.run(folder, "eval.py", *score, "--predict_dir", "masks", "--json", "scores.json")
    assert json.loads((folder / "scores.json").read_text())["miou"] == 100
    commands.run(folder, "colorful.py", "--img_path", "crf", "--out_path", "colours")  # the manifest tells the classes
    sheet = ("--gt_path", "masks", "--sheet", "sheet.png")
    commands.run(folder, "colorful.py", "--img_path", "masks", "--out_path", "drawn", "--img_root", "root", *sheet)


def test_deeplab_learns_and_predicts_them(run, commands):
    folder, count = run
    root, lists = ("--voc12_root", "root"), "root/train.txt"
    steps = ("--crop_size", 33, "--max_iters", 2, "--batch_size", 2, "--session_name", "d", "--vis_every", 1)
    commands.run(folder, "train_deeplab.py", *root, "--train_list", lists, "--label_dir", "masks", *DEEPLAB, *steps)
    assert len(torch.load(folder / "checkpoints/d/d.pth", weights_only=True)["classes"]) == count
    infer = (*root, "--infer_list", lists, *DEEPLAB, "--weights", "checkpoints/d/d.pth", "--crf_workers", 0)
    commands.run(folder, "infer_deeplab.py", *infer, "--out_prob", "p")
    assert np.load(folder / f"p/{image_id(0)}.npy").shape == (count + 1, 40, 48)


def test_one_photo_needs_no_dataset(run, commands):
    folder, count = run
    photo = next((folder / "in").rglob(f"{image_id(0)}.*"))
    shown = ",".join(names(count)[:2])
    weights = (*NET, "--weights", "checkpoints/s/s.pth")
    idle = ("--out_crf", "x", "--out_plain_pred", "y")
    command = commands.run(
        folder, "infer_cls.py", "--image", photo, "--classes", shown, *weights, "--out", "one", *idle
    )
    assert command.stderr == ["note: --out_crf, --out_plain_pred have no effect with --image"]
    assert not (folder / "x").exists() and not (folder / "y").exists()
    assert f"{photo}: one/{image_id(0)}.npy, .png and _overlay.png" in command.stdout
    assert {path.name for path in (folder / "one").iterdir()} == {
        *(image_id(0) + end for end in (".npy", ".png", "_overlay.png")),
        "edam_manifest.json",
    }
    maps, expected = (load_npy_dict(folder / f"{name}/{image_id(0)}.npy") for name in ("one", "cam"))
    assert all(np.array_equal(maps[c], expected[c]) for c in (0, 1))
    assert (folder / f"one/{image_id(0)}.png").read_bytes() == (folder / f"crf/{image_id(0)}.png").read_bytes()
    assert Image.open(folder / f"one/{image_id(0)}_overlay.png").size == (48, 40)

    truth = (folder / "masks" / f"{image_id(0)}.png").read_bytes()
    error = commands.error(folder, "infer_cls.py", "--image", photo, "--classes", shown, *weights, "--out", "masks")
    assert error.startswith("masks holds files of which no edam_manifest.json says what made them")
    assert (folder / "masks" / f"{image_id(0)}.png").read_bytes() == truth
    error = commands.error(folder, "infer_cls.py", "--image", photo, "--classes", "sofa", *weights, "--out", "one")
    assert error.startswith(
        "--classes: unknown class name 'sofa'; the dataset's (classes.txt) are DING 00, DING 01, DING 02"
    )
    error = commands.error(folder, "infer_cls.py", "--image", photo, *weights)
    assert error == "--image needs --classes A,B, what the photo shows, and --out DIR"
    error = commands.error(folder, "infer_cls.py", *weights, "--out_cam", "x")
    assert error == "give the photos: --voc12_root with --infer_list, or --image with --classes and --out"


def test_label_values_beyond_the_classes_and_other_datasets_are_refused(run, commands, tmp_path):
    folder, count = run
    shutil.copytree(folder / "root", tmp_path / "root", symlinks=True)
    mask = load_label(folder / f"masks/{image_id(0)}.png")
    mask[0, 0] = count + 1
    beyond = tmp_path / "root/SegmentationClass" / f"{image_id(0)}.png"
    Image.fromarray(mask).save(beyond)
    holds = f"holds the value {count + 1}, where 0..{count}"
    lists = ("--voc12_root", "root", "--list", "root/train.txt", "--num_workers", 1)
    error = commands.error(tmp_path, "eval.py", *lists, "--predict_dir", folder / "masks")
    assert holds in error
    error = commands.error(
        tmp_path, "colorful.py", "--img_path", beyond.parent, "--img_root", "root", "--out_path", "c"
    )
    assert f"holds the value {count + 1}; label maps hold 0..{count}, and 255 for void" in error
    train = ("--voc12_root", "root", "--train_list", "root/train.txt", *DEEPLAB)
    command = commands.run(tmp_path, "train_deeplab.py", *train, "--label_dir", beyond.parent, status=1)
    assert holds in command.stderr[0]

    (tmp_path / "root/classes.txt").write_text("".join(f"thing {c}\n" for c in range(count)))
    error = commands.error(tmp_path, "eval.py", *lists, "--predict_dir", folder / "crf")
    assert (
        "crf was made for the classes DING 00, DING 01, DING 02" in error
        and "the dataset has thing 0, thing 1" in error
    )
    weights = ("--infer_list", "root/train.txt", "--weights", folder / "checkpoints/s/s.pth", "--ignore_foreign")
    for image in range(count + 1):
        with (tmp_path / "root/labels.csv").open("w" if image == 0 else "a") as file:
            file.write(f'"{image_id(image)}",thing 0\n')
    error = commands.error(tmp_path, "infer_cls.py", "--voc12_root", "root", *NET, *weights, "--out_cam", "x")
    assert f"s.pth is a network of the {count} classes DING 00, DING 01" in error
    assert f"this run has the {count} classes thing 0, thing 1" in error
    resume = ("--train_list", "root/EDAM_train.txt", "--resume", folder / "checkpoints/s", "--batch_size", 1)
    with (tmp_path / "root/EDAM_train.txt").open("w") as file:
        file.writelines(f"/JPEGImages/{image_id(0)}.jpg /JPEGImages/{image_id(i)}.jpg 0\n" for i in range(4))
    error = commands.error(tmp_path, "train_EDAM_cls.py", "--voc12_root", "root", *NET, *resume)
    assert "state.pth was written with the classes of another dataset; resume with the same settings" in error
