"""Command lines: bad values by name, missing files and packages in one line, unused flags."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import REPO
from training import write_pairs

import eval as evaluation
import infer_cls
import reproduce
from pseudo_label.manifest import claim_folder
from tool.cli import UserError

FILES = [path for folder in ("", "demo", "experiment", "voc12") for path in sorted((REPO / folder).glob("*.py"))]
SCRIPTS = [path.relative_to(REPO) for path in FILES if 'if __name__ == "__main__"' in path.read_text(encoding="utf-8")]
TRAIN = "train_EDAM_cls --voc12_root R"


@pytest.mark.parametrize(
    ("command", "keyword"),
    [
        ("infer_cls", "required: --weights"),
        (f"{TRAIN} --batch_size 0", "--batch_size: 0, where at least 1"),
        (f"{TRAIN} --lr nan", "--lr: nan, where at least 0"),
        (f"{TRAIN} --crop_size 1", "--crop_size: 1, where at least"),
        ("train_deeplab --voc12_root R --label_dir L --crop_size 1", "--crop_size: 1, where at least"),
        (f"{TRAIN} --session_name ../x", "--session_name: '../x'"),
    ],
)
def test_bad_values(command, keyword, capsys):
    script, *args = command.split()
    with pytest.raises(SystemExit, match="2"):
        importlib.import_module(script).get_parser().parse_args(args)
    assert keyword in capsys.readouterr().err.splitlines()[-1]


WRONG = [("--voc12_root", "nowhere"), ("--weights", ".."), ("--network", "a/b.py"), ("--train_list", "nowhere.txt")]
WRONG += [("--resume", "nowhere"), ("--network", "tool.optim"), ("--batch_size", 4), ("--long_side", 64, 32)]


@pytest.mark.parametrize("args", WRONG)
def test_training_names_what_is_missing(args, commands, drawn, tmp_path):
    write_pairs(tmp_path / "pairs.txt", 3)
    same = ("--voc12_root", drawn, "--train_list", "pairs.txt", "--network", "tests.small_net", "--batch_size", 1)
    assert str(args[1]) in commands.error(tmp_path, "train_EDAM_cls.py", *same, *args)
    assert not (tmp_path / "checkpoints/EDAM").exists() and not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("script", "flags", "unused"),
    [
        (infer_cls, "--out_crf_pred O --theta 0.2 --alpha 0.1 --beta 0.9 --sal_path S", []),
        (infer_cls, "--out_crf_pred O --theta 0.2 --beta 0.9", ["--theta", "--beta"]),
        (infer_cls, "--out_cam O --out_crf P --sal_path S --beta 0.9", ["--sal_path", "--beta"]),
        (evaluation, "--type npy --crf --theta 0.2", ["--theta"]),
    ],
)
def test_unused_flags_are_noted(script, flags, unused, capsys):
    required = "--voc12_root R --weights W" if script is infer_cls else "--predict_dir P"
    args = script.get_parser().parse_args(f"{required} {flags}".split())
    outputs = {name: folder for name, folder in vars(args).items() if name.startswith("out_") and folder}
    script.warn_unused(args, outputs) if outputs else script.warn_unused(args)
    printed = capsys.readouterr().err
    assert printed.startswith(f"note: {', '.join(unused)}: ") if unused else not printed


def test_evaluation_rejects_outputs_of_another_kind(tmp_path):
    claim_folder(tmp_path / "out", {"output": "out_crf"})
    flags = ["--predict_dir", str(tmp_path / "out"), "--type", "npy", "--gt_dir", str(tmp_path)]
    with pytest.raises(UserError, match=r"out.*--crf"):
        evaluation.make_source(evaluation.get_parser().parse_args(flags), None)


@pytest.mark.parametrize("script", SCRIPTS, ids=str)
def test_missing_packages_name_the_environment(script):
    command = [sys.executable, "-E", "-S", script, "--help"]  # without site-packages
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert all(word in done.stderr for word in ("No module named", "`. .venv/bin/activate`", "requirements-dev.txt"))


@pytest.mark.parametrize("script", SCRIPTS, ids=str)
def test_help(script):
    shown = importlib.import_module(".".join(script.with_suffix("").parts)).get_parser().format_help()
    names = ", ".join(reproduce.step_names()) if script.name == "reproduce.py" else "--help"
    assert names in " ".join(shown.split())


def test_make_real_asks_for_photos_before_it_installs(tmp_path):
    command = ["make", "real", "VOC=none", f"VENV={tmp_path}/v", "PYTHON=false"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 2 and "VOC=none: holds no JPEGImages" in done.stdout


WITHOUT = {
    "torch": "eval, colorful, infer_sal, voc12.prepare, voc12.prepare_coco, voc12.pairs, experiment.baselines, demo.draw",
    "torchvision": "train_EDAM_cls, infer_cls, train_deeplab, infer_deeplab, train_sal, demo.pretrain",
}


@pytest.mark.parametrize("spared", WITHOUT)
def test_scripts_start_without_slow_imports(spared):
    code = f"import sys, {WITHOUT[spared]}; print({spared!r} in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    assert shown.stdout == "False\n"


SCRIPT = "from tool.cli import UserError\nfrom tool.script import run_script\ndef main(): {}\nrun_script(main)"
FAILS = SCRIPT.format("raise UserError('all meet it')")
ERROR = "script.py: error: all meet it"


def run_python(folder: Path, script: str, *launcher: str, **environment: str) -> subprocess.CompletedProcess:
    (folder / "script.py").write_text(script)
    environment = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, *launcher, "script.py"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=200)


def test_error_of_all_processes_is_printed_once(tmp_path):
    done = run_python(tmp_path, FAILS, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "3")
    assert done.returncode == 1 and done.stderr.count(ERROR) == 1
    done = run_python(tmp_path, FAILS, LOCAL_RANK="1")  # nobody ends it
    assert (done.returncode, done.stderr) == (1, f"{ERROR}\n")


def test_traceback_of_an_error(tmp_path):
    done = run_python(tmp_path, FAILS, TRACEBACK="1")
    assert done.returncode == 1 and ", in main" in done.stderr and done.stderr.endswith(f"{ERROR}\n")


def test_names_that_the_terminal_cannot_show(tmp_path):
    done = run_python(tmp_path, SCRIPT.format("print('cat, кошка')"), PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and done.stdout == "cat, " + "кошка".encode("unicode-escape").decode() + "\n"
