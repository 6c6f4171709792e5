"""Command lines: help of each flag, bad values by name, missing files and packages in one line, unused flags."""

import argparse
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import REPO
from training import image_id, write_pairs

import eval as evaluation
import infer_cls
from pseudo_label.manifest import claim_folder
from tool.cli import UserError

FILES = [path for folder in ("", "demo", "experiment", "voc12") for path in sorted((REPO / folder).glob("*.py"))]
SCRIPTS = [path.relative_to(REPO) for path in FILES if 'if __name__ == "__main__"' in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("script", SCRIPTS, ids=str)
def test_help_of_every_flag(script, capsys):
    module = ".".join(script.with_suffix("").parts)
    parser: argparse.ArgumentParser = importlib.import_module(module).get_parser()
    shown = [action for action in parser._actions if action.help != argparse.SUPPRESS]
    assert all(action.help and len(action.help) > 8 for action in shown)
    with pytest.raises(SystemExit) as leaving:
        parser.parse_args(["--help"])
    text = capsys.readouterr().out
    assert leaving.value.code == 0 and all(f"  {action.option_strings[0]}" in text for action in shown[1:])


TRAIN = "train_EDAM_cls --voc12_root R"
INFER = "infer_cls --voc12_root R --weights W"


@pytest.mark.parametrize(
    ("command", "keyword"),
    [
        ("infer_cls", "required: --weights"),
        (f"{TRAIN} --batch_size 0", "--batch_size: 0, where at least 1"),
        (f"{TRAIN} --batch_size two", "--batch_size: invalid int value: 'two'"),
        (f"{TRAIN} --lr nan", "--lr: nan, where at least 0"),
        (f"{TRAIN} --attn_dropout 1.5", "--attn_dropout: 1.5, where at most 1"),
        (f"{TRAIN} --network a/b.py", "--network: 'a/b.py'"),
        (f"{TRAIN} --session_name ../x", "--session_name: '../x'"),
        (f"{INFER} --theta inf", "--theta: inf, where a number"),
    ],
)
def test_bad_values(command, keyword, capsys):
    script, *args = command.split()
    with pytest.raises(SystemExit, match="2"):
        importlib.import_module(script).get_parser().parse_args(args)
    assert keyword in capsys.readouterr().err.splitlines()[-1]


MISSING = [
    ("--voc12_root", "nowhere"),
    ("--weights", "nowhere.pth"),
    ("--weights", ".."),
    ("--network", "network.nothing"),
]
TRAINING = [("--train_list", "nowhere.txt"), ("--resume", "nowhere"), ("--network", "tool.optim"), ("--device", "gpu")]
TRAINING += [("--batch_size", 4), ("--long_side", 64, 32)]
INFERENCE = [("--infer_list", "nowhere.txt"), ("--sal_path", "nowhere")]


@pytest.mark.parametrize("args", [*MISSING, *TRAINING])
def test_training_names_what_is_missing(args, commands, drawn, tmp_path):
    write_pairs(tmp_path / "pairs.txt", 3)
    same = ("--voc12_root", drawn, "--train_list", "pairs.txt", "--network", "tests.small_net", "--batch_size", 1)
    assert str(args[1]) in commands.error(tmp_path, "train_EDAM_cls.py", *same, *args)
    assert not (tmp_path / "checkpoints/EDAM").exists() and not (tmp_path / "runs").exists()


@pytest.mark.parametrize("args", [*MISSING, *INFERENCE])
def test_inference_names_what_is_missing(args, commands, drawn, tiny_weights, tmp_path):
    (tmp_path / "list.txt").write_text(image_id(1))
    same = ("--voc12_root", drawn, "--infer_list", "list.txt", "--weights", tiny_weights, "--out_cam_pred", "png")
    network = ("--network", "network.resnet38_EDAM_tiny")
    assert args[1] in commands.error(tmp_path, "infer_cls.py", *same, *network, *args)
    assert not (tmp_path / "png").exists()


def test_inference_needs_an_output(commands, drawn, tiny_weights, tmp_path):
    same = ("--voc12_root", drawn, "--weights", tiny_weights)
    assert "--out_cam" in commands.error(tmp_path, "infer_cls.py", *same)
    assert "--sal_path" in commands.error(tmp_path, "infer_cls.py", *same, "--out_plain_pred", "O")


@pytest.mark.parametrize(
    ("script", "flags", "unused"),
    [
        (infer_cls, "--out_crf_pred O --theta 0.2 --alpha 0.1 --beta 0.9 --sal_path S", []),
        (infer_cls, "--out_crf_pred O --theta 0.2 --beta 0.9", ["--theta", "--beta"]),
        (infer_cls, "--out_cam O --out_crf P --sal_path S --beta 0.9", ["--sal_path", "--beta"]),
        (evaluation, "--theta 0.2 --beta 0.9", ["--theta", "--beta"]),
        (evaluation, "--type npy --theta 0.2 --alpha 0.1 --sal_path S", []),
        (evaluation, "--type npy --curve --theta 3 --sal_path S", ["--theta"]),
        (evaluation, "--type npy --crf --theta 0.2", ["--theta"]),
    ],
)
def test_unused_flags_are_noted(script, flags, unused, capsys):
    required = "--voc12_root R --weights W" if script is infer_cls else "--predict_dir P"
    args = script.get_parser().parse_args(f"{required} {flags}".split())
    outputs = {name: folder for name, folder in vars(args).items() if name.startswith("out_") and folder}
    script.warn_unused(args, outputs) if outputs else script.warn_unused(args)
    printed = capsys.readouterr().err
    assert printed.startswith(f"note: {', '.join(unused)} ha") if unused else not printed


@pytest.mark.parametrize(
    ("output", "flags", "right"),
    [
        ("out_crf", "--type npy", "--crf"),
        ("out_cam", "--type npy --crf", r"--type npy\b(?!.*--crf)"),
    ],
)
def test_evaluation_rejects_outputs_of_another_kind(output, flags, right, tmp_path):
    claim_folder(tmp_path / "out", {"output": output})
    arguments = ["--predict_dir", str(tmp_path / "out"), "--gt_dir", str(tmp_path), *flags.split()]
    with pytest.raises(UserError, match=f"out.*{right}"):
        evaluation.make_source(evaluation.get_parser().parse_args(arguments), None)


@pytest.mark.parametrize("script", SCRIPTS, ids=str)
def test_missing_packages_name_the_environment(script):
    command = [sys.executable, "-E", "-S", script, "--help"]  # without site-packages
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert "No module named" in done.stderr and "requirements-dev.txt" in done.stderr


SCRIPT = "from tool.cli import UserError\nfrom tool.script import run_script\ndef main(): {}\nrun_script(main)"
FAILS = SCRIPT.format("raise UserError('all meet it')")


def run_python(folder: Path, script: str, *launcher: str, **environment: str) -> subprocess.CompletedProcess:
    (folder / "script.py").write_text(script)
    environment = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, *launcher, "script.py"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=200)


def test_error_of_all_processes_is_printed_once(tmp_path):
    done = run_python(tmp_path, FAILS, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "3")
    assert done.returncode == 1 and done.stderr.count("script.py: error: all meet it\n") == 1
    done = run_python(tmp_path, FAILS, LOCAL_RANK="1")  # nobody ends it
    assert (done.returncode, done.stderr) == (1, "script.py: error: all meet it\n")


def test_traceback_of_an_error(tmp_path):
    done = run_python(tmp_path, FAILS, TRACEBACK="1")
    assert done.returncode == 1 and ", in main" in done.stderr
    assert done.stderr.splitlines()[-1] == "script.py: error: all meet it"


def test_names_that_the_terminal_cannot_show(tmp_path):
    done = run_python(tmp_path, SCRIPT.format("print('cat, кошка')"), PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and done.stdout == "cat, " + "кошка".encode("unicode-escape").decode() + "\n"


def test_pytest_on_cuda_without_a_gpu():
    command = [sys.executable, "-m", "pytest", "--device", "cuda", "tests/test_cli.py"]
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=REPO, env=env, capture_output=True, text=True)
    assert done.returncode == 4 and done.stdout == "" and "--device cuda" in done.stderr
