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

IDS = [f"i{number:02d}" for number in range(15)]


@pytest.fixture
def root(tmp_path) -> Path:
    """Fifteen photos with saliency, label maps, ground truth and class maps."""
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
    """Make twelve images unusable: missing, empty, of another format, of another size, there twice."""
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


def test_photos_in_sub_folders(tmp_path):
    for name in ("x.jpg", "a/x.jpg", "a/y.JPEG", "b/c/z.png", "b/.hidden/w.jpg", "out/v.png", "a/1.jpg", "b/1.webp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name in ("b/2.jpg", "b/2.png", "out/" + MANIFEST):  # results of a script
        (tmp_path / name).touch()
    (tmp_path / "b/circle").symlink_to(tmp_path)
    files = photos(tmp_path)
    expected = {"x": "x.jpg", "a_x": "a/x.jpg", "y": "a/y.JPEG", "z": "b/c/z.png", "a_1": "a/1.jpg", "b_1": "b/1.webp"}
    assert files.ids() == sorted([*expected, "2"])
    expected["w"] = "w.jpg"  # which does not exist
    assert {image_id: files.find(image_id) for image_id in expected} == {i: tmp_path / p for i, p in expected.items()}
    for image_id in "12":
        with pytest.raises(UserError, match=rf"/{image_id}\..* and .*/{image_id}\."):
            files.find(image_id)
    assert label_maps(tmp_path).ids() == []


@pytest.mark.parametrize(
    ("folder", "keyword"),
    [("VOC", "VOC2012"), ("VOC/VOC2013", "VOC2012"), ("VOC/VOC2012/sal", "JPEGImages"), ("VOC.zip", "a file")],
)
def test_folder_that_is_no_dataset(tmp_path, folder, keyword):
    write_devkit(tmp_path / "VOC/VOC2012", {"a": (0,)})
    (tmp_path / "VOC/VOC2012/sal").mkdir()
    (tmp_path / "VOC.zip").touch()
    with pytest.raises(UserError, match=keyword):
        Dataset(tmp_path / folder)


def test_check_inputs_finds_all_problems(root):
    path = root / "sal" / f"{IDS[2]}.png"
    path.write_bytes(path.read_bytes()[:-20])  # its header is whole
    inputs = [photos(root / "JPEGImages"), saliency_maps(root / "sal"), label_maps(root / "png")]
    assert check_inputs(IDS, inputs) == []
    spoil(root / "sal")
    found = dict(check_inputs([*IDS, *IDS], [photos(root / "JPEGImages"), saliency_maps(root / "sal")]))
    assert list(found) == IDS[3:]
    keywords = {"i03": "exist", "i04": "0 bytes", "i05": "JPEG or PNG", "i06": "12x16", "i07": "i07.PNG and i07.png"}
    for image_id, keyword in keywords.items():
        assert keyword in found[image_id] and str(root / "sal") in found[image_id]


def test_check_inputs_reads_on_the_main_process_alone(root, monkeypatch):
    sent = [[("i00", "bad")], UserError("no photos")]

    def receive(values: list, *_: object) -> None:
        values[0] = sent.pop(0)

    group = SimpleNamespace(get_rank=lambda: 1, broadcast_object_list=receive)
    monkeypatch.setattr(processes, "_process_group", lambda: group)
    monkeypatch.setattr(dataset, "size_of", lambda *_: pytest.fail("read"))
    assert check_inputs(IDS, [photos(root / "JPEGImages")]) == [("i00", "bad")]
    with pytest.raises(UserError, match="no photos"):
        check_inputs(IDS, [photos(root / "JPEGImages")])


@pytest.mark.parametrize(("folder", "hint"), [("npy", "saliency map"), ("sall", "did you mean sal")])
def test_check_inputs_of_a_folder_without_them(root, folder, hint):
    with pytest.raises(UserError, match=f"{folder}.*{hint}"):
        check_inputs(IDS, [saliency_maps(root / folder)])


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
        (baselines, "sal", "--voc12_root . --infer_list list.txt --sal_path sal --out_guess out"),
        (pairs, "JPEGImages", "--voc12_root . --image_list list.txt --out out"),
    ],
)
def test_scripts_name_all_problems_before_they_write_any(root, monkeypatch, script, spoilt, flags):
    monkeypatch.chdir(root)
    spoil(root / spoilt)
    monkeypatch.setattr(sys, "argv", [script.__name__, *flags.split()])
    with pytest.raises(UserError, match=rf"^1[0-2] of 15 .*i03, i04, .*{spoilt}/i03"):
        script.main()
    assert not (root / "out").exists()


def test_infer_sal_counts_photos_of_other_formats(tmp_path, capsys):
    for name in ("a.webp", "b.bmp", "c.TIFF", "d.gif", "e.HEIC", "f.heic", "notes.txt"):
        (tmp_path / name).touch()
    args = infer_sal.get_parser().parse_args(["--img_root", str(tmp_path), "--weights", "w.pth"])
    assert infer_sal.find_photos(args)[1] == ["a", "b", "c"]
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{tmp_path}: 1 .gif, 2 .heic not read" in line
