"""eval.py: flags, bad files and the log."""

import json
import subprocess
import sys
from pathlib import Path

import evaluation
import numpy as np
import pytest
from evaluation import IDS, SHAPE, evaluate, score_saliency
from PIL import Image

import eval as script
from pseudo_label.evaluate import LabelSource
from tool.cli import UserError
from tool.files import save_npy_dict
from voc12.classes import LABELS
from voc12.images import save_label

REPO = Path(__file__).resolve().parents[1]
root = evaluation.root  # fixture


def save_wrong_value(path: Path, value: int) -> None:
    save_label(path, np.full(SHAPE, value, np.uint8))


BAD_FILES = {
    "png/2099_000003.png": [
        ("does not exist", lambda path: path.unlink()),
        ("pixels", lambda path: save_label(path, np.zeros((15, 12), np.uint8))),
        ("value 21", lambda path: save_wrong_value(path, 21)),
        ("void", lambda path: save_wrong_value(path, 255)),
        ("cannot be read", lambda path: path.write_bytes(path.read_bytes()[:-30])),
    ],
    "SegmentationClass/2099_000003.png": [
        ("does not exist", lambda path: path.unlink()),
        ("value 77", lambda path: save_wrong_value(path, 77)),
    ],
}


@pytest.mark.parametrize(
    ("name", "keyword", "spoil"), [(name, *fault) for name, faults in BAD_FILES.items() for fault in faults]
)
def test_bad_image_is_named_and_skipped_on_demand(root, capsys, name, keyword, spoil):
    spoil(root / name)
    (root / "png" / f"{IDS[6]}.png").unlink()
    with pytest.raises(UserError, match="of 20 images"):
        evaluate(root, "png")
    assert not (root / "out.json").exists()
    result = evaluate(root, "png", "--skip_errors")
    assert result["images"] == 18 and result["skipped"] == [IDS[2], IDS[6]]
    skipped = [line for line in capsys.readouterr().err.splitlines() if line.startswith("skipped")]
    assert len(skipped) == 2 and any(name in line and keyword in line for line in skipped)


def test_skipping_everything_is_an_error(root):
    for image_id in IDS:
        (root / "cam" / f"{image_id}.npy").write_bytes(b"x")
    with pytest.raises(UserError, match="20 of 20 images"):
        evaluate(root, "cam", "--type", "npy", "--skip_errors")


@pytest.mark.parametrize(
    ("scores", "crf", "keyword"),
    [
        ({20: np.zeros(SHAPE)}, False, "--crf"),
        ({"cat": np.zeros(SHAPE)}, False, "'cat'"),
        ({21: np.zeros(SHAPE)}, True, r"0\.\.20"),
        ({5: np.zeros(SHAPE)}, True, "no background"),
        ({5: np.zeros((12, 14))}, False, "12x14"),
        ({5: np.zeros(12)}, False, "height"),
        ({5: np.full(SHAPE, np.nan)}, False, "nan"),
        ({5: np.full(SHAPE, 2.0)}, False, "Divide"),
    ],
)
def test_bad_score_file_is_named(root, scores, crf, keyword):
    path, truth = root / "cam" / f"{IDS[0]}.npy", root / "SegmentationClass" / f"{IDS[0]}.png"
    save_npy_dict(path, scores)
    with pytest.raises(UserError, match=keyword) as error:
        LabelSource(root / "cam", root / "SegmentationClass", LABELS, npy=True, crf=crf).score([truth, path])
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("folder", "picture", "keyword"),
    [
        ("SegmentationClass", np.full(SHAPE, 255, np.uint8), "holds 0 and 255 only"),
        ("SegmentationClass", np.full(SHAPE, 77, np.uint8), "value 77"),
        ("masks", np.ones(SHAPE, np.uint8), "0 and 1 only"),
        ("masks", np.zeros((7, 8), np.uint8), "pixels"),
        ("sal", None, "does not exist"),
    ],
)
def test_bad_saliency_file_is_named(root, folder, picture, keyword):
    path = root / folder / f"{IDS[4]}.png"
    path.unlink()
    if picture is not None:
        Image.fromarray(picture).save(path)
    flags = ["--voc12_root", f"{root}", "--list", f"{root}/list.txt"]
    if folder != "SegmentationClass":
        flags = ["--gt_dir", f"{root}/masks"]
    with pytest.raises(UserError, match=keyword) as error:
        score_saliency(root, *flags)
    assert path.name in str(error.value)
    assert score_saliency(root, *flags, "--skip_errors")["skipped"] == [IDS[4]]


