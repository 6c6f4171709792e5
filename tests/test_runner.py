"""Steps of an experiment: finished ones are skipped, interrupted ones resume."""

import json
import os
import signal
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from commands import REPO

from experiment.runner import Step, call, is_finished, peak_memory, run_steps, select
from tool.cli import UserError

# Each logs its number, copies its mark, and is killed where a file `kill<number>` exists.
WORK = "sh -c 'echo {0} >> log; cp finished/{0}.json seen; rm kill{0} 2> no && kill -9 $$; true'"
STEPS = [Step(str(number), "a step", WORK.format(number)) for number in range(3)]


@pytest.fixture(autouse=True)
def _in_folder(tmp_path, monkeypatch) -> None:
    """Run commands in a folder with weights and a list."""
    monkeypatch.setattr("experiment.runner.REPO", tmp_path)
    for name in ("w.pth", "list.txt", "other.pth"):
        (tmp_path / name).write_text("first")


def chain(more: str = "", initial: str = "other.pth") -> list[Step]:
    """Return a training and an inference, which copies its weights, and fails where a file `fail` exists."""
    train = f"sh -c 'mkdir -p c/EDAM; echo t >> log' --weights {initial} --checkpoint_dir c --session_name EDAM"
    infer = "sh -c 'mkdir -p labels; cp w.pth labels/w; echo i >> log; test ! -e fail' infer_cls.py"
    infer += f" --weights w.pth --infer_list list.txt --out_cam labels{more}"
    return [Step("train", "a step", train), Step("infer", "a step", infer)]


def run(steps: list[Step], folder: Path, again: bool = False) -> str:
    """Run steps and return what they logged."""
    (folder / "log").write_text("")
    run_steps(steps, folder, {}, again)
    return "".join((folder / "log").read_text().split())


def mark(folder: Path, name: str) -> dict:
    return json.loads((folder / "finished" / f"{name}.json").read_text())


def test_finished_steps_are_skipped(tmp_path):
    assert [run(STEPS, tmp_path) for _ in range(2)] == ["012", ""]
    changed = [STEPS[0], replace(STEPS[1], command=f"{STEPS[1].command} more"), STEPS[2]]
    assert run(changed, tmp_path) == "12"  # the steps after a changed one run again
    for number, text in enumerate(("", '{"other": 1}')):
        (tmp_path / f"finished/{number}.json").write_text(text)
        assert run(changed, tmp_path) == "012"[number:]  # as do those from an unreadable mark on


def test_killed_step_resumes_and_its_time_adds_up(tmp_path):
    for step in STEPS:
        (tmp_path / f"kill{step.name}").touch()
        with pytest.raises(UserError, match=rf"step {step.name} .*killed \(signal 9\)"):
            run(STEPS, tmp_path)
        killed = mark(tmp_path, step.name)
        assert not killed["finished"] and killed["seconds"] > 0
        assert killed["peak_bytes"] < 60e6 < peak_memory(os.getpid())  # a shell's, not its parent's
    assert run(STEPS, tmp_path) == "2" and all(is_finished(tmp_path, step) for step in STEPS)
    assert mark(tmp_path, "2")["seconds"] > killed["seconds"]


@pytest.mark.parametrize(("first", "only", "ran"), [("1", None, "12"), (None, "1", "1")])
def test_from_and_only_run_finished_steps_again(tmp_path, first, only, ran):
    run(STEPS, tmp_path)
    assert run(select(STEPS, first, only), tmp_path, again=True) == ran
    assert all(is_finished(tmp_path, step) for step in STEPS)
    assert not json.loads((tmp_path / "seen").read_text())["finished"]  # while it ran
    with pytest.raises(UserError, match=r"--from d: .*0, 1, 2"):
        select(STEPS, "d", None)


def test_torchrun_runs_this_python_and_shares_the_threads(tmp_path):
    """Another number of processes does not change what is finished."""
    code = "import os, pathlib; pathlib.Path('rank' + os.environ['RANK']).write_text(os.environ['OMP_NUM_THREADS'])"
    (tmp_path / "one.py").write_text(code)
    run_steps([Step("one", "", "torchrun --standalone --nproc_per_node 2 one.py")], tmp_path, {"OMP_NUM_THREADS": "4"})
    assert [(tmp_path / f"rank{rank}").read_text() for rank in (0, 1)] == ["2", "2"]
    assert mark(tmp_path, "one")["peak_bytes"] > 1e7
    assert is_finished(tmp_path, Step("one", "", "python one.py"))


