import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import colorful as script
from pseudo_label.visualise import overlay
from tool.cli import UserError
from voc12.classes import PALETTE
from voc12.images import load_label, save_label

REPO = Path(__file__).resolve().parents[1]
IDS = ["2099_000001", "2099_000002", "2099_000003"]


@pytest.fixture
def root(tmp_path):
    """Three photos with grey label PNGs, as the published scripts wrote them, and palette ground truth."""
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


def colorful(root: Path, *flags: str, labels: str = "labels") -> None:
    arguments = ["--img_path", str(root / labels), "--out_path", str(root / "out"), *flags]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["colorful.py", *arguments])
        script.main()


def pixels(path: Path, mode: str | None = None) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image.convert(mode) if mode else image)


def test_labels_get_the_palette_and_keep_their_values(root):
    (root / "labels" / ".hidden.png").write_bytes(b"")
    (root / "labels" / "notes.txt").write_bytes(b"")
    colorful(root)
    assert sorted(os.listdir(root / "out")) == [*(f"{image_id}.png" for image_id in IDS), "edam_manifest.json"]
    for image_id in IDS:
        label = pixels(root / "labels" / f"{image_id}.png")
        np.testing.assert_array_equal(pixels(root / "out" / f"{image_id}.png"), label)
        np.testing.assert_array_equal(pixels(root / "out" / f"{image_id}.png", "RGB"), PALETTE[label])


@pytest.mark.parametrize("photos", ["", "JPEGImages"])
def test_labels_over_photos_and_the_sheet(root, capsys, photos):
    flags = ["--img_root", str(root / photos), "--opacity", "0.3", "--sheet", str(root / "sheet.png")]
    colorful(root, *flags)
    for image_id in IDS:
        photo = pixels(root / "JPEGImages" / f"{image_id}.jpg")
        expected = overlay(photo, pixels(root / "labels" / f"{image_id}.png"), PALETTE, 0.3)
        np.testing.assert_array_equal(pixels(root / "out" / f"{image_id}.png"), expected)
    two_columns = pixels(root / "sheet.png")
    colorful(root, *flags, "--gt_path", str(root / "truth"))
    three_columns = pixels(root / "sheet.png")
    assert three_columns.shape[1] > two_columns.shape[1] > 600
    car = (three_columns == PALETTE[7]).all(axis=2).sum()
    assert car >= 14 * 14 > (two_columns == PALETTE[7]).all(axis=2).sum()  # in the legend
    assert f"contact sheet of 3 images: {root / 'sheet.png'}\n" in capsys.readouterr().out


def test_list_and_limit(root):
    (root / "list.txt").write_text(f"{IDS[2]}\n{IDS[1]}\n")
    colorful(root, "--list", str(root / "list.txt"), "--limit", "1")
    assert sorted(os.listdir(root / "out")) == [f"{IDS[2]}.png", "edam_manifest.json"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sheet", "sheet.png"], "give their folder with --img_root"),
        (["--gt_path", "truth"], "name its file with --sheet"),
        (["--img_root", "nowhere"], "--img_root folder nowhere does not exist"),
        (["--list", "nowhere.txt"], r"nowhere\.txt does not exist"),
        (["--img_root", ".", "--gt_path", "labels", "--sheet", "no/sheet.png"], r"cannot write no/sheet\.png"),
        (["--out_path", "labels"], "--out_path is the --img_path folder too"),
        (["--img_root", ".", "--out_path", "JPEGImages"], "--out_path is the --img_root folder too"),
        (["--out_path", "list.txt/out"], "cannot create the folder list.txt/out"),
    ],
)
def test_flags_that_cannot_work(root, monkeypatch, flags, message):
    monkeypatch.chdir(root)
    (root / "list.txt").write_text("")
    with pytest.raises(UserError, match=message):
        colorful(root, *flags)


def test_missing_and_empty_folders(root):
    with pytest.raises(UserError, match=r"--img_path folder .*absent does not exist"):
        colorful(root, labels="absent")
    (root / "empty").mkdir()
    with pytest.raises(UserError, match=r"--img_path folder .*empty holds no \.png file"):
        colorful(root, labels="empty")


