"""Steps of an experiment: finished ones are skipped, interrupted ones resume."""

import json
import os
import signal
import threading
from pathlib import Path

import pytest

from experiment.runner import Step, call, is_finished, peak_memory, run_steps, select
from tool.cli import UserError


def logging_steps(folder: Path, text: str = "") -> list[Step]:
    """Return steps 0, 1, 2, each of which logs its number, copies its mark, and is killed where a file `kill<number>` exists."""
    work = "echo {0} >> {1}/log; cp {1}/finished/{0}.json {1}/seen; rm {1}/kill{0} 2> {1}/no && kill -9 $$; true"
    return [Step(str(number), "a step", f"sh -c '{work.format(number, folder)}' {text}") for number in range(3)]


def logged(folder: Path) -> str:
    """Return what steps have logged since the last call."""
    log = folder / "log"
    text = "".join(log.read_text().split()) if log.exists() else ""
    log.write_text("")
    return text


def test_finished_steps_are_skipped(tmp_path, capfd):
    steps = logging_steps(tmp_path)
    run_steps(steps, tmp_path, {})
    assert logged(tmp_path) == "012"
    run_steps(steps, tmp_path, {})
    assert logged(tmp_path) == "" and capfd.readouterr().out.count("finished already") == 3
    run_steps([steps[0], logging_steps(tmp_path, "more")[1], steps[2]], tmp_path, {})
    assert logged(tmp_path) == "12"  # the steps after a changed one run again


def test_killed_step_resumes_and_its_time_adds_up(tmp_path):
    for number in range(3):
        (tmp_path / f"kill{number}").touch()
        with pytest.raises(UserError, match=rf"step {number} .*killed \(signal 9\)"):
            run_steps(logging_steps(tmp_path), tmp_path, {})
        mark = json.loads((tmp_path / f"finished/{number}.json").read_text())
        assert not mark["finished"] and mark["seconds"] > 0
        assert (
            mark["peak_bytes"] < 60e6 < peak_memory(os.getpid())
        )  # a shell's, not that of the process that started it
    run_steps(logging_steps(tmp_path), tmp_path, {})
    assert logged(tmp_path) == "001122" and all(is_finished(tmp_path, step) for step in logging_steps(tmp_path))
    assert json.loads((tmp_path / "finished/2.json").read_text())["seconds"] > mark["seconds"]


@pytest.mark.parametrize(("first", "only", "ran"), [("1", None, "12"), (None, "1", "1")])
def test_from_and_only_run_finished_steps_again(tmp_path, first, only, ran):
    steps = logging_steps(tmp_path)
    run_steps(steps, tmp_path, {})
    logged(tmp_path)
    run_steps(select(steps, first, only), tmp_path, {}, again=True)
    assert logged(tmp_path) == ran and all(is_finished(tmp_path, step) for step in steps)
    assert not json.loads((tmp_path / "seen").read_text())["finished"]  # while it ran
    with pytest.raises(UserError, match=r"--from d: .*0, 1, 2"):
        select(steps, "d", None)


def test_torchrun_runs_this_python_and_shares_the_threads(tmp_path, monkeypatch):
    """Another number of processes does not change what is finished."""
    monkeypatch.setattr("experiment.runner.REPO", tmp_path)
    code = "import os, pathlib; pathlib.Path('rank' + os.environ['RANK']).write_text(os.environ['OMP_NUM_THREADS'])"
    (tmp_path / "one.py").write_text(code)
    run_steps([Step("one", "", "torchrun --standalone --nproc_per_node 2 one.py")], tmp_path, {"OMP_NUM_THREADS": "4"})
    assert [(tmp_path / f"rank{rank}").read_text() for rank in (0, 1)] == ["2", "2"]
    assert json.loads((tmp_path / "finished/one.json").read_text())["peak_bytes"] > 1e7
    assert is_finished(tmp_path, Step("one", "", "python one.py"))