def test_gpu_memory_of_the_largest_process(tmp_path):
    """Ranks report it, here with a stand-in for PyTorch; a step without a GPU has none."""
    (tmp_path / "one.py").write_text(
        "import os, sys\nfrom unittest.mock import Mock\nfrom tool.script import run_script\n"
        "sys.modules['torch'] = torch = Mock()\n"
        "torch.cuda.max_memory_allocated.return_value = 10**9 * (1 + int(os.environ['RANK']))\n"
        "run_script(lambda: None)\n"
    )
    one = Step("one", "", "torchrun --standalone --nproc_per_node 2 one.py")
    run_steps([one, STEPS[0]], tmp_path, {"PYTHONPATH": str(REPO)})
    assert mark(tmp_path, "one")["gpu_bytes"] == 2 * 10**9 and mark(tmp_path, "0")["gpu_bytes"] == 0


def test_sigterm_ends_the_command_first(tmp_path):
    """The command, asked to end, waits at a gate; the caller must wait for it."""
    (tmp_path / "slow.py").write_text(
        "import pathlib, signal\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])\n"
        "pathlib.Path('ready').write_bytes(b'')\nsignal.sigwait([signal.SIGTERM])\n"
        "pathlib.Path('gate').read_bytes()\npathlib.Path('ended').touch()\n"
    )
    for name in ("ready", "gate"):
        os.mkfifo(tmp_path / name)

    def terminate() -> None:
        (tmp_path / "ready").read_bytes()
        os.kill(os.getpid(), signal.SIGTERM)
        (tmp_path / "gate").write_bytes(b"")

    threading.Thread(target=terminate).start()
    with pytest.raises(KeyboardInterrupt):
        call("python slow.py", {})
    assert (tmp_path / "ended").exists()


def test_results_of_an_interrupted_rerun_are_resumed(tmp_path):
    """Two steps write to one folder. The first is interrupted after new weights replaced the old."""
    first = chain()[1]
    steps = [first, Step("more", "a step", first.command.replace("list.txt", "longer.txt"))]
    run(steps, tmp_path)
    for name in ("w.pth", "fail"):
        (tmp_path / name).write_text("another")
    with pytest.raises(UserError, match=r"step infer .*status 1"):
        run(steps, tmp_path)
    (tmp_path / "fail").unlink()
    run(steps, tmp_path)
    assert (tmp_path / "labels/w").read_text() == "another" and (tmp_path / "labels.1/w").read_text() == "first"
    assert not (tmp_path / "labels.2").exists()


@pytest.mark.parametrize(
    ("changed", "ran", "backup"),
    [("w.pth", "i", True), ("list.txt", "i", False), ("flags", "i", True), ("gone", "", False)],
)
def test_inference_of_changed_inputs_is_run_again(tmp_path, changed, ran, backup):
    """Old results are backed up, unless the list alone changed. A file that was removed after its use has not changed."""
    assert run(chain(), tmp_path) == "ti"
    if changed == "gone":
        (tmp_path / "w.pth").unlink()
    elif changed != "flags":
        (tmp_path / changed).write_text("another")
    steps = chain(" --theta 0.3" if changed == "flags" else "")
    assert [run(steps, tmp_path) for _ in range(2)] == [ran, ""]
    assert (tmp_path / "labels.1/w").exists() == backup and not (tmp_path / "labels.2").exists()


def test_training_of_changed_inputs_is_refused_until_its_session_is_renamed(tmp_path):
    run(chain(), tmp_path)
    with pytest.raises(UserError, match=r"step train: .*flags.*c/EDAM"):
        run(chain(initial="w.pth"), tmp_path)
    (tmp_path / "other.pth").write_text("another")
    for _ in range(2):
        with pytest.raises(UserError, match=r"step train: .*other\.pth.*c/EDAM"):
            run(chain(), tmp_path)
    (tmp_path / "c/EDAM").rename(tmp_path / "c/old")
    assert run(chain(), tmp_path) == "ti"