def test_wrong_values_and_sizes(root):
    save_label(root / "labels" / f"{IDS[1]}.png", np.full((21, 30), 21, np.uint8))
    with pytest.raises(UserError, match=r"labels/2099_000002\.png holds the value 21; label maps hold 0\.\.20"):
        colorful(root)
    save_label(root / "labels" / f"{IDS[1]}.png", np.zeros((30, 21), np.uint8))
    with pytest.raises(UserError, match=r"2099_000002\.png is 21x30 pixels, its photo 30x21: resize it without mixing"):
        colorful(root, "--img_root", str(root))
    Image.fromarray(np.ones((21, 30, 3), np.uint8)).save(root / "labels" / f"{IDS[1]}.png")
    with pytest.raises(UserError, match=r"2099_000002\.png is a RGB image; label maps are 8-bit"):
        colorful(root)


def test_the_command_line(root):
    command = [sys.executable, "colorful.py", "--img_path", str(root / "labels"), "--out_path", str(root / "out")]
    good = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert (good.returncode, good.stdout, good.stderr) == (0, f"3 pictures in {root / 'out'}\n", "")
    bad = subprocess.run([*command, "--img_root", "nowhere"], cwd=REPO, capture_output=True, text=True)
    assert (bad.returncode, bad.stderr) == (1, "colorful.py: error: --img_root folder nowhere does not exist\n")
    usage = subprocess.run([*command[:2], "--help"], cwd=REPO, capture_output=True, text=True)
    for action in script.get_parser()._actions:
        assert action.help and action.option_strings[-1] in usage.stdout


def test_the_published_page_s_long_dash(tmp_path, monkeypatch):
    (tmp_path / "labels").mkdir()
    save_label(tmp_path / "labels/a.png", np.full((4, 5), 3, np.uint8))
    for number, dash in enumerate(("\u2014", "\u00e2\u20ac\u201d")):  # as printed, and as that page's file has it
        out = tmp_path / f"out{number}"
        monkeypatch.setattr(
            sys, "argv", ["colorful.py", "--img_path", str(tmp_path / "labels"), f"{dash}out_path", str(out)]
        )
        script.main()
        assert (load_label(out / "a.png") == 3).all()


def test_pictures_of_somebody_else_are_never_replaced(root):
    (root / "out").mkdir()
    (root / "out" / f"{IDS[0]}.png").write_bytes(b"mine")
    with pytest.raises(
        UserError, match=r"out holds files of which no edam_manifest.json says what made them; name another"
    ):
        colorful(root)
    assert (root / "out" / f"{IDS[0]}.png").read_bytes() == b"mine"


def test_pictures_of_another_kind_are_refused_with_a_remedy_that_it_has(root):
    colorful(root)
    with pytest.raises(
        UserError, match=r"out holds files made with output colours, this run has grey labels; name another folder$"
    ):
        colorful(root, "--grey")
    with pytest.raises(UserError, match=r"made with output colours, this run has overlays; name another folder$"):
        colorful(root, "--img_root", str(root))


def test_masks_are_no_photos(root):
    with pytest.raises(
        UserError, match=r"3 images .*the first: photo .*truth/2099_000001\.png is a label map, in VOC's"
    ):
        colorful(root, "--img_root", str(root / "truth"))


def test_grey_pngs_are_read_as_they_are_by_opencv(root):
    import cv2

    colorful(root, "--grey")
    for image_id in IDS:
        label = pixels(root / "labels" / f"{image_id}.png")
        np.testing.assert_array_equal(cv2.imread(str(root / "out" / f"{image_id}.png"), 0), label)
    with pytest.raises(UserError, match="out holds files made with output grey labels, this run has colours"):
        colorful(root)
    with pytest.raises(UserError, match="--grey writes class values, --img_root draws over photos: give one of them"):
        colorful(root, "--grey", "--img_root", str(root))
    save_label(root / "labels" / f"{IDS[0]}.png", np.ones((2, 2), np.uint8))
    assert cv2.imread(str(root / "labels" / f"{IDS[0]}.png"), 0).tolist() == [[38, 38]] * 2  # what the README says