def test_sigterm_ends_the_command_first(tmp_path, monkeypatch):
    """The command, asked to end, waits at a gate; the caller must wait for it."""
    monkeypatch.setattr("experiment.runner.REPO", tmp_path)
    (tmp_path / "slow.py").write_text(
        "import pathlib, signal\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])\n"
        "pathlib.Path('ready').write_bytes(b'')\nsignal.sigwait([signal.SIGTERM])\n"
        "pathlib.Path('gate').read_bytes()\npathlib.Path('ended').touch()\n"
    )
    os.mkfifo(tmp_path / "ready")
    os.mkfifo(tmp_path / "gate")

    def terminate() -> None:
        (tmp_path / "ready").read_bytes()
        os.kill(os.getpid(), signal.SIGTERM)
        (tmp_path / "gate").write_bytes(b"")

    threading.Thread(target=terminate).start()
    with pytest.raises(KeyboardInterrupt):
        call("python slow.py", {})
    assert (tmp_path / "ended").exists()


@pytest.fixture
def chain(tmp_path, monkeypatch):
    """Return a function that makes a training and an inference, which copies its weights, and fails where a file `fail` exists."""
    monkeypatch.setattr("experiment.runner.REPO", tmp_path)
    for name in ("w.pth", "list.txt", "other.pth"):
        (tmp_path / name).write_text("first")

    def steps(more: str = "", initial: str = "other.pth") -> list[Step]:
        train = f"sh -c 'mkdir -p c/EDAM; echo t >> log' --weights {initial} --checkpoint_dir c --session_name EDAM"
        infer = "sh -c 'mkdir -p labels; cp w.pth labels/w; echo i >> log; test ! -e fail' infer_cls.py"
        infer += f" --weights w.pth --infer_list list.txt --out_cam labels{more}"
        return [Step("train", "a step", train), Step("infer", "a step", infer)]

    return steps


def test_results_of_an_interrupted_rerun_are_resumed(chain, tmp_path):
    """Two steps write to one folder. The first is interrupted after new weights replaced the old."""
    first = chain()[1]
    steps = [first, Step("more", "a step", first.command.replace("list.txt", "longer.txt"))]
    run_steps(steps, tmp_path, {})
    for name in ("w.pth", "fail"):
        (tmp_path / name).write_text("another")
    with pytest.raises(UserError, match=r"step infer .*status 1"):
        run_steps(steps, tmp_path, {})
    (tmp_path / "fail").unlink()
    run_steps(steps, tmp_path, {})
    assert (tmp_path / "labels/w").read_text() == "another" and (tmp_path / "labels.1/w").read_text() == "first"
    assert not (tmp_path / "labels.2").exists()


@pytest.mark.parametrize(
    ("changed", "ran", "backup"),
    [("w.pth", "i", True), ("list.txt", "i", False), ("flags", "i", True), ("gone", "", False)],
)
def test_inference_of_changed_inputs_is_run_again(chain, tmp_path, changed, ran, backup):
    """Old results are backed up, unless the list alone changed. A file that was removed after its use has not changed."""
    run_steps(chain(), tmp_path, {})
    assert logged(tmp_path) == "ti"
    steps = chain(" --theta 0.3" if changed == "flags" else "")
    if changed == "gone":
        (tmp_path / "w.pth").unlink()
    elif changed != "flags":
        (tmp_path / changed).write_text("another")
    for expected in (ran, ""):
        run_steps(steps, tmp_path, {})
        assert logged(tmp_path) == expected and (tmp_path / "labels.1/w").exists() == backup
    assert not (tmp_path / "labels.2").exists()


def test_training_of_changed_inputs_is_refused_until_its_session_is_renamed(chain, tmp_path):
    run_steps(chain(), tmp_path, {})
    logged(tmp_path)
    with pytest.raises(UserError, match=r"step train: .*flags.*c/EDAM"):
        run_steps(chain(initial="w.pth"), tmp_path, {})
    (tmp_path / "other.pth").write_text("another")
    for _ in range(2):
        with pytest.raises(UserError, match=r"step train: .*other\.pth.*c/EDAM"):
            run_steps(chain(), tmp_path, {})
    (tmp_path / "c/EDAM").rename(tmp_path / "c/old")
    run_steps(chain(), tmp_path, {})
    assert logged(tmp_path) == "ti"