@pytest.mark.parametrize(
    ("predictions", "flags", "keyword"),
    [
        ("absent", (), "absent: no such folder"),
        ("pgn", (), "mean png"),
        ("cam", (), r"no label map .*\.npy"),
        ("png", ("--type", "npy"), r"no score file .*\.png"),
        ("png", ("--gt_dir", "nowhere"), "nowhere"),
        ("png", ("--sal_path", "sal"), "--type npy"),
        ("png", ("--curve",), "--type npy"),
        ("png", ("--saliency", "--crf"), "--saliency"),
        ("crf", ("--type", "npy", "--crf", "--curve"), "--sal_path"),
        ("cam", ("--type", "npy", "--sal_path", "nowhere"), "nowhere"),
        ("png", ("--list", "nowhere.txt"), r"nowhere\.txt"),
        ("png", ("--logfile", "nowhere/log.txt"), r"nowhere/log\.txt"),
        ("png", ("--json", "nowhere/out.json"), r"nowhere/out\.json"),
        ("cam", ("--type", "npy", "--theta", "20", "--sal_path", "."), "--theta 20"),
    ],
)
def test_flags_that_cannot_work(root, monkeypatch, predictions, flags, keyword):
    monkeypatch.setattr(script, "evaluate", lambda *_: pytest.fail("evaluated first"))
    with pytest.raises((UserError, OSError), match=keyword):
        evaluate(root, predictions, *flags)


@pytest.mark.parametrize(
    ("output", "remedy"), [("out_sal", "--saliency"), ("out_crf", "--crf"), ("out_prob", "--out_pred")]
)
def test_folder_of_another_output_is_refused(root, output, remedy):
    (root / "png/edam_manifest.json").write_text(json.dumps({"output": output}))
    with pytest.raises(UserError, match=f"png.*Give .*{remedy}"):
        evaluate(root, "png")


def test_folder_above_the_devkit_is_recognised(root):
    devkit = root / "above/VOC2012"
    devkit.mkdir(parents=True)
    with pytest.raises(UserError, match=f"mean {devkit}"):
        evaluate(root, "png", "--voc12_root", str(root / "above"))


def test_log_grows_by_an_entry_a_run(root, monkeypatch):
    monkeypatch.chdir(root)
    evaluate(root, "png")
    assert not (root / "evallog.txt").exists()
    first = evaluate(root, "png", "--comment", "first try")
    evaluate(root, "SegmentationClass", "--comment", "the truth")
    log = (root / "evallog.txt").read_text()
    assert log.count("== ") == 2 and log.index("first try") < log.index("the truth")
    assert f"mIoU          {first['miou']:8.2f}" in log and "mIoU            100.00" in log
    assert f"--predict_dir {root / 'png'} " in log
    evaluate(root, "png", "--logfile", "other.txt")
    assert (root / "other.txt").read_text().count("mIoU") == 1


def test_command_line_ends_with_one_line_and_a_status(root):
    command = [sys.executable, "eval.py", "--list", str(root / "list.txt"), "--predict_dir", str(root / "png")]
    good = subprocess.run([*command, "--voc12_root", str(root)], cwd=REPO, capture_output=True, text=True)
    assert good.returncode == 0 and good.stderr == "" and "mIoU" in good.stdout
    bad = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert (bad.returncode, bad.stdout) == (1, "")
    assert bad.stderr.startswith("eval.py: error: ") and bad.stderr.count("\n") == 1
