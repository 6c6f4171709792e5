"""infer_cls.py killed at any moment: what is there is whole, and the same command does the rest. Its processes killed by the system
at one photo: where asked it goes on without that one."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import REPO, ended
from deadly import Deadly
from devices import content
from training import image_id

from pseudo_label.jobs import JobPool
from tool.loading import items

FOLDERS = ("cam", "cam_pred", "crf", "crf_pred")
PHOTOS = 40


@pytest.fixture(scope="module")
def whole(commands, drawn, tiny_weights, tmp_path_factory) -> dict[str, bytes]:
    """Every file of an uninterrupted run, by folder and name."""
    folder = tmp_path_factory.mktemp("whole")
    commands.run(folder, "infer_cls.py", *flags(folder, drawn, tiny_weights))
    found = contents(folder)
    assert len(found) == len(FOLDERS) * (PHOTOS + 1)  # the manifests
    return found


def flags(folder: Path, drawn: Path, weights: Path) -> tuple[object, ...]:
    (folder / "list.txt").write_text("\n".join(map(image_id, range(1, PHOTOS + 1))))
    outputs = [part for name in FOLDERS for part in (f"--out_{name}", name)]
    same = ("--voc12_root", drawn, "--weights", weights, "--network", "network.resnet38_EDAM_tiny")
    return (
        *same,
        "--infer_list",
        "list.txt",
        *outputs,
        "--sal_path",
        drawn / "saliency",
        "--theta",
        0.2,
        "--crf_workers",
        2,
    )


def contents(folder: Path, hidden: bool = True) -> dict[str, bytes]:
    """Every file in the output folders; those under their final names alone where `hidden` is False."""
    paths = [path for name in FOLDERS for path in (folder / name).glob("*" if hidden else "[!.]*")]
    return {str(path.relative_to(folder)): content(path) for path in paths}


def test_killed_ten_times(whole, commands, drawn, tiny_weights, tmp_path):
    rng = random.Random(0)
    arguments = flags(tmp_path, drawn, tiny_weights)
    finished = 0
    for kill in range(10):
        command = commands.start(tmp_path, "infer_cls.py", *arguments, "--num_workers", kill % 2)
        more = rng.randint(0, 2)  # 0: killed while it starts
        last = lambda least=finished + more: len(list((tmp_path / "crf_pred").glob("[!.]*.png"))) >= least  # noqa: E731
        assert command.until(last)
        command.process.join(rng.random() * 0.03)
        started = command.children()
        assert command.send(signal.SIGKILL) == -signal.SIGKILL
        found = contents(tmp_path, hidden=False)
        assert found.items() <= whole.items()  # each file that is there is the whole file
        finished = sum(name.startswith("crf_pred/") and name.endswith(".png") for name in found)
    assert all(map(ended, started))  # its workers are not left behind
    assert 0 < finished < PHOTOS
    done = commands.run(tmp_path, "infer_cls.py", *arguments)
    assert f"{PHOTOS} photos labelled" in done.stdout and "photos finished already" in done.stdout
    assert contents(tmp_path) == whole  # and nothing half written is left


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_stopped_by_a_signal(number, status, whole, commands, drawn, tiny_weights, tmp_path):
    """To all of its processes, as Ctrl-C and schedulers do."""
    arguments = flags(tmp_path, drawn, tiny_weights)
    command = commands.start(tmp_path, "infer_cls.py", *arguments, "--num_workers", 1)
    assert command.until(lambda: len(list((tmp_path / "crf_pred").glob("[!.]*.png"))) >= 2)
    started = command.children()
    assert len(started) == 3
    assert command.send(number, group=True) == status
    assert command.stderr == (
        ["infer_cls.py: interrupted; the same command goes on"] if number == signal.SIGINT else []
    )
    assert all(map(ended, started))
    found = contents(tmp_path, hidden=False)
    assert found.items() <= whole.items() and len(found) < len(whole)
    assert json.loads(found["cam/edam_manifest.json"])["output"] == "out_cam"


@pytest.mark.parametrize("deadly", [(3,), (0, 9)])
def test_results_that_end_a_process_are_failures(deadly):
    pool = JobPool(Deadly(*deadly), workers=2, go_on=True)
    try:
        for number in range(10):
            pool.submit(str(number), np.zeros((5, 7, 3), np.uint8))
        pool.wait()
    finally:
        pool.close()
    killed = "the process that writes its results (CRF) was killed; memory may be full"
    assert pool.failures == [(str(i), f"photo {i}, 7x5 pixels: {killed}") for i in deadly]
    assert pool.remarks == [(str(i), f"was {i}") for i in range(10) if i not in deadly]


def test_items_that_end_a_process_are_lost():
    found = list(items(Deadly(3), num_workers=2, pin_memory=False, go_on=True))
    assert [index for index, _ in found] == list(range(10))
    for index, text in found:
        assert text.startswith("lost: a process that reads photos was killed" if index == 3 else f"was {index}")


# A script whose processes are killed at two photos, one while it is read, one while its results are written.
SCRIPT = f"""
import os, signal, sys
sys.path.insert(0, {str(REPO)!r})
import infer_cls
from pseudo_label import jobs
from tool.cli import run_script
from voc12 import data

READ, WRITTEN = {image_id(5)!r}, {image_id(9)!r}
load, write = data.load_photo, jobs.LabelJob.write


def kill(image_id, deadly):
    if image_id == deadly:
        os.kill(os.getpid(), signal.SIGKILL)


data.load_photo = lambda path: (kill(path.stem, READ), load(path))[1]
jobs.LabelJob.write = lambda job, image_id, *rest: (kill(image_id, WRITTEN), write(job, image_id, *rest))[1]
if __name__ == "__main__":
    run(infer_cls.main)
"""


def test_photos_at_which_a_process_is_killed_are_skipped(whole, drawn, tiny_weights, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    arguments = ["--skip_errors", "--num_workers", 2, "--device", "cpu", *flags(tmp_path, drawn, tiny_weights)]
    command = [sys.executable, "script.py", *map(str, arguments)]
    alike = os.environ | {"OMP_NUM_THREADS": "1"}  # as `whole` was made: with more, sums end in other digits
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200, env=alike)
    lines = [line for line in done.stderr.splitlines() if line.startswith(("skipped", "script.py"))]
    assert done.returncode == 1 and lines[-1] == "script.py: error: skipped 2 photos, listed above", done.stderr
    bad = (image_id(5), image_id(9))
    assert sorted(line.split(":")[0] for line in lines[:-1]) == [f"skipped {i}" for i in bad]
    assert contents(tmp_path) == {path: data for path, data in whole.items() if not any(i in path for i in bad)}
