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
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import ended
from conftest import REPO
from devices import content
from disks import FULL, small_disk
from PIL import Image
from training import image_id

from pseudo_label import loop
from pseudo_label.loop import Photo
from tool import cli
from tool.cli import BadPhoto, UserError

IDS = [image_id(number) for number in range(1, 6)]
MANY = [image_id(number) for number in range(1, 41)]
BAD = IDS[2]


def flags(folder: Path, root: Path, weights: Path, ids: list[str] = IDS) -> tuple[object, ...]:
    (folder / "list.txt").write_text("\r\n\r\n".join([*ids, ""]))  # blank lines and Windows line ends
    same = ("--voc12_root", root, "--weights", weights, "--network", "network.resnet38_EDAM_tiny", "--theta", 0.2)
    outputs = ("--out_cam", "cam", "--out_crf_pred", "crf", "--sal_path", root / "saliency")
    return (*same, *outputs, "--infer_list", "list.txt", "--num_workers", 0, "--crf_workers", 1)


def contents(folder: Path, pattern: str = "*") -> dict[str, bytes]:
    """All files in the output folders except manifests."""
    paths = [path for name in ("cam", "crf") for path in (folder / name).glob(pattern)]
    return {str(path.relative_to(folder)): content(path) for path in paths if path.suffix != ".json"}


@pytest.fixture(scope="module")
def all_files(commands, drawn, tiny_weights, tmp_path_factory) -> dict[str, bytes]:
    """The files of all 40 photos from an undisturbed run."""
    folder = tmp_path_factory.mktemp("whole")
    commands.run(folder, "infer_cls.py", *flags(folder, drawn, tiny_weights, MANY))
    return contents(folder)


@pytest.fixture(scope="module")
def five(all_files) -> dict[str, bytes]:
    return {path: data for path, data in all_files.items() if Path(path).stem in IDS}


@pytest.fixture
def devkit(drawn, tmp_path) -> Path:
    """A copy of five photos for a test to break."""
    root = tmp_path / "VOC2012"
    for folder, suffix in (("JPEGImages", "jpg"), ("Annotations", "xml"), ("saliency", "png")):
        (root / folder).mkdir(parents=True)
        for i in IDS:
            shutil.copy(drawn / f"{folder}/{i}.{suffix}", root / folder)
    for number in range(10):  # the first ten, which identify the maps
        shutil.copy(drawn / f"saliency/{IDS[0]}.png", root / f"saliency/0_{number}.png")
    return root


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def resize(path: Path) -> None:
    Image.open(path).resize((20, 30)).save(path)


def add_colour(path: Path) -> None:
    image = Image.open(path).convert("RGB")
    image.putpixel((3, 5), (200, 100, 100))
    image.save(path)


def rename_class(path: Path) -> None:
    path.write_text(re.sub("<name>.*?</name>", "<name>unicorn</name>", path.read_text()))


@pytest.mark.parametrize(
    ("name", "fault", "keyword"),
    [
        (f"JPEGImages/{BAD}.jpg", truncate, "truncated"),
        (f"JPEGImages/{BAD}.jpg", Path.unlink, "does not exist. Copy it"),
        (f"Annotations/{BAD}.xml", rename_class, "unicorn"),
        (f"saliency/{BAD}.png", resize, "20x30"),
        (f"saliency/{BAD}.png", add_colour, "grey"),
    ],
)
def test_broken_file(name, fault: Callable[[Path], None], keyword, five, commands, devkit, tiny_weights, tmp_path):
    """It stops the run; --skip_errors labels the others; once repaired, a rerun labels the rest."""
    arguments = flags(tmp_path, devkit, tiny_weights)
    sound = (devkit / name).read_bytes()
    fault(devkit / name)
    line = commands.error(tmp_path, "infer_cls.py", *arguments)
    assert Path(name).name in line and keyword in line
    assert contents(tmp_path).items() <= five.items() and not any(BAD in path for path in contents(tmp_path))

    skipping = commands.run(tmp_path, "infer_cls.py", *arguments, "--skip_errors", status=1)
    assert skipping.stderr[0].startswith(f"skipped {BAD}: ") and keyword in skipping.stderr[0]
    assert "skipped 1 photo" in skipping.stderr[1] and len(skipping.stderr) == 2
    assert "4 photos labelled in cam, crf" in skipping.stdout
    assert contents(tmp_path) == {path: data for path, data in five.items() if BAD not in path}

    (devkit / name).write_bytes(sound)
    commands.run(tmp_path, "infer_cls.py", *arguments)
    assert contents(tmp_path) == five

    if "Annotations" not in name:  # a rerun checks only what is left
        fault(devkit / name)
        assert "5 of 5 photos finished already" in commands.run(tmp_path, "infer_cls.py", *arguments).stdout


