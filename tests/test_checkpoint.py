"""A run's folder: which checkpoints, and that nothing in it is overwritten or half written."""

import resource

import pytest
import torch

from tool.checkpoint import checkpoint_steps, find_state, save_torch, set_aside
from tool.cli import UserError


@pytest.mark.parametrize("steps", [25, 26, 100, 33068])
def test_25_checkpoints(steps):
    numbers = checkpoint_steps(steps)
    assert list(numbers.values()) == list(range(1, 26)) and list(numbers)[-1] == steps
    gaps = [after - before for before, after in zip([0, *numbers], numbers, strict=False)]
    assert max(gaps) - min(gaps) <= 1


def test_short_runs_have_a_checkpoint_a_step():
    assert checkpoint_steps(1) == {1: 25}
    assert list(checkpoint_steps(7)) == [1, 2, 3, 4, 5, 6, 7] and checkpoint_steps(7)[7] == 25


def test_set_aside(tmp_path):
    folder = tmp_path / "EDAM"
    assert set_aside(folder) is None
    folder.mkdir()
    assert set_aside(folder) is None  # empty: nothing to keep
    for number in (1, 2):
        folder.mkdir(exist_ok=True)
        (folder / "state.pth").write_text(str(number))
        assert set_aside(folder) == tmp_path / f"EDAM.{number}" and not folder.exists()
    assert [(tmp_path / f"EDAM.{n}/state.pth").read_text() for n in (1, 2)] == ["1", "2"]


def test_find_state(tmp_path):
    assert find_state("latest", tmp_path) is None
    (tmp_path / "state.pth").touch()
    assert find_state("latest", tmp_path) == find_state(str(tmp_path), tmp_path / "other") == tmp_path / "state.pth"
    assert find_state(str(tmp_path / "state.pth"), tmp_path / "other") == tmp_path / "state.pth"
    with pytest.raises(
        UserError, match=r"--resume .*nowhere: .*nowhere does not exist; name a run's folder or its state\.pth"
    ):
        find_state(str(tmp_path / "nowhere"), tmp_path)


def test_a_failed_write_keeps_the_earlier_file(tmp_path):
    """Here files may not grow over 200 kB; what a full disk does through the script is in test_train_faults.py."""
    path = tmp_path / "state.pth"
    save_torch(path, torch.arange(1000))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(UserError, match=rf"^cannot write {path}: File too large$"):
            save_torch(path, torch.zeros(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert torch.equal(torch.load(path, weights_only=True), torch.arange(1000))
    assert [path.name for path in tmp_path.iterdir()] == ["state.pth"]
