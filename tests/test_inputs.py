"""All inputs are looked at before the first second of work, and all that cannot be used are named in one line."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image
from test_voc12_pairs import pairs_command
from voc12_devkit import write_devkit

import colorful
import eval as eval_script
from experiment import baselines
from tool.cli import UserError, summarize_problems
from tool.files import save_npy_dict
from voc12.images import save_label
from voc12.inputs import check_inputs, label_maps, photos, saliency_maps, score_files

IDS = [f"i{number:02d}" for number in range(15)]


@pytest.fixture
def root(tmp_path) -> Path:
    """Fifteen photos with saliency, label maps, ground truth and class maps; of the last twelve something is missing or wrong."""
    root = write_devkit(tmp_path, dict.fromkeys(IDS, (3,)))
    for folder in ("sal", "png", "npy"):
        (root / folder).mkdir()
    label = np.full((12, 16), 4, np.uint8)
    for image_id in IDS:
        Image.fromarray(label).save(root / f"sal/{image_id}.png")
        save_label(root / f"png/{image_id}.png", label)
        save_label(root / f"SegmentationClass/{image_id}.png", label)
        save_npy_dict(root / f"npy/{image_id}.npy", {3: np.ones((12, 16), np.float32)})
    (root / "list.txt").write_text("\n".join(IDS))
    return root


def spoil(folder: Path) -> None:
    """Of the last twelve: missing ones, an empty one, one of another format, one there twice, one of another size."""
    for image_id in IDS[3:]:
        path = next(folder.glob(f"{image_id}.*"))
        data = path.read_bytes()
        path.unlink()
        if image_id == IDS[4]:
            path.write_bytes(b"")
        elif image_id == IDS[5] and path.suffix != ".npy":
            Image.new("L", (16, 12)).save(path, "GIF")
        elif image_id == IDS[6] and path.suffix != ".npy":
            Image.new("L", (12, 16)).save(path, "PNG")
        elif image_id == IDS[7]:
            path.write_bytes(data)
            path.with_suffix(path.suffix.upper()).write_bytes(data)


NAMED = "i03, i04, i05, i06, i07, i08, i09, i10, i11, i12 and 2 more"


def run(script, monkeypatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", [script.__name__, *map(str, arguments)])
    script.main()


def test_all_problems_are_found_from_headers(root):
    (root / "sal" / f"{IDS[2]}.png").write_bytes(
        (root / "sal" / f"{IDS[2]}.png").read_bytes()[:-20]
    )  # its header is whole
    assert check_inputs(IDS, [photos(root / "JPEGImages"), saliency_maps(root / "sal"), label_maps(root / "png")]) == []
    spoil(root / "sal")
    found = dict(check_inputs([*IDS, *IDS], [photos(root / "JPEGImages"), saliency_maps(root / "sal")]))
    assert list(found) == IDS[3:]
    path = f"saliency map {root}/sal/"
    assert found["i03"] == f"{path}i03.png does not exist"
    assert found["i04"] == f"{path}i04.png is empty (0 bytes): copy or make it again"
    assert found["i05"] == f"{path}i05.png is a GIF file, whatever its name: convert it to JPEG or PNG"
    assert found["i06"] == f"{path}i06.png is 12x16 pixels, its photo 16x12: resize it"
    assert found["i07"].endswith("sal holds i07.PNG and i07.png: which is i07? Move the others elsewhere")
    assert summarize_problems(list(found.items())) == f"12 images cannot be used ({NAMED}), the first: {found['i03']}"


def test_sizes_are_those_of_the_upright_photo(root):
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (12, 16)).save(root / f"JPEGImages/{IDS[0]}.jpg", exif=turned)
    Image.new("RGB", (12, 16)).save(root / f"JPEGImages/{IDS[1]}.jpg")
    found = check_inputs(IDS, [photos(root / "JPEGImages"), saliency_maps(root / "sal")])
    assert [image_id for image_id, _ in found] == [IDS[1]]


def test_score_files_are_only_looked_for(root):
    (root / "npy/i02.npy").write_bytes(b"whatever")
    (root / "npy/i05.npy").unlink()
    assert check_inputs(IDS, [score_files(root / "npy")]) == [("i05", f"score file {root}/npy/i05.npy does not exist")]


@pytest.mark.parametrize(("folder", "count"), [("png", 12), ("SegmentationClass", 12), ("npy", 12), ("sal", 12)])
def test_eval_names_all_before_it_evaluates_any(root, monkeypatch, folder, count):
    spoil(root / folder)
    flags = ["--voc12_root", root, "--list", root / "list.txt", "--num_workers", 1]
    flags += ["--predict_dir", root / ("png" if folder in ("png", "SegmentationClass") else "npy")]
    flags += ["--type", "npy", "--sal_path", root / "sal"] if folder in ("npy", "sal") else []
    with monkeypatch.context() as patch:
        patch.setattr(eval_script, "evaluate", lambda *_: pytest.fail("evaluated first"))
        with pytest.raises(
            UserError, match=rf"^{count} of 15 images cannot be evaluated, the first: .*i03.* \(all: i03, i0"
        ):
            run(eval_script, patch, *flags)
    run(eval_script, monkeypatch, *flags, "--skip_errors", "--json", root / "out.json")


@pytest.mark.parametrize("folder", ["JPEGImages", "png", "SegmentationClass"])
def test_colorful_names_all_before_it_draws_any(root, monkeypatch, folder):
    spoil(root / folder)
    flags = ["--img_path", root / "png", "--img_root", root, "--list", root / "list.txt", "--out_path", root / "out"]
    flags += ["--gt_path", root / "SegmentationClass", "--sheet", root / "sheet.png"]
    with pytest.raises(UserError, match=rf"^12 images cannot be used \({NAMED}\), the first: .*{folder}"):
        run(colorful, monkeypatch, *flags)
    assert not (root / "out").exists()


def test_baselines_name_all_before_they_write_any(root, monkeypatch):
    spoil(root / "sal")
    flags = [
        "--voc12_root",
        root,
        "--infer_list",
        root / "list.txt",
        "--sal_path",
        root / "sal",
        "--out_guess",
        root / "out",
    ]
    with pytest.raises(UserError, match=r"^11 images cannot be used \(i03, "):  # no photo says what the size is
        run(baselines, monkeypatch, *flags)
    assert not (root / "out").exists()


def test_pairs_are_not_made_of_photos_that_are_not_there(root):
    spoil(root / "JPEGImages")
    flags = ["--voc12_root", root, "--image_list", root / "list.txt", "--out", root / "pairs.txt", "--labels", "none"]
    done = pairs_command(*flags)
    assert done.returncode == 1 and not (root / "pairs.txt").exists()
    assert done.stderr.startswith("pairs.py: error: 11 images cannot be used (i03, i04, i05, i07")
    (root / "JPEGImages").rename(root / "elsewhere")
    assert pairs_command(*flags).returncode == 0
