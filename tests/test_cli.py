"""The scripts' flags: each is translate_errors, bad values are refused by name, and what is missing is named in one line."""

import argparse
import importlib

import devices
import pytest
import torch
from training import image_id, write_pairs

import colorful
import eval as evaluation
import infer_cls
import train_EDAM_cls
from demo import draw, run
from experiment import baselines
from pseudo_label.manifest import claim_folder
from tool.cli import UserError
from voc12 import pairs, prepare

SCRIPTS = (
    "train_EDAM_cls",
    "infer_cls",
    "train_deeplab",
    "infer_deeplab",
    "eval",
    "colorful",
    "benchmark",
    "voc12.prepare",
    "voc12.pairs",
)
SCRIPTS += ("train_sal", "infer_sal", "reproduce", "demo.run", "demo.draw", "demo.pretrain", "experiment.baselines")


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_flag_is_explained(script, capsys):
    parser: argparse.ArgumentParser = importlib.import_module(script).get_parser()
    shown = [action for action in parser._actions if action.help != argparse.SUPPRESS]
    assert all(action.help and len(action.help) > 8 for action in shown)
    with pytest.raises(SystemExit) as leaving:
        parser.parse_args(["--help"])
    text = capsys.readouterr().out
    assert leaving.value.code == 0 and all(f"  {action.option_strings[0]}" in text for action in shown[1:])


TRAIN = ["--voc12_root", "R"]
INFER = ["--voc12_root", "R", "--weights", "W"]
CURVE = "--theta has no effect with --curve, which tries 0.00 to 0.99"
NO_GPU = {
    "cpu": "--device cuda:99: this PyTorch sees no GPU; use --device cpu",
    "cuda": f"GPU 99 asked for, but only {torch.cuda.device_count()} are visible",
}
OUTPUTS = ("out_cam", "out_cam_pred", "out_crf", "out_crf_pred")
COLOURS = ["--img_path", "P", "--out_path", "O"]


