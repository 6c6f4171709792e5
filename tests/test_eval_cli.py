"""eval.py's flags, log and messages: what cannot work is told before the work, in one line."""

import subprocess
import sys

import pytest
import test_eval
from commands import REPO
from test_eval import IDS, evaluate

import eval as script
from tool.cli import UserError

root = test_eval.root  # the fixture


@pytest.mark.parametrize(
    ("predictions", "flags", "message"),
    [
        ("absent", [], r"--predict_dir folder .*absent does not exist"),
        ("png", ["--gt_dir", "nowhere"], "ground truth folder nowhere does not exist"),
        ("pgn", [], r"--predict_dir folder .*/pgn does not exist \(did you mean png\?\)$"),
        ("png", ["--sal_path", "sal"], "need --type npy"),
        ("png", ["--curve"], "need --type npy"),
        ("crf", ["--type", "npy", "--crf", "--curve"], "give --sal_path too"),
        ("cam", ["--type", "npy", "--sal_path", "nowhere"], "--sal_path folder nowhere does not exist"),
        ("png", ["--list", "nowhere.txt"], r"nowhere\.txt does not exist"),
        ("png", ["--logfile", "nowhere/log.txt"], "cannot write the log nowhere/log.txt: No such file or directory"),
        ("png", ["--json", "nowhere/out.json"], "cannot write nowhere/out.json: No such file or directory"),
        ("cam", ["--type", "npy", "--theta", "20", "--sal_path", "."], r"--theta 20: .* so it is below 2\.55"),
    ],
)
def test_flags_that_cannot_work(root, predictions, flags, message):
    with pytest.raises(UserError, match=message):
        evaluate(root, predictions, *flags)


def test_the_folder_above_the_devkit_is_seen_through(root):
    devkit = root / "above/VOC2012"
    devkit.mkdir(parents=True)
    with pytest.raises(UserError, match=f"above/SegmentationClass does not exist; did you mean {devkit}\\?$"):
        evaluate(root, "png", "--voc12_root", str(root / "above"))


def test_the_log_grows_by_an_entry_a_run(root, monkeypatch):
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


def test_the_command_line_ends_with_one_line_and_a_status(root):
    command = [sys.executable, "eval.py", "--list", str(root / "list.txt"), "--predict_dir", str(root / "png")]
    good = subprocess.run([*command, "--voc12_root", str(root)], cwd=REPO, capture_output=True, text=True)
    assert good.returncode == 0 and good.stderr == "" and "mIoU" in good.stdout
    (root / "png" / f"{IDS[0]}.png").unlink()
    bad = subprocess.run([*command, "--voc12_root", str(root)], cwd=REPO, capture_output=True, text=True)
    assert bad.returncode == 1 and bad.stdout == ""
    assert bad.stderr.startswith("eval.py: error: 1 of 20 images cannot be evaluated") and bad.stderr.count("\n") == 1
    nothing = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert nothing.returncode == 1
    assert nothing.stderr == (
        "eval.py: error: the ground truth is missing: give --voc12_root, or its label PNGs with --gt_dir\n"
    )
    usage = subprocess.run([*command[:2], "--help"], cwd=REPO, capture_output=True, text=True)
    for action in script.get_parser()._actions:
        assert action.help and action.option_strings[-1] in usage.stdout


def test_a_result_that_cannot_be_written_is_told_before_the_work(root, monkeypatch):
    monkeypatch.setattr(script, "evaluate", lambda *_: pytest.fail("evaluated first"))
    for path, message in (("nowhere/out.json", "No such file or directory"), (str(root), "it is a folder")):
        with pytest.raises(UserError, match=f"^cannot write {path}: {message}$"):
            evaluate(root, "png", "--json", path)


@pytest.mark.parametrize(
    ("predictions", "flags", "message"),
    [
        (
            "cam",
            (),
            r"cam holds score files \(\.npy\) and no label PNGs: give --type npy, and --crf where they are CRF",
        ),
        ("png", ("--type", "npy"), "png holds label PNGs: give --type png, without --crf and --curve"),
        (".", (), r"holds no \.png file: give the folder of the predictions"),
    ],
)
def test_a_folder_of_the_other_type_is_told(root, predictions, flags, message):
    with pytest.raises(UserError, match=message):
        evaluate(root, predictions, *flags)
