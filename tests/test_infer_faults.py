"""infer_cls.py with broken inputs, full disks and killed processes: one line, status 1, finished files stay whole."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import weakref
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import REPO, ended
from devices import content
from disks import FULL, small_disk
from PIL import Image
from training import image_id

from infer_cls import load_saliency
from pseudo_label import loop
from pseudo_label.loop import Photo
from tool.cli import BadPhoto, UserError

IDS = [image_id(number) for number in range(11, 16)]  # not the first ten, which identify saliency maps
MANY = [image_id(number) for number in range(1, 41)]
BAD = IDS[2]


def make_flags(folder: Path, root: Path, weights: Path, ids: list[str]) -> tuple[object, ...]:
    (folder / "list.txt").write_text("\r\n\r\n".join([*ids, ""]))  # blank lines and Windows line ends
    same = ("--voc12_root", root, "--weights", weights, "--network", "network.resnet38_EDAM_tiny", "--theta", 0.2)
    outputs = ("--out_cam", "cam", "--out_crf_pred", "crf", "--sal_path", root / "saliency")
    return (*same, *outputs, "--infer_list", "list.txt", "--crf_workers", 1)


def contents(folder: Path, pattern: str = "*") -> dict[str, bytes]:
    """Return all files in the output folders except manifests."""
    paths = [path for name in ("cam", "crf") for path in (folder / name).glob(pattern)]
    return {str(path.relative_to(folder)): content(path) for path in paths if path.suffix != ".json"}


@pytest.fixture(scope="module")
def all_files(commands, drawn, tiny_weights, tmp_path_factory) -> dict[str, bytes]:
    """Return the files of all 40 photos from an undisturbed run."""
    folder = tmp_path_factory.mktemp("whole")
    commands.run(folder, "infer_cls.py", *make_flags(folder, drawn, tiny_weights, MANY))
    return contents(folder)


@pytest.fixture
def five(all_files) -> dict[str, bytes]:
    return {path: data for path, data in all_files.items() if Path(path).stem in IDS}


@pytest.fixture
def flags(drawn, tiny_weights, tmp_path) -> tuple[object, ...]:
    """Return flags to label five photos of VOC2012, a copy of the devkit for a test to break."""
    return make_flags(tmp_path, shutil.copytree(drawn, tmp_path / "VOC2012"), tiny_weights, IDS)


def rename_class(path: Path) -> None:
    path.write_text(re.sub("<name>.*?</name>", "<name>unicorn</name>", path.read_text()))


def add_colour(path: Path) -> None:
    Image.open(path).convert("RGB").point([50] * 256 + [200] * 512).save(path)


def replace_by_labels(path: Path) -> None:
    """Write a grey label map of photo 13, which shows label 14."""
    Image.open(path).point([0] * 100 + [14] * 155 + [255]).save(path)


@pytest.mark.parametrize(
    ("name", "fault", "keyword"),
    [
        (f"JPEGImages/{BAD}.jpg", lambda path: os.truncate(path, 800), "truncated"),
        (f"Annotations/{BAD}.xml", rename_class, "unicorn"),
        (f"saliency/{BAD}.png", add_colour, "grey"),
        (f"saliency/{BAD}.png", replace_by_labels, "label map"),
    ],
)
def test_broken_file(name, fault, keyword, five, commands, flags, tmp_path):
    """It stops the run; --skip_errors labels the others; once repaired, a rerun labels the rest."""
    sound = (tmp_path / "VOC2012" / name).read_bytes()
    fault(tmp_path / "VOC2012" / name)
    line = commands.error(tmp_path, "infer_cls.py", *flags)
    assert Path(name).name in line and keyword in line
    assert contents(tmp_path).items() <= five.items() and not any(BAD in path for path in contents(tmp_path))

    skipping = commands.run(tmp_path, "infer_cls.py", *flags, "--skip_errors", status=1)
    assert skipping.stderr[0].startswith(f"skipped {BAD}: ") and keyword in skipping.stderr[0]
    assert "skipped 1 photo" in skipping.stderr[1] and len(skipping.stderr) == 2
    assert "4 photos labelled in cam, crf" in skipping.stdout
    assert contents(tmp_path) == {path: data for path, data in five.items() if BAD not in path}

    (tmp_path / "VOC2012" / name).write_bytes(sound)
    commands.run(tmp_path, "infer_cls.py", *flags)
    assert contents(tmp_path) == five


def test_nearly_black_saliency(tmp_path):
    """It is no label map, although the photo's labels are 1 and 2."""
    Image.fromarray(np.array([[0, 1, 2]], np.uint8)).save(tmp_path / "s.png")
    assert load_saliency(tmp_path / "s.png", (1, 3), {1, 2}).tolist() == [[0, 1, 2]]


