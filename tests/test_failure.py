"""A rank that is killed or raises an error: all end within seconds, and --resume continues to the same bytes."""

import os
import select
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import REPO, ended
from training import flags, same_run, tensors, write_pairs

STEPS = 30  # more than the 25 checkpoints, so that resumed runs repeat steps


def start(folder: Path, drawn: Path, fail: str, *more: object) -> subprocess.Popen:
    """Start a training of two processes that fails as tests/failing_net.py reads `fail`."""
    write_pairs(folder / "pairs.txt", 2 * STEPS)
    arguments = flags(drawn, "--network", "tests.failing_net", "--batch_size", 2, "--device", "cpu", "--resume", *more)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", 2]
    env = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1", "FAIL": fail}
    words = [str(word) for word in (*command, REPO / "train_EDAM_cls.py", *arguments)]
    return subprocess.Popen(words, cwd=folder, env=env, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def wait_for_failure(process: subprocess.Popen, folder: Path) -> str:
    """Wait until a rank fails, then 5 seconds for the end of all, and for torchrun; return what they printed."""
    while process.poll() is None and not (folder / "failed").exists():
        select.select([], [], [], 0.02)
    try:
        assert all(ended(int((folder / f"process{rank}").read_text()), 5) for rank in (0, 1))
        return process.communicate(timeout=200)[1]
    finally:
        process.kill()


@pytest.fixture(scope="module")
def whole(drawn, tmp_path_factory) -> Path:
    """Folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    process = start(folder, drawn, "none 0 0")
    error = process.communicate(timeout=200)[1]
    assert process.returncode == 0, error
    return folder


@pytest.mark.parametrize(
    ("fail", "keyword"),
    [
        ("kill 0 18", "rank 1: lost connection"),
        ("kill 1 5", "rank 0: lost connection"),
        ("error 0 27", "ZeroDivisionError: made"),
        ("error 1 11", "ZeroDivisionError: made"),
        ("deaf 1 3", "ZeroDivisionError: made"),
    ],
)
def test_failing_rank_ends_all(fail, keyword, whole, drawn, tmp_path):
    error = wait_for_failure(start(tmp_path, drawn, fail), tmp_path)
    assert error.count(keyword) == 1
    saved = torch.load(tmp_path / "checkpoints/EDAM/state.pth", weights_only=True)
    assert 0 < saved["step"] < int(fail.split()[2])
    assert all(tensors(path) for path in (tmp_path / "checkpoints/EDAM").glob("[!.]*.pth"))
    resumed = start(tmp_path, drawn, "none 0 0")
    _, error = resumed.communicate(timeout=200)
    assert resumed.returncode == 0, error
    assert same_run(tmp_path, whole, "EDAM")
