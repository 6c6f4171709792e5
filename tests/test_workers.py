"""tool/workers.py, seen through eval.py: processes never outlive the script that made them."""

import os
import signal

from commands import ended

import eval as script


def test_processes_end_with_their_script(commands, tmp_path):
    """A scheduler's SIGTERM reaches the script alone while its processes are at work."""
    ids = [str(number) for number in range(script.CHUNK + 1)]
    (tmp_path / "list.txt").write_text("\n".join(ids))
    for folder in ("png", "truth"):
        (tmp_path / folder).mkdir()
    for first_of_chunk in (ids[0], ids[script.CHUNK]):
        os.mkfifo(tmp_path / "truth" / f"{first_of_chunk}.png")  # reading it takes for ever
    arguments = ("--gt_dir", "truth", "--list", "list.txt", "--predict_dir", "png", "--num_workers", 2)
    command = commands.start(tmp_path, "eval.py", *arguments)
    assert command.until(lambda: len(command.children()) == 2)
    workers = command.children()
    assert command.send(signal.SIGTERM) == -signal.SIGTERM
    assert all(map(ended, workers))
