"""Short training runs of a small network on drawn photos, for the tests."""

import re
import signal
from pathlib import Path

import devices
import numpy as np
import torch
from commands import Commands
from disks import FULL, small_disk
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from voc12.lists import format_pairs

NETWORK = "tests.small_net"


def image_id(number: int) -> str:
    return f"2099_{number:06d}"


def write_pairs(path: Path, count: int) -> Path:
    """A list of `count` pairs of the drawn photos: number n of the 40 shows class n % 20."""
    pairs = [(image_id(i % 40 + 1), image_id((i + 20) % 40 + 1), (i + 1) % 20) for i in range(count)]
    path.write_text(format_pairs(pairs))
    return path


def damaged(photo: bytes) -> bytes:
    """A JPEG whose header and end are whole, so that only decoding it tells that it can't be read."""
    at = photo.index(b"\xff\xc4") + 5  # the numbers of codes in its first Huffman table
    return photo[:at] + b"\xff" * 16 + photo[at + 16 :]


def flags(drawn: Path, *more: object) -> tuple[object, ...]:
    """Flags of a run of train_EDAM_cls.py on pairs.txt, one pair a step, small crops."""
    data = ("--voc12_root", drawn, "--train_list", "pairs.txt", "--crop_size", 32, "--long_side", 32, 48)
    return (*data, "--network", NETWORK, "--batch_size", 1, "--warmup_steps", 4, "--num_workers", 0, *more)


def curve(folder: Path, tag: str) -> dict[int, float]:
    """A curve as TensorBoard reads it: step -> value. Each step has one value only."""
    events = EventAccumulator(str(folder)).Reload()
    points = [(point.step, point.value) for point in events.Scalars(tag)]
    assert len(dict(points)) == len(points)
    return dict(points)


def tensors(path: Path) -> dict[str, np.ndarray]:
    """A checkpoint's tensors, or those of a state's network and momentum."""
    saved = torch.load(path, map_location="cpu", weights_only=True)
    if "optimizer" in saved:
        momentum = {f"momentum {k}": v["momentum_buffer"] for k, v in saved["optimizer"]["state"].items()}
        saved = saved["network"] | momentum
    return {name: tensor.numpy() for name, tensor in saved.items()}


def same_tensors(first: Path, second: Path) -> bool:
    """Whether two files hold the same tensors, bit for bit on a CPU."""
    a, b = tensors(first), tensors(second)
    return a.keys() == b.keys() and all(devices.same(a[name], b[name]) for name in a)


def same_curves(first: Path, second: Path, tag: str) -> bool:
    """Whether two runs' folders hold the same curve, bit for bit on a CPU."""
    a, b = curve(first, tag), curve(second, tag)
    return list(a) == list(b) and devices.same(np.array(list(a.values())), np.array(list(b.values())))


def cut(path: Path) -> None:
    """Leave half of a file; a photo's header stays whole."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def check_bad_photos(commands: Commands, cwd: Path, script: str, flags: tuple, patterns: list[str], of: str) -> None:
    """A run that finds these bad photos, a line each that matches, among those `of` a list, and writes nothing."""
    command = commands.run(cwd, script, *flags, status=1)
    for pattern, line in zip(patterns, command.stderr, strict=False):
        assert re.match(pattern, line), line
    end = f"{len(patterns)} of the {of} can't be trained on, listed above; --skip_errors trains without them"
    assert command.stderr[len(patterns) :] == [f"{script}: error: {end}"]
    assert not (cwd / "checkpoints").exists()


def check_full_disk(commands: Commands, cwd: Path, script: str, flags: tuple, room: int, whole: Path) -> None:
    """A run whose disk has `room` bytes says so, and resumed with more ends as the one in the folder `whole`."""
    with small_disk(cwd / "checkpoints", room) as limits:
        line = commands.error(cwd, script, *flags, "--save_every", 1, limits=limits)
    assert re.search(f"cannot write .*: {FULL}$", line), line
    commands.run(cwd, script, *flags, "--save_every", 1, "--resume")
    assert same_tensors(whole / "checkpoints/s/s.pth", cwd / "checkpoints/s/s.pth")


def check_killed(commands: Commands, cwd: Path, script: str, flags: tuple, after: int, whole: Path) -> None:
    """A run that is killed once its state has seen so many steps, and resumed, ends as the one in the folder `whole`."""
    flags = (*flags, "--save_every", 1, "--resume")
    command, state = commands.start(cwd, script, *flags), cwd / "checkpoints/s/state.pth"
    assert command.until(lambda: state.is_file() and torch.load(state, weights_only=True)["step"] >= after)
    assert command.send(signal.SIGKILL) == -signal.SIGKILL
    done = commands.run(cwd, script, *flags)
    assert re.search(r"resumed checkpoints/s/state.pth after step [1-6] of 6", done.stdout)
    assert same_tensors(whole / "checkpoints/s/s.pth", cwd / "checkpoints/s/s.pth")
