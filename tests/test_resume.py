"""Interrupted training goes on as if nothing had happened."""

import random
import re
import signal
from pathlib import Path

import pytest
import torch
from training import curve, flags, same_curves, same_tensors, tensors, write_pairs

from tool.checkpoint import catch_signals

STEPS = 40  # more than the 25 checkpoints, so that a killed run has steps to do again


@pytest.fixture(scope="module")
def whole(commands, drawn, tmp_path_factory) -> Path:
    """Folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    write_pairs(folder / "pairs.txt", STEPS)
    commands.run(folder, "train_EDAM_cls.py", *flags(drawn))
    return folder


def last_step(folder: Path) -> int:
    """Steps that the log has seen."""
    log = folder / "checkpoints/EDAM/train.log"
    return max(map(int, re.findall(r"step (\d+)/", log.read_text())), default=0) if log.exists() else 0


def check_same_run(folder: Path, whole: Path) -> None:
    """Weights, momentum, every checkpoint and the curves are those of the uninterrupted run, bit for bit on a CPU."""
    session, expected = folder / "checkpoints/EDAM", whole / "checkpoints/EDAM"
    names = sorted(path.name for path in session.iterdir())
    assert names == sorted(path.name for path in expected.iterdir())  # nothing half written is left
    assert all(same_tensors(session / name, expected / name) for name in names if name.endswith(".pth"))
    for tag in ("Train/Loss", "Lr"):
        assert same_curves(folder / "runs/EDAM", whole / "runs/EDAM", tag)


@pytest.mark.parametrize("workers", [0, 4])
def test_killed_at_five_random_steps(workers, whole, commands, drawn, tmp_path):
    write_pairs(tmp_path / "pairs.txt", STEPS)
    arguments = flags(drawn, "--num_workers", workers, "--resume")
    for target in sorted(random.Random(workers).sample(range(3, STEPS - 3), 5)):
        command = commands.start(tmp_path, "train_EDAM_cls.py", *arguments)
        assert command.until(lambda target=target: last_step(tmp_path) >= target)
        assert command.send(signal.SIGKILL) == -signal.SIGKILL
        assert all(tensors(path) for path in (tmp_path / "checkpoints/EDAM").glob("[!.]*.pth"))  # whole, each of them
    done = commands.run(tmp_path, "train_EDAM_cls.py", *arguments)
    assert re.search(rf"resumed checkpoints/EDAM/state.pth after step \d+ of {STEPS}", done.stdout)
    check_same_run(tmp_path, whole)


@pytest.mark.parametrize(
    ("number", "status", "workers", "group"),
    [
        (signal.SIGTERM, 143, 0, False),
        (signal.SIGTERM, 143, 2, True),  # to the loader processes as well, as Slurm does
        (signal.SIGINT, 130, 2, True),  # as Ctrl-C in a terminal does
    ],
)
def test_stopped_by_a_signal(number, status, workers, group, whole, commands, drawn, tmp_path):
    write_pairs(tmp_path / "pairs.txt", STEPS)
    arguments = flags(drawn, "--num_workers", workers)
    command = commands.start(tmp_path, "train_EDAM_cls.py", *arguments)
    assert command.until(lambda: last_step(tmp_path) >= 7)
    assert command.send(number, group) == status
    stopped = re.search(rf"stopped by a signal after step (\d+) of {STEPS}; --resume goes on", command.stdout)
    assert command.stderr == []
    state = torch.load(tmp_path / "checkpoints/EDAM/state.pth", weights_only=True)
    assert state["step"] == int(stopped[1]) == last_step(tmp_path) >= 7
    commands.run(tmp_path, "train_EDAM_cls.py", *arguments, "--resume")
    check_same_run(tmp_path, whole)


def test_a_second_ctrl_c_ends_at_once():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        caught = catch_signals()
        for _ in range(2):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        assert caught == [signal.SIGTERM, signal.SIGTERM, signal.SIGINT]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_resuming_a_finished_run_changes_nothing(whole, commands, drawn, tmp_path):
    write_pairs(tmp_path / "pairs.txt", 2)
    commands.run(tmp_path, "train_EDAM_cls.py", *flags(drawn, "--resume"))  # nothing there yet: begins
    saved = {path: path.read_bytes() for path in (tmp_path / "checkpoints/EDAM").glob("*.pth")}
    done = commands.run(tmp_path, "train_EDAM_cls.py", *flags(drawn, "--resume"))
    assert "resumed checkpoints/EDAM/state.pth after step 2 of 2" in done.stdout
    assert len(saved) == 4 and all(path.read_bytes() == data for path, data in saved.items())
    assert list(curve(tmp_path / "runs/EDAM", "Lr")) == [0, 1]


def test_resuming_from_a_path(whole, commands, drawn, tmp_path):
    """A state of another session goes on in this one; that session stays as it is."""
    write_pairs(tmp_path / "pairs.txt", STEPS)
    command = commands.start(tmp_path, "train_EDAM_cls.py", *flags(drawn, "--session_name", "first"))
    assert command.until(lambda: (tmp_path / "checkpoints/first/first_03.pth").exists())
    assert command.send(signal.SIGTERM) == 143
    first = {path: path.read_bytes() for path in (tmp_path / "checkpoints/first").iterdir()}
    commands.run(tmp_path, "train_EDAM_cls.py", *flags(drawn, "--resume", "checkpoints/first"))
    assert same_tensors(tmp_path / "checkpoints/EDAM/EDAM.pth", whole / "checkpoints/EDAM/EDAM.pth")
    assert {path: path.read_bytes() for path in (tmp_path / "checkpoints/first").iterdir()} == first


def make_state(path: Path, change) -> None:
    """A copy of a run's state, changed."""
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path.with_name("changed.pth"))


