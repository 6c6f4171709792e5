"""tool/workers.py: Ctrl-C is not followed by all the work that was left, and processes never outlive their script."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from commands import REPO, Command, Commands, ended
from PIL import Image

from pseudo_label.evaluate import CHUNK


def at_work(commands: Commands, tmp_path: Path) -> tuple[Command, list[int]]:
    """eval.py and its two processes, each at an image that takes for ever."""
    ids = [str(number) for number in range(CHUNK + 1)]
    (tmp_path / "list.txt").write_text("\n".join(ids))
    for folder in ("npy", "truth"):
        (tmp_path / folder).mkdir()
    for image_id in ids:
        Image.new("L", (2, 2)).save(tmp_path / f"truth/{image_id}.png")
        os.mkfifo(tmp_path / f"npy/{image_id}.npy")
    arguments = ("--gt_dir", "truth", "--list", "list.txt", "--predict_dir", "npy", "--type", "npy", "--num_workers", 2)
    command = commands.start(tmp_path, "eval.py", *arguments)
    assert command.until(lambda: len(command.children()) == 2)
    return command, command.children()


def test_processes_end_with_their_script(commands, tmp_path):
    """A scheduler's SIGTERM reaches the script alone while its processes are at work."""
    command, workers = at_work(commands, tmp_path)
    assert command.send(signal.SIGTERM) == -signal.SIGTERM
    assert all(map(ended, workers))


def test_a_killed_process_is_told(commands, tmp_path):
    """As the system kills one where memory is full."""
    command, workers = at_work(commands, tmp_path)
    os.kill(workers[1], signal.SIGKILL)
    assert command.wait() == 1 and all(map(ended, workers))
    killed = "a process that scores images was killed; memory may be full; lower --num_workers, or 1 for none beside"
    assert command.stderr == [f"eval.py: error: {killed} the script, and run it again"]


INTERRUPTED = """
import os, pathlib
from tool.workers import WorkerPool

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


def test_after_an_exception_no_more_tasks_begin(tmp_path):
    command = [sys.executable, "-c", INTERRUPTED]
    env = {**os.environ, "PYTHONPATH": str(REPO)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    cancelled = int(done.stdout)
    assert cancelled >= 45 and len(list(tmp_path.iterdir())) == 51 - cancelled  # a few lie in the process's own queue
