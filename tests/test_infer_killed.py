"""infer_cls.py killed at any moment: what is there is whole, and the same command does the rest."""

import json
import random
import signal
from pathlib import Path

import pytest
from commands import ended
from devices import content
from training import image_id

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
    assert f"{PHOTOS} photos labelled" in done.stdout and "photos are finished already" in done.stdout
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