def drop_network(state):
    del state["network"]


def other_network(state):
    state["network"] = {"conv.weight": torch.zeros(1)}


def other_optimizer(state):
    state["optimizer"]["param_groups"].pop()


def many_steps(state):
    state["step"] = 10**9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_network, "changed.pth is not the state of a training run; resume from a state.pth"),
        (other_network, "changed.pth does not fit this run's network: "),
        (other_optimizer, "changed.pth does not fit this run's optimizer: "),
        (many_steps, "changed.pth is damaged: it claims 1000000000 finished steps of 40"),
    ],
)
def test_refused_states(change, message, whole, commands, drawn, tmp_path):
    make_state(whole / "checkpoints/EDAM/state.pth", change)
    write_pairs(tmp_path / "pairs.txt", STEPS)
    state = whole / "checkpoints/EDAM/changed.pth"
    try:
        line = commands.error(tmp_path, "train_EDAM_cls.py", *flags(drawn, "--resume", state))
    finally:
        state.unlink()
    assert message in line and not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ("--lr", 0.1),
            r"state.pth was written with --lr 0.01, this run has 0.1; resume with the same settings, or start",
        ),
        (("--batch_size", 2), r"state.pth was written with --batch_size 1, this run has 2; "),
        (("--long_side", 32, 64), r"state.pth was written with --long_side 32 48, this run has 32 64; "),
        (("--max_epoches", 2), r"state.pth was written with --max_epoches 1, this run has 2; "),
    ],
)
def test_other_settings_are_refused(more, message, whole, commands, drawn, tmp_path):
    write_pairs(tmp_path / "pairs.txt", STEPS)
    arguments = flags(drawn, "--resume", whole / "checkpoints/EDAM")
    assert re.search(message, commands.error(tmp_path, "train_EDAM_cls.py", *arguments, *more))


def test_files_that_are_no_states_are_refused(whole, commands, drawn, tmp_path):
    write_pairs(tmp_path / "pairs.txt", STEPS)

    def line(path: object) -> str:
        return commands.error(tmp_path, "train_EDAM_cls.py", *flags(drawn, "--resume", path))

    assert line("nowhere") == "--resume nowhere: nowhere does not exist; name a run's folder or its state.pth"
    assert (
        line(tmp_path)
        == f"--resume {tmp_path}: {tmp_path}/state.pth does not exist; name a run's folder or its state.pth"
    )
    assert "EDAM.pth is not the state of a training run" in line(whole / "checkpoints/EDAM/EDAM.pth")
    whole_state = (whole / "checkpoints/EDAM/state.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole_state[: len(whole_state) // 2])
    assert "cut.pth" in line("cut.pth")
    (tmp_path / "pairs.txt").write_text("\n".join(reversed((whole / "pairs.txt").read_text().splitlines())))
    assert "state.pth was written with another --train_list; resume" in line(whole / "checkpoints/EDAM")
