"""Runs ordinary commands one after the other and shows each; finished steps are left out, an interrupted one goes on."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tool.cli import UserError
from tool.files import atomic_write, make_folder
from tool.memory import MAXRSS_UNIT

REPO = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Step:
    """One command, as typed in a shell in the repository's root. A name is a plain file name."""

    name: str
    title: str
    command: str


@dataclass
class Mark:
    """What is kept of a step: its command, seconds over all attempts, bytes of its largest process, whether it ended well."""

    command: str
    seconds: float = 0.0
    peak_bytes: int = 0
    finished: bool = False


def read_mark(out: Path, name: str) -> Mark | None:
    """What is kept of a step; None where that is nothing that can be read."""
    try:
        return Mark(**json.loads(_mark_path(out, name).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def is_finished(out: Path, step: Step) -> bool:
    """Whether this very command ended well."""
    mark = read_mark(out, step.name)
    return mark is not None and mark.finished and mark.command == step.command


def run_steps(
    steps: Sequence[Step], out: Path, environment: Mapping[str, str], go_on: str, again: Sequence[str] = ()
) -> None:
    """Run the steps that are not finished, or are named in `again`.

    out: the folder of the experiment. go_on: the command that goes on after an interruption, for messages. Of the steps given, what
    follows one that was run is run as well. Raises UserError: a command failed, or would go on with a training that was begun with
    other flags; KeyboardInterrupt, after the command has ended.
    """
    make_folder(out / "finished")
    make_folder(out / "scores")
    for number, step in enumerate(steps, 1):
        print(f"\n== {number}/{len(steps)}  {step.title}  ({step.name})\n$ {step.command}", flush=True)
        if is_finished(out, step) and step.name not in again:
            print("finished already", flush=True)
            continue
        for later in steps[number:]:
            if mark := read_mark(out, later.name):
                _write_mark(out, later.name, replace(mark, finished=False))
        mark = read_mark(out, step.name)
        if mark is None or mark.command != step.command:
            if mark and "--resume" in shlex.split(step.command):
                remedy = "give another folder, or remove this one"
                raise UserError(f"step {step.name} was begun in {out} with other flags, `{mark.command}`; {remedy}")
            mark = Mark(step.command)
        mark.finished = False
        _write_mark(out, step.name, mark)
        began = time.monotonic()
        try:
            status, peak = call(step.command, environment)
            mark.peak_bytes = max(mark.peak_bytes, peak)
            mark.finished = status == 0
        finally:
            mark.seconds += time.monotonic() - began
            _write_mark(out, step.name, mark)
        if status:
            raise UserError(f"step {step.name} ({step.title}) ended with status {status}; {go_on} goes on from there")


def call(command: str, environment: Mapping[str, str]) -> tuple[int, int]:
    """Run a command in the repository's root; its status, and the bytes of its largest process.

    Processes of torchrun share the threads that `environment` gives a command.
    Ctrl-C and SIGTERM end the command before us: KeyboardInterrupt is raised when it has ended.
    """
    python = shlex.quote(sys.executable)
    real = re.sub(r"^torchrun ", f"{python} -m torch.distributed.run ", re.sub(r"^python ", f"{python} ", command))
    environment = {**os.environ, **shared_threads(command, environment)}
    process = subprocess.Popen(f"exec {real}", shell=True, cwd=REPO, env=environment)
    signals: list[int] = []

    def note(number: int, frame: object) -> None:
        signals.append(number)
        if number == signal.SIGTERM:  # Ctrl-C reaches the command by itself
            process.terminate()

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if signals:
        raise KeyboardInterrupt
    return process.returncode, usage.ru_maxrss * MAXRSS_UNIT


def shared_threads(command: str, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a command: torchrun's processes have their part of the OMP_NUM_THREADS that `environment` holds."""
    several, threads = re.match(r"torchrun .*?--nproc_per_node (\d+) ", command), environment.get("OMP_NUM_THREADS")
    if not several or threads is None:
        return dict(environment)
    return {**environment, "OMP_NUM_THREADS": str(max(1, int(threads) // int(several[1])))}


def _write_mark(out: Path, name: str, mark: Mark) -> None:
    with atomic_write(_mark_path(out, name), "w") as file:
        json.dump(asdict(mark), file)


def _mark_path(out: Path, name: str) -> Path:
    return out / "finished" / f"{name}.json"


def select(steps: Sequence[Step], first: str | None, only: str | None) -> tuple[list[Step], list[str]]:
    """The steps for --from and --only, and the names of those to run even if finished. UserError: no such step."""
    names = [step.name for step in steps]
    for flag, name in (("--from", first), ("--only", only)):
        if name is not None and name not in names:
            raise UserError(f"{flag} {name}: no such step; these are: {', '.join(names)}")
    if only is not None:
        return [step for step in steps if step.name == only], [only]
    chosen = list(steps[names.index(first) :]) if first is not None else list(steps)
    return chosen, [step.name for step in chosen] if first is not None else []
