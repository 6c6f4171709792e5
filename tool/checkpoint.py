"""A training run on disk: its folder, its settings, its checkpoints, and the state to resume from."""

import json
import signal
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from tool.cli import UserError
from tool.files import atomic_write, make_folder, remove_leftovers

STATE = "state.pth"
# Settings that are digests of the data, in words.
_DATA = {
    "classes": "the classes of another dataset",
    "train_list_crc32": "another --train_list",
    "skipped_crc32": "other photos skipped by --skip_errors",
}
_PLAIN = (str, int, float, bool, type(None))  # what settings are made of


def digest(names: Iterable[str]) -> int:
    """A number that tells sets of names apart."""
    return zlib.crc32(repr(sorted(names)).encode())


def save_torch(path: str | Path, value: Any) -> None:
    """torch.save, whole or not at all. UserError where the disk is full or the folder unwritable."""
    try:
        with atomic_write(path) as file:
            torch.save(value, file)
    except RuntimeError as error:  # how PyTorch's zip writer ends after a failed write
        cause: BaseException | None = error
        while cause and not isinstance(cause, OSError):
            cause = cause.__context__
        reason = cause.strerror if isinstance(cause, OSError) else str(error).splitlines()[0]
        raise UserError(f"cannot write {path}: {reason}") from error


def check_finite(net: torch.nn.Module, step: int) -> None:
    """Before it is written: a network with infinities or NaN must not replace a good one. UserError names the tensor."""
    for name, tensor in net.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise UserError(f"{name} is not finite after step {step}: lower --lr; what was written before is intact")


def save_network(path: Path, net: torch.nn.Module, step: int) -> None:
    """Write the tensors of a network after `step` finished steps, on the CPU so that any machine reads them.

    They stand alone, as published; beside the names of its classes where the network has `class_names`.
    """
    check_finite(net, step)
    tensors = {name: tensor.cpu() for name, tensor in net.state_dict().items()}
    names = getattr(net, "class_names", ())
    save_torch(path, {"state_dict": tensors, "classes": list(names)} if names else tensors)


def checkpoint_steps(max_step: int, count: int = 25) -> dict[int, int]:
    """Finished steps after which a checkpoint is written -> its number 1..count. Fewer steps than `count` give fewer."""
    return {max_step * number // count: number for number in range(1, count + 1) if max_step * number // count > 0}


def set_aside(folder: Path) -> Path | None:
    """Rename a folder that holds an earlier run to `<folder>.1`, `.2`, ...: nothing is overwritten. None if there is none."""
    try:
        if not folder.is_dir() or not any(folder.iterdir()):
            return None
        number = 1
        while (aside := folder.with_name(f"{folder.name}.{number}")).exists():
            number += 1
        return folder.rename(aside)
    except OSError as error:
        raise UserError(f"cannot move {folder} aside: {error.strerror}") from error


def prepare_session(folder: Path, settings: Mapping[str, Any]) -> None:
    """Make a run's folder, remove what a killed run left half written there, and write settings.json."""
    make_folder(folder)
    remove_leftovers(folder)
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

    A second Ctrl-C ends it at once, as usual. A second SIGTERM does not: schedulers and torchrun may both send one.
    """
    caught: list[int] = []

    def note(number: int, frame: object) -> None:
        caught.append(number)
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, note)
    return caught


class TrainingState:
    """What a run needs to go on as if it had not stopped. Random states are not among it: they follow from seed and step.

    Args:
        net, optimizer, scaler: whose states are saved and restored.
        settings: those that a resumed run has to share with the interrupted one, JSON values.
    """

    def __init__(
        self,
        net: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        settings: Mapping[str, Any],
    ) -> None:
        self.parts: dict[str, Any] = {"network": net, "optimizer": optimizer, "scaler": scaler}
        self.settings = dict(settings)

    def save(self, path: Path, step: int) -> None:
        """Write the state after `step` finished steps."""
        states = {name: part.state_dict() for name, part in self.parts.items()}
        save_torch(path, {**states, "step": step, "settings": self.settings})

    def restore(self, saved: Any, path: Path, max_step: int) -> int:
        """Take over what was read from the state file `path`; returns the number of finished steps.

        Raises:
            UserError: it is another kind of file, belongs to another network, or to a run with other settings.
        """
        keys = {*self.parts, "step", "settings"}
        if not isinstance(saved, dict) or not keys <= saved.keys() or not isinstance(saved["settings"], dict):
            raise UserError(f"{path} is not the state of a training run; resume from a {STATE}")
        for name in dict.fromkeys(["classes", *self.settings]):
            if (before := saved["settings"].get(name)) != (value := self.settings.get(name)):
                what = _DATA.get(name) or f"--{name} {_shown(before)}"
                raise UserError(
                    f"{path} was written with {what}{'' if name in _DATA else f', this run has {_shown(value)}'}; "
                    "resume with the same settings, or start another --session_name"
                )
        step = saved["step"]
        if not isinstance(step, int) or not 0 <= step <= max_step:
            raise UserError(f"{path} is damaged: it claims {_shown(step)} finished steps of {max_step}")
        self._check_optimizer(saved["optimizer"], path)
        try:
            for name, part in self.parts.items():
                part.load_state_dict(saved[name])
        except Exception as error:  # whatever foreign contents make PyTorch raise
            reason = " ".join((str(error) or type(error).__name__).split())
            raise UserError(f"{path} does not fit this run's {name}: {reason[:200]}") from error
        return step

    def _check_optimizer(self, saved: Any, path: Path) -> None:
        """Before PyTorch copies it: flat, and of the parameters that this run trains. UserError otherwise."""
        own = self.parts["optimizer"].state_dict()
        parameters = [p for group in self.parts["optimizer"].param_groups for p in group["params"]]
        try:
            groups = [group["params"] for group in saved["param_groups"]]
            fits = groups == [group["params"] for group in own["param_groups"]] and all(
                tensor.shape in (parameters[index].shape, torch.Size())  # momentum and the like, or a count of steps
                for index, state in saved["state"].items()
                for tensor in state.values()
            )
            plain = all(_is_plain(v) for g in saved["param_groups"] for k, v in g.items() if k != "params")
        except (TypeError, KeyError, IndexError, AttributeError, RecursionError):
            fits = plain = False
        if not (fits and plain):
            raise UserError(f"{path} does not fit this run's optimizer: its momentum is of other parameters")


def _shown(value: Any) -> str:
    """A setting as text, shortened. Anything but a plain value, which a hostile file may nest without end, by its type."""
    if isinstance(value, list) and len(value) <= 4:
        return " ".join(map(_shown_plain, value))
    return _shown_plain(value)


def _shown_plain(value: Any) -> str:
    return str(value)[:100] if type(value) in _PLAIN else f"a {type(value).__name__}"


def _is_plain(value: Any) -> bool:
    """A plain value, or a few of them, as AdamW's betas."""
    if type(value) in (tuple, list):
        return len(value) <= 4 and all(type(v) in _PLAIN for v in value)
    return type(value) in _PLAIN
