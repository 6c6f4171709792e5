"""A training run on disk: its folder, settings.json, checkpoints, and the state to resume from."""

import fcntl
import json
import os
import signal
import socket
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from tool.cli import UserError
from tool.files import atomic_write, back_up, make_folder, remove_leftovers
from tool.torch_file import read_torch_file

STATE = "state.pth"
_DATA = {  # settings that are no flags, in words
    "classes": "the classes of another dataset",
    "train_list_crc32": "another --train_list",
    "skipped_crc32": "other photos skipped by --skip_errors",
}


def digest(names: Iterable[str]) -> int:
    """Return a checksum of a set of names."""
    return zlib.crc32(repr(sorted(names)).encode())


def save_torch(path: str | Path, value: Any) -> None:
    """Write `value` by torch.save, atomically. UserError if the disk is full or the folder unwritable."""
    try:
        with atomic_write(path) as file:
            torch.save(value, file)
    except RuntimeError as error:  # PyTorch's zip writer hides the OSError of a failed write
        raise UserError(f"cannot write {path}: {error.__context__ or error}") from error


def check_finite(net: torch.nn.Module, step: int) -> None:
    """Raise UserError if a tensor of the network is not finite, so that it never replaces a good checkpoint."""
    for name, tensor in net.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise UserError(f"{name} is not finite after step {step}. Lower --lr; earlier checkpoints are intact.")


def save_network(path: Path, net: torch.nn.Module) -> None:
    """Write the network's state dict, on the CPU, with its `class_names`, if it has them, as attribute `classes`."""
    tensors = {name: tensor.cpu() for name, tensor in net.state_dict().items()}
    if names := getattr(net, "class_names", ()):
        tensors = OrderedDict(tensors)
        tensors.classes = list(names)  # type: ignore[attr-defined]  # which load_state_dict ignores
    save_torch(path, tensors)


def checkpoint_steps(max_step: int) -> dict[int, int]:
    """Return finished steps -> number (1..25) of the checkpoint written then; fewer than 25 for short runs."""
    return {max_step * number // 25: number for number in range(1, 26) if max_step * number // 25 > 0}


def lock_session(folder: Path) -> None:
    """Lock a run's folder until this process ends. UserError naming the process that has locked it."""
    lock = os.open(make_folder(folder.parent) / f".{folder.name}.lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock's, not inherited by the loader's processes
    except (BlockingIOError, PermissionError) as error:
        holder = os.read(lock, 200).decode() or "another process"
        problem = f"--session_name {folder.name}: {folder} is in use by {holder}"
        raise UserError(f"{problem}. Choose another name.") from error
    except OSError:  # some shared disks have no locks
        return
    os.ftruncate(lock, 0)
    os.write(lock, f"process {os.getpid()} on {socket.gethostname()}".encode())


def prepare_session(folder: Path, events_dir: Path, resumes: bool, settings: Mapping[str, Any]) -> Path | None:
    """Write settings.json into a run's folder. Back up an earlier run unless this one `resumes` it; return the backup."""
    backup = None if resumes else back_up(folder)
    if not resumes:
        back_up(events_dir)
    remove_leftovers(make_folder(folder))
    with atomic_write(folder / "settings.json", "w") as file:
        json.dump(dict(settings), file, indent=2)
        file.write("\n")
    return backup


def find_state(resume: str, session: Path) -> Path | None:
    """Return the state file that --resume names: a file, or one in a folder; "latest": in `session`, None if missing."""
    if resume == "latest":
        return session / STATE if (session / STATE).is_file() else None
    path = Path(resume) / STATE if Path(resume).is_dir() else Path(resume)
    if not path.is_file():
        raise UserError(f"--resume {resume}: {path} does not exist. Name a run's folder or its {STATE}.")
    return path


def catch_signals() -> list[int]:
    """Return a list to which SIGTERM and the first Ctrl-C add their number instead of ending the process."""
    caught: list[int] = []

    def note(number: int, frame: object) -> None:
        caught.append(number)
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, note)
    return caught


def save_state(path: Path, step: int, settings: Mapping[str, Any], parts: Mapping[str, Any]) -> None:
    """Write the state after `step` finished steps. It holds no random states: they follow from seed and step.

    settings: JSON values that a resumed run must share. parts: network, optimizer and others with a state dict.
    """
    states = {name: part.state_dict() for name, part in parts.items()}
    save_torch(path, {**states, "step": step, "settings": settings})


def restore_state(path: Path, settings: Mapping[str, Any], parts: Mapping[str, Any]) -> int:
    """Load a state file and return its finished steps. UserError: damaged, no state, other network or settings."""
    saved = read_torch_file(path)
    if not isinstance(saved, dict) or not {*parts, "step", "settings"} <= saved.keys():
        raise UserError(f"{path} is not the state of a training run. Resume from a {STATE}.")
    for name in ("classes", *settings):
        before, value = saved["settings"].get(name), settings.get(name)
        if before != value:
            difference = _DATA.get(name, f"--{name} {before}, this run has {value}")
            remedy = "Resume with the same settings or choose another --session_name."
            raise UserError(f"{path} was written with {difference}. {remedy}")
    for name, part in parts.items():
        try:
            part.load_state_dict(saved[name])
        except (RuntimeError, ValueError, KeyError) as error:
            raise UserError(f"{path}: does not match this run's {name} ({str(error)[:200]})") from error
    return saved["step"]
