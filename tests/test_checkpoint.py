"""Checkpoints and TensorBoard events of a run's folder."""

import argparse
import io
import resource

import numpy as np
import pytest
import torch
from PIL import Image
from training import curve, events

from tool.checkpoint import checkpoint_steps, find_state, save_torch
from tool.cli import UserError
from tool.monitor import Monitor


@pytest.mark.parametrize("steps", [25, 26, 100, 33068])
def test_25_checkpoints(steps):
    numbers = checkpoint_steps(steps)
    assert list(numbers.values()) == list(range(1, 26)) and list(numbers)[-1] == steps
    gaps = [after - before for before, after in zip([0, *numbers], numbers, strict=False)]
    assert max(gaps) - min(gaps) <= 1


def test_short_runs_have_a_checkpoint_a_step():
    assert checkpoint_steps(1) == {1: 25}
    assert list(checkpoint_steps(7)) == [1, 2, 3, 4, 5, 6, 7] and checkpoint_steps(7)[7] == 25


def test_find_state(tmp_path):
    assert find_state("latest", tmp_path) is None
    (tmp_path / "state.pth").touch()
    assert find_state("latest", tmp_path) == find_state(str(tmp_path), tmp_path / "other") == tmp_path / "state.pth"
    assert find_state(str(tmp_path / "state.pth"), tmp_path / "other") == tmp_path / "state.pth"
    with pytest.raises(UserError, match="nowhere"):
        find_state(str(tmp_path / "nowhere"), tmp_path)


@pytest.fixture
def small_files():
    """Limits the size of files to 200 kB; a full disk is in test_train.py."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_failed_write_keeps_the_earlier_file(small_files, tmp_path):
    path = tmp_path / "state.pth"
    save_torch(path, torch.arange(1000))
    with pytest.raises(UserError, match=rf"{path}.*File too large"):
        save_torch(path, torch.zeros(100_000))
    assert torch.equal(torch.load(path, weights_only=True), torch.arange(1000))
    assert [path.name for path in tmp_path.iterdir()] == ["state.pth"]


def make_monitor(folder, start: int = 0) -> Monitor:
    args = argparse.Namespace(session_name="s", log_dir=folder / "runs", batch_size=1)
    return Monitor(args, folder / "checkpoints/s", resumes=start > 0, start=start, max_step=8, photos=1)


def test_repeated_steps_replace_the_earlier_ones(tmp_path):
    killed = make_monitor(tmp_path)
    for step in range(8):
        killed.step(step, loss=step, lr=1)
    killed.flush()  # and no close
    resumed = make_monitor(tmp_path, start=5)
    for step in range(5, 7):
        resumed.step(step, loss=10 + step, lr=1)
    resumed.close()
    assert curve(tmp_path / "runs/s", "Train/Loss") == {0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 5: 15, 6: 16}


def test_pictures_arrive_as_they_are(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    monitor = make_monitor(tmp_path)
    monitor.pictures(3, [("Class_maps/a", picture)])
    monitor.close()
    found = events(tmp_path / "runs/s").Images("Class_maps/a")[0]
    assert found.step == 3 and (np.array(Image.open(io.BytesIO(found.encoded_image_string))) == picture).all()


def test_full_disk_of_events(small_files, tmp_path):
    monitor = make_monitor(tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    with pytest.raises(UserError, match=r"runs/s.*File too large"):
        monitor.pictures(0, [("a", noise)])
        monitor.flush()
    monitor.close()
