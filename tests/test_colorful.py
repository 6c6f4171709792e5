"""colorful.py: labels in colours, over photos, in grey, and the contact sheet."""

import os
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import colorful as script
from pseudo_label.visualise import overlay
from tool.cli import UserError
from voc12.classes import PALETTE
from voc12.images import save_label

IDS = ["2099_000001", "2099_000002", "2099_000003"]


@pytest.fixture
def root(tmp_path):
    """Return a folder of three photos with grey label PNGs, as the published scripts write them, and palette ground truth."""
    generator = np.random.default_rng(0)
    for folder in ("JPEGImages", "labels", "truth"):
        (tmp_path / folder).mkdir()
    for number, image_id in enumerate(IDS):
        photo = generator.integers(0, 256, (20 + number, 30, 3)).astype(np.uint8)
        Image.fromarray(photo).save(tmp_path / "JPEGImages" / f"{image_id}.jpg")
        label = np.full(photo.shape[:2], number * 10, np.uint8)
        label[:5, :5] = 255
        Image.fromarray(label).save(tmp_path / "labels" / f"{image_id}.png")
        save_label(tmp_path / "truth" / f"{image_id}.png", np.full(photo.shape[:2], 7, np.uint8))
    return tmp_path


def colorful(root: Path, *flags: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(sys, "argv", ["colorful.py", "--img_path", "labels", "--out_path", "out", *flags])
        script.main()


def pixels(path: Path) -> np.ndarray:
    return np.array(Image.open(path))


def test_labels_keep_their_values_in_palette_and_grey_pngs(root):
    """Pictures of another kind are never replaced."""
    (root / "labels" / ".hidden.png").write_bytes(b"")
    colorful(root)
    colorful(root, "--grey", "--out_path", "grey")
    assert sorted(os.listdir(root / "out")) == [*(f"{image_id}.png" for image_id in IDS), "edam_manifest.json"]
    for name in (f"{image_id}.png" for image_id in IDS):
        label = pixels(root / "labels" / name)
        np.testing.assert_array_equal(pixels(root / "out" / name), label)
        np.testing.assert_array_equal(cv2.imread(str(root / "out" / name)), PALETTE[label][..., ::-1])
        np.testing.assert_array_equal(cv2.imread(str(root / "grey" / name), 0), label)
    with pytest.raises(UserError, match=r"colours.*Name another folder"):
        colorful(root, "--img_root", ".")


@pytest.mark.parametrize("photos", [".", "JPEGImages"])
def test_labels_over_photos_and_the_sheet(root, capsys, photos):
    flags = ["--img_root", photos, "--opacity", "0.3", "--sheet", "sheet.png"]
    colorful(root, *flags)
    for image_id in IDS:
        photo = pixels(root / "JPEGImages" / f"{image_id}.jpg")
        expected = overlay(photo, pixels(root / "labels" / f"{image_id}.png"), PALETTE, 0.3)
        np.testing.assert_array_equal(pixels(root / "out" / f"{image_id}.png"), expected)
    two_columns = pixels(root / "sheet.png")
    colorful(root, *flags, "--gt_path", "truth")
    three_columns = pixels(root / "sheet.png")
    assert (two_columns.shape[1], three_columns.shape[1]) == (1000, 1500)
    car = (three_columns == PALETTE[7]).all(axis=2).sum()
    assert car > 100 > (two_columns == PALETTE[7]).all(axis=2).sum()  # in the legend
    assert "contact sheet of 3 images: sheet.png\n" in capsys.readouterr().out


@pytest.mark.parametrize("dash", ["--", "\u2014", "\u00e2\u20ac\u201d"])  # the last two as on the published page
def test_list_and_limit(root, dash):
    (root / "list.txt").write_text(f"{IDS[2]}\n" * 2 + f"{IDS[1]}\n")
    colorful(root, f"{dash}list", "list.txt", f"{dash}limit", "2")
    assert sorted(os.listdir(root / "out")) == [f"{IDS[1]}.png", f"{IDS[2]}.png", "edam_manifest.json"]


@pytest.mark.parametrize(
    ("flags", "keyword"),
    [
        (["--sheet", "sheet.png"], "--img_root"),
        (["--gt_path", "truth"], "--sheet"),
        (["--grey", "--img_root", "."], "--grey"),
        (["--img_root", "truth"], r"truth.*label map"),
        (["--img_root", ".", "--sheet", "."], "cannot write"),
        (["--img_root", ".", "--out_path", "JPEGImages"], "--out_path JPEGImages"),
        (["--out_path", "truth"], r"truth.*edam_manifest\.json"),  # pictures of others are never replaced
        (["--img_root", ".", "--img_path", "wrong"], rf"{IDS[1]}\.png.*value 21"),
    ],
)
def test_flags_and_labels_that_cannot_be_drawn(root, flags, keyword):
    (root / "wrong").mkdir()
    Image.fromarray(np.full((21, 30), 21, np.uint8)).save(root / "wrong" / f"{IDS[1]}.png")
    with pytest.raises(UserError, match=keyword):
        colorful(root, *flags)
