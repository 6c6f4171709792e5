"""Files of a dataset under the names that people give them, and the check of a run's inputs."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from voc12_devkit import write_devkit

import colorful
import eval as eval_script
import infer_sal
from experiment import baselines
from tool import processes
from tool.cli import UserError
from tool.files import save_npy_dict
from voc12 import dataset, pairs
from voc12.dataset import MANIFEST, Dataset, check_inputs, label_maps, photos, report_problems, saliency_maps
from voc12.images import save_label

IDS = list("abcdefgh")


@pytest.fixture
def root(tmp_path) -> Path:
    """Eight photos with saliency, label maps, ground truth and class maps."""
    root, label = write_devkit(tmp_path, dict.fromkeys(IDS, (3,))), np.full((12, 16), 4, np.uint8)
    for folder in ("sal", "png", "npy"):
        (root / folder).mkdir()
    for image_id in IDS:
        for folder in ("sal", "png", "SegmentationClass"):
            save_label(root / folder / f"{image_id}.png", label, grey=folder == "sal")
        save_npy_dict(root / f"npy/{image_id}.npy", {3: np.ones((12, 16), np.float32)})
    (root / "list.txt").write_text("\n".join(IDS))
    return root


def test_photos_in_sub_folders(tmp_path):
    found = {"x": "x.jpg", "a_x": "a/x.jpg", "y": "a/y.JPEG", "z": "b/c/z.png", "a_1": "a/1.jpg", "b_1": "b/1.webp"}
    for name in (*found.values(), "b/.hidden/w.jpg", "b/2.jpg", "b/2.png", "out/v.png", f"out/{MANIFEST}"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "b/circle").symlink_to(tmp_path)
    files = photos(tmp_path)
    assert files.ids() == sorted([*found, "2"]) and label_maps(tmp_path).ids() == []
    for image_id, path in {**found, "w": "w.jpg"}.items():  # w.jpg does not exist
        assert files.find(image_id) == tmp_path / path
    for image_id in "12":
        with pytest.raises(UserError, match=rf"/{image_id}\..* and .*/{image_id}\."):
            files.find(image_id)


@pytest.mark.parametrize(
    ("folder", "keyword"),
    [("VOC", "VOC2012"), ("VOC/VOC2013", "VOC2012"), ("VOC/VOC2012/sal", "JPEGImages"), ("VOC.zip", "a file")],
)
def test_folder_that_is_no_dataset(tmp_path, folder, keyword):
    (tmp_path / "VOC/VOC2012/sal").mkdir(parents=True)
    (tmp_path / "VOC.zip").touch()
    with pytest.raises(UserError, match=keyword):
        Dataset(tmp_path / folder)


def test_check_inputs_finds_all_problems(root):
    folder = root / "sal"
    a, b, c, d, e, f = (folder / f"{image_id}.png" for image_id in IDS[:6])
    a.write_bytes(a.read_bytes()[:-20])  # its header is whole
    files = [photos(root / "JPEGImages"), saliency_maps(folder), label_maps(root / "png")]
    assert check_inputs(IDS, files) == []
    b.unlink()
    c.write_bytes(b"")
    Image.new("L", (16, 12)).save(d, "GIF")
    Image.new("L", (12, 16)).save(e)
    f.with_suffix(".PNG").touch()
    found = check_inputs([*IDS, *IDS], [photos(root / "JPEGImages"), saliency_maps(folder)])
    keywords = {"b": "exist", "c": "0 bytes", "d": "JPEG or PNG", "e": "12x16", "f": "f.PNG and f.png"}
    assert [image_id for image_id, _ in found] == list(keywords)
    assert all(keywords[image_id] in message and str(folder) in message for image_id, message in found)
    for name, keyword in (("npy", "saliency map"), ("sall", "did you mean sal")):
        with pytest.raises(UserError, match=f"{name}.*{keyword}"):
            check_inputs(IDS, [saliency_maps(root / name)])


def test_check_inputs_reads_on_the_main_process_alone(root, monkeypatch):
    def receive(values: list, *_: object) -> None:
        values[0] = [("a", "bad")]

    group = SimpleNamespace(get_rank=lambda: 1, broadcast_object_list=receive)
    monkeypatch.setattr(processes, "_process_group", lambda: group)
    monkeypatch.setattr(dataset, "size_of", lambda *_: pytest.fail("read"))
    assert check_inputs(IDS, [photos(root / "JPEGImages")]) == [("a", "bad")]


def test_report_problems(capsys):
    problems = [("b", "b.jpg: bad. Mend it.")]
    assert report_problems([], ["a"], False, "used") == ["a"]
    assert report_problems(problems, ["a", "b", "a"], True, "used") == ["a", "a"]
    assert "b.jpg" in capsys.readouterr().err
    for skip_errors, ids, flag in ((False, ["a", "b"], True), (None, ["a", "b"], False), (True, ["b"], False)):
        with pytest.raises(UserError, match=r"b\.jpg") as error:
            report_problems(problems, ids, skip_errors, "used")
        assert ("bad. Mend it. --skip_errors" in str(error.value)) == flag


@pytest.mark.parametrize(
    ("script", "spoilt", "flags"),
    [
        (eval_script, "SegmentationClass", "--voc12_root . --list list.txt --predict_dir png --json out"),
        (eval_script, "npy", "--voc12_root . --list list.txt --predict_dir npy --type npy --sal_path sal --json out"),
        (colorful, "png", "--img_root . --list list.txt --img_path png --out_path out --sheet s --gt_path png"),
        (baselines, "sal", "--voc12_root . --infer_list list.txt --sal_path sal --out_guess out --out_background out"),
        (pairs, "JPEGImages", "--voc12_root . --image_list list.txt --out out"),
    ],
)
def test_scripts_name_all_problems_before_they_write_any(root, monkeypatch, script, spoilt, flags):
    monkeypatch.chdir(root)
    for image_id in "cdf":
        next((root / spoilt).glob(f"{image_id}.*")).unlink()
    monkeypatch.setattr(sys, "argv", [script.__name__, *flags.split()])
    with pytest.raises(UserError, match=rf"^3 of 8 .*c, d, f.*{spoilt}/c"):
        script.main()
    assert not (root / "out").exists()


def test_infer_sal_counts_photos_of_other_formats(tmp_path, capsys):
    for name in ("a.webp", "b.bmp", "c.TIFF", "d.gif", "e.HEIC", "f.heic", "notes.txt"):
        (tmp_path / name).touch()
    args = infer_sal.get_parser().parse_args(["--img_root", str(tmp_path), "--weights", "w.pth"])
    assert infer_sal.find_photos(args)[1] == ["a", "b", "c"]
    assert f"{tmp_path}: 1 .gif, 2 .heic not read" in capsys.readouterr().err
