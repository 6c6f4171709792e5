"""tool/processes.py: Ctrl-C cancels the tasks that are left, and a killed worker ends its script."""

import os
import signal
import subprocess
import sys

from commands import REPO, ended
from PIL import Image

from pseudo_label.evaluate import CHUNK


def test_killed_worker_ends_the_script(commands, tmp_path):
    ids = [str(number) for number in range(CHUNK + 1)]
    (tmp_path / "list.txt").write_text("\n".join(ids))
    for folder in ("npy", "truth"):
        (tmp_path / folder).mkdir()
    for image_id in ids:
        Image.new("L", (2, 2)).save(tmp_path / f"truth/{image_id}.png")
        os.mkfifo(tmp_path / f"npy/{image_id}.npy")  # for which a worker waits for ever
    arguments = ("--gt_dir", "truth", "--list", "list.txt", "--predict_dir", "npy", "--type", "npy", "--num_workers", 2)
    command = commands.start(tmp_path, "eval.py", *arguments)
    assert command.until(lambda: len(command.children()) == 2)
    workers = command.children()
    os.kill(workers[1], signal.SIGKILL)
    assert command.wait() == 1 and all(map(ended, workers))
    assert len(command.stderr) == 1 and "killed" in command.stderr[0] and "--num_workers" in command.stderr[0]


INTERRUPTED = """
import os, pathlib
from tool.processes import WorkerPool

gate = pathlib.Path("gate")
os.mkfifo(gate)
try:
    with WorkerPool(1) as pool:
        pool.submit(gate.read_bytes)  # ends when the last task is cancelled
        tasks = [pool.submit(os.mkdir, str(number)) for number in range(50)]
        tasks[-1].add_done_callback(lambda _: gate.write_bytes(b""))
        raise KeyboardInterrupt
except KeyboardInterrupt:
    print(sum(task.cancelled() for task in tasks))
"""


def test_exception_cancels_the_tasks_that_are_left(tmp_path):
    command = [sys.executable, "-c", INTERRUPTED]
    env = {**os.environ, "PYTHONPATH": str(REPO)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    cancelled = int(done.stdout)
    assert cancelled >= 45 and len(list(tmp_path.iterdir())) == 51 - cancelled  # a few lie in the process's own queue