@pytest.mark.parametrize(
    ("script", "args", "message"),
    [
        (train_EDAM_cls, [], "the following arguments are required: --voc12_root"),
        (infer_cls, [], "the following arguments are required: --weights"),
        (train_EDAM_cls, [*TRAIN, "--batch_size", "0"], "argument --batch_size: 0, where at least 1 was expected"),
        (train_EDAM_cls, [*TRAIN, "--batch_size", "two"], "argument --batch_size: invalid int value: 'two'"),
        (train_EDAM_cls, [*TRAIN, "--lr", "nan"], "argument --lr: nan, where at least 0 was expected"),
        (train_EDAM_cls, [*TRAIN, "--lr", "-1"], "argument --lr: -1, where at least 0 was expected"),
        (train_EDAM_cls, [*TRAIN, "--crop_size", "-3"], "argument --crop_size: -3, where at least 1 was expected"),
        (train_EDAM_cls, [*TRAIN, "--num_workers", "-1"], "argument --num_workers: -1, where at least 0 was expected"),
        (train_EDAM_cls, [*TRAIN, "--seed", "9" * 400], "where at most 2147483647 was expected"),
        (train_EDAM_cls, [*TRAIN, "--seed", "-1"], "argument --seed: -1, where at least 0 was expected"),
        (
            train_EDAM_cls,
            [*TRAIN, "--attn_dropout", "1.5"],
            "argument --attn_dropout: 1.5, where at most 1 was expected",
        ),
        (train_EDAM_cls, [*TRAIN, "--network", "a/b.py"], "argument --network: 'a/b.py' names no Python module"),
        (train_EDAM_cls, [*TRAIN, "--network", ""], "argument --network: '' names no Python module"),
        (train_EDAM_cls, [*TRAIN, "--session_name", ""], "argument --session_name: '', where letters"),
        (train_EDAM_cls, [*TRAIN, "--session_name", "../x"], "argument --session_name: '../x', where letters"),
        (train_EDAM_cls, [*TRAIN, "--amp", "fp8"], "argument --amp: invalid choice: 'fp8'"),
        (train_EDAM_cls, [*TRAIN, "--weight", "W", "x"], "unrecognized arguments: x"),
        (infer_cls, [*INFER, "--theta", "inf"], "argument --theta: inf, where a number was expected"),
        (infer_cls, [*INFER, "--alpha", "x"], "argument --alpha: invalid float value: 'x'"),
        (infer_cls, [*INFER, "--crf_workers", "1.5"], "argument --crf_workers: invalid int value: '1.5'"),
        (infer_cls, [*INFER, "--num_workers", "99999999999"], "where at most 2147483647 was expected"),
        (evaluation, ["--predict_dir", "P", "--theta", "nan"], "argument --theta: nan, where a number was expected"),
        (evaluation, ["--predict_dir", "P", "--num_workers", "0"], "--num_workers: 0, where at least 1 was expected"),
        (colorful, [*COLOURS, "--opacity", "1.5"], "argument --opacity: 1.5, where at most 1 was expected"),
        (colorful, [*COLOURS, "--opacity", "nan"], "argument --opacity: nan, where at least 0 was expected"),
        (colorful, [*COLOURS, "--limit", "0"], "argument --limit: 0, where at least 1 was expected"),
        (prepare, ["--epochs", "0"], "argument --epochs: 0, where at least 1 was expected"),
        (prepare, ["--seed", "-1"], "argument --seed: -1, where at least 0 was expected"),
        (pairs, ["--epochs", "0"], "argument --epochs: 0, where at least 1 was expected"),
        (draw, ["--size", "8"], "argument --size: 8, where at least 64 was expected"),
        (draw, ["--size", "2000"], "argument --size: 2000, where at most 1024 was expected"),
        (draw, ["--seed", "-1"], "argument --seed: -1, where at least 0 was expected"),
        (draw, ["--train", "0"], "argument --train: 0, where at least 1 was expected"),
        (baselines, ["--theta", "nan"], "argument --theta: nan, where a number was expected"),
        (run, ["--seed", "-1"], "argument --seed: -1, where at least 0 was expected"),
    ],
)
def test_bad_values(script, args, message, capsys):
    with pytest.raises(SystemExit) as leaving:
        script.get_parser().parse_args(args)
    assert leaving.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--voc12_root", "nowhere"), "--voc12_root nowhere: no such folder"),
        (
            ("--train_list", "nowhere.txt"),
            "list nowhere.txt does not exist; python voc12/prepare.py --voc12_root ROOT makes it for a devkit, ",
        ),
        (("--weights", "nowhere.pth"), "weights nowhere.pth does not exist"),
        (("--weights", "."), "weights .: not a regular file"),
        (("--resume", "nowhere"), "--resume nowhere: nowhere does not exist; name a run's folder or its state.pth"),
        (("--network", "network.nothing"), "--network network.nothing: no such module. Name one such as"),
        (("--network", "tool.optim"), "--network tool.optim: the module has no class Net"),
        (("--device", "gpu"), "--device gpu: not a device; use cpu, cuda or cuda:0"),
        (("--batch_size", 4), "--batch_size 4 is more than the 3 pairs of pairs.txt"),
        (("--long_side", 64, 32), "--long_side 64 32: the smaller one comes first"),
    ],
)
def test_training_names_what_is_missing(args, message, commands, drawn, tmp_path):
    write_pairs(tmp_path / "pairs.txt", 3)
    same = ("--voc12_root", drawn, "--train_list", "pairs.txt", "--network", "tests.small_net", "--batch_size", 1)
    assert commands.error(tmp_path, "train_EDAM_cls.py", *same, *args).startswith(message)
    assert not (tmp_path / "checkpoints").exists() and not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--voc12_root", "nowhere"), "--voc12_root nowhere: no such folder"),
        (
            ("--infer_list", "nowhere.txt"),
            "list nowhere.txt does not exist; python voc12/prepare.py --voc12_root ROOT makes it for a devkit, ",
        ),
        (("--weights", "nowhere.pth"), "weights nowhere.pth does not exist"),
        (("--weights", "."), "weights .: not a regular file"),
        (("--sal_path", "nowhere"), "--sal_path nowhere: no such folder"),
        (("--sal_path", ".", "--theta", "20"), "--theta 20: with --sal_path, saliency (0..255) up to theta x 100 is"),
        (("--network", "network.nothing"), "--network network.nothing: no such module. Name one such as"),
        (("--device", "cuda:99"), NO_GPU[devices.name]),
    ],
)
def test_inference_names_what_is_missing(args, message, commands, drawn, tiny_weights, tmp_path):
    (tmp_path / "list.txt").write_text(image_id(1))
    same = ("--voc12_root", drawn, "--infer_list", "list.txt", "--weights", tiny_weights, "--out_cam", "cam")
    network = ("--network", "network.resnet38_EDAM_tiny")
    assert commands.error(tmp_path, "infer_cls.py", *same, *network, *args).startswith(message)
    assert not (tmp_path / "cam").exists()


@pytest.mark.parametrize(
    ("script", "more"), [("train_EDAM_cls.py", ()), ("infer_cls.py", ("--weights", "w.pth", "--out_cam", "cam"))]
)
def test_the_folder_above_the_devkit_is_seen_through(script, more, commands, tmp_path):
    line = commands.error(tmp_path, script, "--voc12_root", ".", *more)
    assert line == "--voc12_root . holds no JPEGImages: give the folder VOC2012 of the devkit"
    (tmp_path / "VOCdevkit/VOC2012/JPEGImages").mkdir(parents=True)
    line = commands.error(tmp_path, script, "--voc12_root", ".", *more)
    assert line == "--voc12_root . holds no JPEGImages: did you mean VOCdevkit/VOC2012?"


def test_inference_asks_for_an_output(commands, drawn, tiny_weights, tmp_path):
    line = commands.error(tmp_path, "infer_cls.py", "--voc12_root", drawn, "--weights", tiny_weights)
    outputs = "--out_cam, --out_cam_pred, --out_crf, --out_crf_pred or --out_plain_pred"
    assert line == f"nothing to write: name an output folder with {outputs}"
    plain = ("--voc12_root", drawn, "--weights", tiny_weights, "--out_plain_pred", "O")
    line = commands.error(tmp_path, "infer_cls.py", *plain)
    assert line == "--out_plain_pred is for labels beside those with --sal_path; without it, --out_crf_pred writes them"


