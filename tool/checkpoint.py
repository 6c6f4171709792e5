"""A training run on disk: its folder, its settings and log, its checkpoints, and the state to resume from."""

import json
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tool.errors import UserError
from tool.files import atomic_write, make_folder

STATE = "state.pth"


def save_torch(path: str | Path, value: Any) -> None:
    """torch.save, whole or not at all. UserError where the disk is full or the folder unwritable."""
    try:
        with atomic_write(path) as file:
            torch.save(value, file)
    except RuntimeError as error:  # how PyTorch's zip writer reports a failed write
        raise UserError(f"cannot write {path}: {str(error).splitlines()[0]}; is the disk full?") from error


def checkpoint_steps(max_step: int, count: int = 25) -> dict[int, int]:
    """Finished steps after which a checkpoint is written -> its number 1..count. Fewer steps than `count` give fewer."""
    return {max_step * number // count: number for number in range(1, count + 1) if max_step * number // count > 0}


def set_aside(folder: Path) -> Path | None:
    """Rename a folder that holds an earlier run to `<folder>.1`, `.2`, ...: nothing is overwritten. None if there is none."""
    if not folder.is_dir() or not any(folder.iterdir()):
        return None
    number = 1
    while (aside := folder.with_name(f"{folder.name}.{number}")).exists():
        number += 1
    try:
        return folder.rename(aside)
    except OSError as error:
        raise UserError(f"cannot move {folder} aside: {error.strerror}") from error


def write_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """settings.json of a run."""
    make_folder(folder)
    with atomic_write(folder / "settings.json", "w") as file:
        json.dump(dict(settings), file, indent=2)
        file.write("\n")


def find_state(resume: str, session: Path) -> Path | None:
    """Path of the state that `--resume` means: a state file, a run's folder, or "latest" for the session's own.

    None: a session that has not written its state yet, so that a job which is always started with --resume just begins.
    UserError: a path that is not there.
    """
    if resume == "latest":
        return session / STATE if (session / STATE).is_file() else None
    path = Path(resume) / STATE if Path(resume).is_dir() else Path(resume)
    if not path.is_file():
        raise UserError(f"--resume {resume}: {path} does not exist; name a run's folder or its {STATE}")
    return path


def catch_signals() -> list[int]:
    """From now on SIGTERM and Ctrl-C add their number to the returned list instead of ending the process.

    The second one ends it at once, as usual.
    """
    caught: list[int] = []

    def note(number: int, frame: object) -> None:
        caught.append(number)
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, note)
    return caught


def load_state(path: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Read a state file without running anything in it, and check that it belongs to this run.

    Args:
        settings: those that a resumed run has to share with the interrupted one.

    Raises:
        UserError: on another kind of file, or other settings.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        keys = {"network", "optimizer", "scaler", "step", "settings"}
        if not isinstance(state, dict) or not keys <= state.keys():
            raise ValueError("it holds no training state")
    except UserError:
        raise
    except Exception as error:  # whatever a damaged file makes the reader raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path} is not the state of a training run ({reason[:200]}); resume from a state.pth"
        ) from error
    for name, value in settings.items():
        if state["settings"].get(name) != value:
            raise UserError(
                f"{path} was written with --{name} {state['settings'].get(name)}, this run has {value}; "
                "resume with the same settings, or start another --session_name"
            )
    return state