def test_full_disk(five, commands, flags, tmp_path):
    """It stops the run even with --skip_errors, since no other photo would fare better."""
    needed = sum(len(data) for path, data in five.items() if path.startswith("cam/"))
    with small_disk(tmp_path / "cam", needed // 2) as limits:
        line = commands.error(tmp_path, "infer_cls.py", *flags, "--skip_errors", limits=limits)
        found = contents(tmp_path)
    assert re.search(rf"cam/2099_\d+\.npy.*{FULL}", line)
    assert found.items() < five.items()
    commands.run(tmp_path, "infer_cls.py", *flags)
    assert contents(tmp_path) == five


@pytest.mark.parametrize(
    ("more", "keyword"),
    [
        (("--out_cam_pred", "list.txt"), "'list.txt'"),
        (("--out_crf", "./cam"), "different folders"),
        (("--out_cam_pred", "VOC2012/saliency", "--overwrite"), "--out_cam_pred VOC2012/saliency"),
        (("--weights", "part.pth"), "part.pth"),
        (("--weights", "huge.pth"), "not finite"),
    ],
)
def test_bad_flags(more, keyword, commands, flags, tiny_weights, tmp_path):
    saved = torch.load(tiny_weights, weights_only=True)
    torch.save({name: t for name, t in saved.items() if "mask_layer" not in name}, tmp_path / "part.pth")
    torch.save({name: t * 1e30 if "conv" in name else t for name, t in saved.items()}, tmp_path / "huge.pth")
    assert keyword in commands.error(tmp_path, "infer_cls.py", *flags, *more)
    assert contents(tmp_path) == {} and len(list((tmp_path / "VOC2012/saliency").iterdir())) == 40


@pytest.mark.parametrize(
    ("number", "victim", "status"),
    [
        (signal.SIGKILL, "worker", 1),
        (signal.SIGKILL, "run", -signal.SIGKILL),
        (signal.SIGINT, "group", 130),
        (signal.SIGTERM, "group", -signal.SIGTERM),
    ],
)
def test_killed_and_interrupted_runs_resume(number, victim, status, all_files, commands, drawn, tiny_weights, tmp_path):
    """All processes end, and the files are whole; a rerun makes the missing ones."""
    flags = make_flags(tmp_path, drawn, tiny_weights, MANY)
    command = commands.start(tmp_path, "infer_cls.py", *flags, "--num_workers", 1)
    assert command.until(lambda: len(list((tmp_path / "crf").glob("[!.]*.png"))) >= 2)
    (worker,) = command.children()
    if victim == "worker":
        os.kill(worker, number)
    assert (command.wait() if victim == "worker" else command.send(number, group=victim == "group")) == status
    keyword = {1: "--crf_workers", 130: "interrupted"}.get(status)
    assert [keyword in line for line in command.stderr] == [True] * (keyword is not None)
    assert ended(worker)
    assert contents(tmp_path, "[!.]*").items() < all_files.items()
    assert "finished already" in commands.run(tmp_path, "infer_cls.py", *flags).stdout
    assert contents(tmp_path) == all_files


def start_run(folder: Path, workers: int) -> contextlib.AbstractContextManager[loop.Run]:
    return loop.start(Namespace(out_files=folder, crf_workers=workers, skip_errors=True, device="cpu"))


def fail(photo: Photo, seconds: float) -> None:
    time.sleep(seconds)
    raise BadPhoto(f"{photo.id} is bad")


def remark(photo: Photo) -> str:
    return "are remarkable"


def test_summary_in_the_order_of_the_photos(tmp_path, capsys):
    with pytest.raises(UserError, match="skipped 4 photos"), start_run(tmp_path, 2) as run:
        for number in range(4):
            photo = Photo(str(number), np.zeros((2, 3, 3), np.uint8))
            run.write_behind(fail, photo, 0.2 if number == 0 else 0)  # the first one ends last
            run.write_behind(remark, photo)
            assert len(run._pending) <= 4  # so that memory does not grow with the photos
        run.finish()
    expected = ["note: 4 photos are remarkable: 0, 1, 2, 3", *(f"skipped {n}: {n} is bad" for n in range(4))]
    assert capsys.readouterr().err.splitlines() == expected


def test_photos_without_memory_are_named_and_skipped(tmp_path, monkeypatch, capsys):
    activations, left = [], []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: left.append(activations[-1]()))

    def compute(error: Exception) -> None:
        activation = np.ones(3)
        activations.append(weakref.ref(activation))
        raise error

    with pytest.raises(UserError, match="skipped 2 photos"), start_run(tmp_path, 0) as run:
        for name, kind, text in (("gpu", torch.OutOfMemoryError, ""), ("cpu", RuntimeError, "can't allocate memory")):
            with run.attempt(Photo(name, np.zeros((2, 3, 3), np.uint8))):
                compute(kind(text))
        run.finish()
    named = re.findall(r"^skipped (\w+): .*3x2.*out of memory", capsys.readouterr().err, re.MULTILINE)
    assert named == ["gpu", "cpu"]
    assert left == [None, None]  # freed before the cache is emptied


def test_small_dev_shm(five, flags, tmp_path):
    """Room for semaphores, but for less than a photo's views."""
    mount = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=64k tmpfs /dev/shm && exec "$@"', "sh"]
    if subprocess.run([*mount, "true"]).returncode:
        pytest.skip("mounting is not allowed here")
    subprocess.run(
        [*mount, sys.executable, REPO / "infer_cls.py", *map(str, flags)], cwd=tmp_path, check=True, timeout=200
    )
    assert contents(tmp_path) == five