@pytest.mark.parametrize("more", [("--skip_errors",), ("--crf_workers", 0)])
def test_full_disk(more, five, commands, devkit, tiny_weights, tmp_path):
    """It stops the run even with --skip_errors, since no other photo would fare better."""
    arguments = flags(tmp_path, devkit, tiny_weights)
    needed = sum(len(data) for path, data in five.items() if path.startswith("cam/"))
    with small_disk(tmp_path / "cam", needed // 2) as limits:
        line = commands.error(tmp_path, "infer_cls.py", *arguments, *more, limits=limits)
        found = contents(tmp_path)
    assert re.search(rf"cam/2099_\d+\.npy.*{FULL}", line)
    assert found.items() < five.items()
    commands.run(tmp_path, "infer_cls.py", *arguments)
    assert contents(tmp_path) == five


@pytest.mark.parametrize(
    ("more", "keyword"),
    [
        (("--out_cam_pred", "file/out"), "file/out"),
        (("--out_cam_pred", "file"), "file: is a file, not a folder. Name another one."),
        (("--out_crf", "./cam"), "different folders"),
        (("--weights", "part.pth"), "part.pth"),
        (("--weights", "huge.pth"), "not finite"),
        (("--infer_list", "unknown.txt"), "2099_999999"),
    ],
)
def test_bad_flags(more, keyword, commands, devkit, tiny_weights, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "unknown.txt").write_text(f"{BAD}\n2099_999999")
    saved = torch.load(tiny_weights, weights_only=True)
    torch.save({name: t for name, t in saved.items() if "mask_layer" not in name}, tmp_path / "part.pth")
    torch.save({name: t * 1e30 if "conv" in name else t for name, t in saved.items()}, tmp_path / "huge.pth")
    assert keyword in commands.error(tmp_path, "infer_cls.py", *flags(tmp_path, devkit, tiny_weights), *more)
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("folder", ["saliency", "JPEGImages"])
def test_input_folders_are_not_overwritten(folder, commands, devkit, tiny_weights, tmp_path):
    before = {path: path.read_bytes() for path in (devkit / folder).iterdir()}
    more = ("--out_cam_pred", devkit / folder, "--overwrite")
    line = commands.error(tmp_path, "infer_cls.py", *flags(tmp_path, devkit, tiny_weights), *more)
    assert str(devkit / folder) in line and "--out_cam_pred" in line
    assert {path: path.read_bytes() for path in (devkit / folder).iterdir()} == before


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
    arguments = flags(tmp_path, drawn, tiny_weights, MANY)
    command = commands.start(tmp_path, "infer_cls.py", *arguments, "--num_workers", 1)
    assert command.until(lambda: len(list((tmp_path / "crf").glob("[!.]*.png"))) >= 2)
    (worker,) = command.children()
    if victim == "worker":
        os.kill(worker, number)
    assert (command.wait() if victim == "worker" else command.send(number, group=victim == "group")) == status
    keyword = {1: "--crf_workers", 130: "interrupted"}.get(status)
    assert [keyword in line for line in command.stderr] == [True] * (keyword is not None)
    assert ended(worker)
    assert contents(tmp_path, "[!.]*").items() < all_files.items()
    assert "finished already" in commands.run(tmp_path, "infer_cls.py", *arguments).stdout
    assert contents(tmp_path) == all_files


def start_run(folder: Path, workers: int) -> contextlib.AbstractContextManager[loop.Run]:
    parser = cli.Parser("")
    loop.add_flags(parser, workers="write files")
    args = parser.parse_args(["--crf_workers", str(workers), "--skip_errors", "--device", "cpu"])
    args.out_files = folder
    return loop.start(args)


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


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried to"),
    ],
)
def test_photos_without_memory_are_named_and_skipped(error, tmp_path, monkeypatch, capsys):
    activations, left = [], []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: left.append(activations[0]()))

    def compute() -> None:
        activation = np.ones(3)
        activations.append(weakref.ref(activation))
        raise error

    with pytest.raises(UserError, match="skipped 1 photo"), start_run(tmp_path, 0) as run:
        with run.attempt(Photo("wide", np.zeros((2, 3, 3), np.uint8))):
            compute()
        run.finish()
    assert re.search("^skipped wide: .*3x2.*out of memory", capsys.readouterr().err)
    assert left == [None]  # freed before the cache is emptied


def test_small_dev_shm(drawn, tiny_weights, tmp_path):
    """With room for semaphores, but less than a photo's views; where mounting is not allowed, with the machine's own."""
    infer = [sys.executable, REPO / "infer_cls.py", *flags(tmp_path, drawn, tiny_weights), "--num_workers", 2]
    mounted = 'mount -t tmpfs -o size=64k tmpfs /dev/shm && exec "$@"'
    may_mount = subprocess.run(["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True)
    words = infer if may_mount.returncode else ["unshare", "--mount", "sh", "-c", mounted, "sh", *infer]
    done = subprocess.run([str(word) for word in words], cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
