"""Processes and threads that read or score photos: killed, interrupted, without memory, in order."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from commands import REPO, ended
from PIL import Image

from pseudo_label.loop import map_ahead
from tool.files import save_npy_dict
from tool.processes import WorkerPool


def test_killed_worker_ends_the_script(commands, tmp_path):
    ids = [str(number) for number in range(1500)]
    (tmp_path / "list.txt").write_text("\n".join(ids))
    for folder in ("npy", "truth"):
        (tmp_path / folder).mkdir()
    Image.new("L", (99, 99)).save(tmp_path / "truth/0.png")
    save_npy_dict(tmp_path / "npy/0.npy", {0: np.zeros((99, 99), np.float32)})
    for image_id in ids[1:]:
        for name in ("truth/{}.png", "npy/{}.npy"):
            os.link(tmp_path / name.format(0), tmp_path / name.format(image_id))
    arguments = ("--gt_dir", "truth", "--list", "list.txt", "--predict_dir", "npy", "--type", "npy", "--num_workers", 2)
    command = commands.start(tmp_path, "eval.py", *arguments)
    assert command.until(lambda: len(command.children()) == 2)
    workers = command.children()
    os.kill(workers[1], signal.SIGKILL)
    assert command.wait() == 1 and all(map(ended, workers))
    assert len(command.stderr) == 1 and "killed" in command.stderr[0] and "--num_workers" in command.stderr[0]


def test_exception_cancels_the_tasks_that_are_left(tmp_path):
    os.mkfifo(gate := tmp_path / "gate")
    with pytest.raises(KeyboardInterrupt), WorkerPool(1) as pool:
        pool.submit(gate.read_bytes)  # ends when the last task is cancelled
        tasks = [pool.submit(os.mkdir, tmp_path / str(number)) for number in range(50)]
        tasks[-1].add_done_callback(lambda _: gate.write_bytes(b""))
        raise KeyboardInterrupt
    cancelled = sum(task.cancelled() for task in tasks)
    assert cancelled >= 45 and len(list(tmp_path.iterdir())) == 51 - cancelled  # a few lie in the process's own queue


@pytest.mark.parametrize("threads", [0, 3, 30])
def test_map_ahead_yields_in_order(threads):
    started, found = [], []

    def invert(item: str) -> float:
        started.append(item)
        return 1 / (15 - int(item))

    with pytest.raises(ZeroDivisionError):
        for result in map_ahead(invert, [str(number) for number in range(20)], threads):
            found.append(result)
            assert len(started) <= len(found) + threads + 1
    assert found == [1 / (15 - number) for number in range(15)]


BATCHES = """
import torch
from tool.script import run_script
from tool.loading import batches
run_script(lambda: list(batches(torch.zeros(4, 100_000), [[0, 1], [2, 3]], 2, False)))
"""
POOL = """
from tool.script import run_script
from tool.processes import WorkerPool
run_script(lambda: WorkerPool(1))
"""


@pytest.mark.parametrize(("script", "size"), [(BATCHES, "64k"), (POOL, "4k")])  # of pages; a semaphore takes one
def test_full_dev_shm_is_named(script, size):
    mount = f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$0" -c "$1"'
    command = ["unshare", "--mount", "sh", "-c", mount, sys.executable, script]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=200)
    if "mount: " in done.stderr or "unshare: " in done.stderr:
        pytest.skip("mounting is not allowed here")
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and "/dev/shm" in done.stderr
