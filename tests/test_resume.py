"""Interrupted EDAM trainings: signals, paths of --resume, refused states, photos and workers that fail on the way."""

import os
import re
import signal
from pathlib import Path

import pytest
import torch
from training import curve, damage, flags, image_id, make_data, same_run, write_pairs

from tool.checkpoint import catch_signals

STEPS = 40  # more than the 25 checkpoints, so that a killed run repeats steps
SCRIPT = "train_EDAM_cls.py"


@pytest.fixture(scope="module")
def whole(commands, drawn, tmp_path_factory) -> Path:
    """Folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    write_pairs(folder / "pairs.txt", STEPS)
    commands.run(folder, SCRIPT, *flags(drawn))
    return folder


@pytest.fixture(autouse=True)
def pairs(tmp_path) -> Path:
    return write_pairs(tmp_path / "pairs.txt", STEPS)


def last_step(folder: Path) -> int:
    """Return the last step in the log."""
    log = folder / "checkpoints/EDAM/train.log"
    return max(map(int, re.findall(r"step (\d+)/", log.read_text())), default=0) if log.exists() else 0


def state_of(folder: Path) -> dict:
    return torch.load(folder / "checkpoints/EDAM/state.pth", weights_only=True)


@pytest.mark.parametrize(
    ("number", "status", "workers", "group"),
    [
        (signal.SIGTERM, 143, 0, False),
        (signal.SIGTERM, 143, 2, True),  # to the loader's processes, too, as Slurm does
        (signal.SIGINT, 130, 2, True),  # as Ctrl-C in a terminal does
    ],
)
def test_stopped_by_a_signal(number, status, workers, group, whole, commands, drawn, tmp_path):
    arguments = flags(drawn, "--num_workers", workers)
    command = commands.start(tmp_path, SCRIPT, *arguments)
    assert command.until(lambda: last_step(tmp_path) >= 7)
    assert command.send(number, group) == status
    stopped = re.search(rf"stopped by a signal after step (\d+) of {STEPS}", command.stdout)
    assert command.stderr == []
    assert state_of(tmp_path)["step"] == int(stopped[1]) == last_step(tmp_path) >= 7
    commands.run(tmp_path, SCRIPT, *arguments, "--resume")
    assert same_run(tmp_path, whole, "EDAM")


def test_second_ctrl_c_ends_at_once(monkeypatch):
    handlers = {}
    monkeypatch.setattr(signal, "signal", handlers.__setitem__)
    caught = catch_signals()
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
        handlers[number](number, None)
    assert caught == [signal.SIGTERM, signal.SIGTERM, signal.SIGINT]
    assert handlers[signal.SIGINT] is signal.default_int_handler


def test_finished_run(commands, drawn, tmp_path):
    """--resume begins a run that does not exist, and changes nothing in one that is finished."""
    write_pairs(tmp_path / "pairs.txt", 2)
    begun = commands.run(tmp_path, SCRIPT, *flags(drawn, "--resume"))
    assert "--warmup_steps 4: more than all steps" in begun.stdout
    saved = {path: path.read_bytes() for path in (tmp_path / "checkpoints/EDAM").glob("*.pth")}
    done = commands.run(tmp_path, SCRIPT, *flags(drawn, "--resume", "--weights", "other.pth"))
    assert "resumed checkpoints/EDAM/state.pth after step 2 of 2, without reading --weights other.pth" in done.stdout
    assert len(saved) == 4 and all(path.read_bytes() == data for path, data in saved.items())
    assert list(curve(tmp_path / "runs/EDAM", "Lr")) == [0, 1]


def test_refused_states(whole, commands, drawn, tmp_path, pairs):
    """A missing, damaged or other file, a state of another network, and one of other pairs."""
    session, state = whole / "checkpoints/EDAM", state_of(whole)
    (tmp_path / "cut.pth").write_bytes((session / "state.pth").read_bytes()[:10_000])
    torch.save(state | {"network": {"conv.weight": torch.zeros(1)}}, tmp_path / "other.pth")
    for path in ("nowhere", session / "EDAM.pth", "cut.pth", "other.pth"):
        assert str(path) in commands.error(tmp_path, SCRIPT, *flags(drawn, "--resume", path))
    pairs.write_text("\n".join(reversed(pairs.read_text().splitlines())))
    assert "--train_list" in commands.error(tmp_path, SCRIPT, *flags(drawn, "--resume", session))
    assert not (tmp_path / "checkpoints/EDAM").exists()


@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_photo(workers, whole, commands, drawn, tmp_path):
    """It ends the run at its step with a saved state; once replaced, the resumed run ends like one without the fault."""
    root = make_data(drawn, tmp_path / "data")
    photo = root / f"JPEGImages/{image_id(5)}.jpg"
    intact = damage(photo)
    arguments = flags(root, "--num_workers", workers)
    line = commands.error(tmp_path, SCRIPT, *arguments)
    assert str(photo) in line and "step 4" in line
    assert state_of(tmp_path)["step"] == 4
    photo.write_bytes(intact)
    commands.run(tmp_path, SCRIPT, *arguments, "--resume")
    assert same_run(tmp_path, whole, "EDAM")


def test_killed_loader_worker(commands, drawn, tmp_path):
    write_pairs(tmp_path / "pairs.txt", 400)
    command = commands.start(tmp_path, SCRIPT, *flags(drawn, "--num_workers", 2))
    assert command.until(lambda: last_step(tmp_path) >= 4)
    workers = command.children()
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    assert command.wait() == 1
    step = int(re.search(r"--num_workers.*killed.* after step (\d+)", command.stderr[0])[1])
    assert len(command.stderr) == 1 and state_of(tmp_path)["step"] == step >= 4
    assert list(curve(tmp_path / "runs/EDAM", "Lr")) == list(range(step))
