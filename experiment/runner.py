"""Run the commands of an experiment one after the other: finished steps are skipped, an interrupted one resumes."""

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
    """One command, as typed in a shell in the repository's root. `name` is a plain file name."""

    name: str
    title: str
    command: str


@dataclass
class Mark:
    """Record of a step: its command, seconds over all attempts, bytes of its largest process."""

    command: str
    seconds: float = 0.0
    peak_bytes: int = 0
    finished: bool = False


def read_mark(out: Path, name: str) -> Mark | None:
    """Return the mark of a step in the experiment's folder `out`; None if there is none that can be read."""
    try:
        return Mark(**json.loads(_mark_path(out, name).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def is_finished(out: Path, step: Step) -> bool:
    """Return True if this very command ended with status 0."""
    mark = read_mark(out, step.name)
    return mark is not None and mark.finished and mark.command == step.command


def run_steps(
    steps: Sequence[Step], out: Path, environment: Mapping[str, str], rerun: str, again: Sequence[str] = ()
) -> None:
    """Run the steps that are not finished, and all that follow one that was run.

    Args:
        out: folder of the experiment, for marks and scores
        environment: variables for every command
        rerun: the command that resumes after an interruption, for messages
        again: names of steps to run even if they are finished

    Raises:
        UserError: a command failed, or would resume a training that was begun with other flags.
        KeyboardInterrupt: after the interrupted command has ended.
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
        status = _run_step(step, out, environment)
        if status:
            raise UserError(f"step {step.name} ({step.title}) ended with status {status}. Resume with {rerun}.")


def _run_step(step: Step, out: Path, environment: Mapping[str, str]) -> int:
    """Run one step, keep its mark up to date, and return the status."""
    mark = read_mark(out, step.name)
    if mark is None or mark.command != step.command:
        if mark and "--resume" in shlex.split(step.command):
            raise UserError(
                f"{out}: step {step.name} was begun with other flags, `{mark.command}`. Use another folder, or remove this one."
            )
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
    return status


def call(command: str, environment: Mapping[str, str]) -> tuple[int, int]:
    """Run a command in the repository's root; return its status and the bytes of its largest process.

    The processes of torchrun share the threads that `environment` gives a command. Ctrl-C and SIGTERM end the command
    first: KeyboardInterrupt is raised when it has ended.
    """
    python = shlex.quote(sys.executable)
    real = re.sub(r"^torchrun ", f"{python} -m torch.distributed.run ", re.sub(r"^python ", f"{python} ", command))
    environment = {**os.environ, **share_threads(command, environment)}
    process = subprocess.Popen(f"exec {real}", shell=True, cwd=REPO, env=environment)
    signals: list[int] = []

    def note(number: int, frame: object) -> None:
        signals.append(number)
        if number == signal.SIGTERM:  # the terminal sends Ctrl-C to the command, too
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


def share_threads(command: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Return `environment`, its OMP_NUM_THREADS divided by the number of torchrun's processes."""
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
    """Return the steps for --from and --only, and the names of those to run even if finished.

    UserError: no step has that name.
    """
    names = [step.name for step in steps]
    for flag, name in (("--from", first), ("--only", only)):
        if name is not None and name not in names:
            raise UserError(f"{flag} {name}: no such step. Choose one of {', '.join(names)}.")
    if only is not None:
        return [step for step in steps if step.name == only], [only]
    if first is None:
        return list(steps), []
    return list(steps[names.index(first) :]), names[names.index(first) :]