@pytest.mark.parametrize(
    ("args", "notes"),
    [
        (("--out_cam_pred", "O", "--theta", "0.2"), []),
        (("--out_crf_pred", "O", "--theta", "0.2", "--alpha", "0.1", "--beta", "0.9", "--sal_path", "S"), []),
        (("--out_cam", "O", "--out_cam_pred", "P", "--theta", "0.2"), []),
        (("--out_cam_pred", "O", "--alpha", "0.1"), ["--alpha has no effect on --out_cam_pred without --sal_path"]),
        (
            ("--out_crf_pred", "O", "--theta", "0.2", "--beta", "0.9"),
            ["--theta, --beta have no effect on --out_crf_pred without --sal_path"],
        ),
        (("--out_cam", "O", "--theta", "0.2"), ["--theta has no effect on --out_cam"]),
        (
            ("--out_cam", "O", "--out_crf", "P", "--sal_path", "S", "--beta", "0.9"),
            ["--sal_path, --beta have no effect on --out_cam, --out_crf"],
        ),
    ],
)
def test_inference_tells_flags_without_effect(args, notes, capsys):
    parsed = infer_cls.get_parser().parse_args([*INFER, *args])
    job = infer_cls.LabelJob(**{name: getattr(parsed, name) for name in infer_cls.LabelJob.__dataclass_fields__})
    infer_cls.warn_unused(parsed, job)
    assert capsys.readouterr().err.splitlines() == [f"note: {note}" for note in notes]


@pytest.mark.parametrize(
    ("args", "notes"),
    [
        ((), []),
        (("--theta", "0.2", "--beta", "0.9"), ["--theta, --beta have no effect on PNGs, only with --type npy"]),
        (("--type", "npy", "--theta", "0.2", "--alpha", "0.1", "--sal_path", "S"), []),
        (("--type", "npy", "--crf", "--theta", "0.2", "--sal_path", "S"), []),
        (("--type", "npy", "--theta", "0.2", "--alpha", "0.1"), ["--alpha has no effect without --sal_path"]),
        (("--type", "npy", "--curve", "--theta", "0.2"), [CURVE]),
        (("--type", "npy", "--curve", "--theta", "3", "--sal_path", "S"), [CURVE]),
        (
            ("--type", "npy", "--crf", "--theta", "0.2"),
            ["--theta has no effect with --crf, unless --sal_path is given"],
        ),
    ],
)
def test_evaluation_tells_flags_without_effect(args, notes, capsys):
    evaluation.warn_unused(evaluation.get_parser().parse_args(["--predict_dir", "P", *args]))
    assert capsys.readouterr().err.splitlines() == [f"note: {note}" for note in notes]


@pytest.mark.parametrize(
    ("output", "flags", "right"),
    [
        ("out_crf", ["--type", "npy"], "--type npy --crf"),
        ("out_cam", ["--type", "npy", "--crf"], "--type npy, without --crf"),
        ("out_cam", [], "--type npy"),
        ("out_crf_pred", ["--type", "npy"], "--type png"),
    ],
)
def test_outputs_read_as_what_they_are_not(output, flags, right, tmp_path):
    claim_folder(tmp_path / "out", {"output": output}, overwrite=False)
    arguments = ["--predict_dir", str(tmp_path / "out"), "--gt_dir", str(tmp_path), *flags]
    with pytest.raises(UserError, match=f"was written with --{output}: it is read with {right}$"):
        evaluation.check_arguments(evaluation.get_parser().parse_args(arguments))


def test_probabilities_of_deeplab_are_no_class_maps(tmp_path):
    claim_folder(tmp_path / "out", {"output": "out_prob"}, overwrite=False)
    arguments = ["--predict_dir", str(tmp_path / "out"), "--gt_dir", str(tmp_path), "--type", "npy"]
    with pytest.raises(
        UserError, match=r"holds probabilities \(infer_deeplab\.py --out_prob\): score --out_pred instead$"
    ):
        evaluation.check_arguments(evaluation.get_parser().parse_args(arguments))


def test_notes_do_not_stop_a_run(commands, drawn, tiny_weights, tmp_path):
    (tmp_path / "list.txt").write_text(image_id(1))
    same = ("--voc12_root", drawn, "--infer_list", "list.txt", "--weights", tiny_weights)
    network = ("--network", "network.resnet38_EDAM_tiny", "--num_workers", 0, "--crf_workers", 0)
    done = commands.run(tmp_path, "infer_cls.py", *same, *network, "--out_cam_pred", "png", "--beta", 0.9)
    assert "note: --beta has no effect on --out_cam_pred without --sal_path" in done.stderr
    truth = ("--list", "list.txt", "--gt_dir", drawn / "SegmentationClass", "--predict_dir", "png")
    done = commands.run(tmp_path, "eval.py", *truth, "--theta", 0.2)
    assert "note: --theta has no effect on PNGs, only with --type npy" in done.stderr
