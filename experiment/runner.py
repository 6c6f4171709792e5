"""Run the commands of an experiment one after the other: finished steps are skipped, an interrupted one resumes."""

import contextlib
import functools
import itertools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from pseudo_label.manifest import weights_digest
from tool.cli import UserError
from tool.files import atomic_write, back_up, make_folder
from voc12.dataset import MANIFEST

REPO = Path(__file__).resolve().parents[1]
LAUNCHER = re.compile(r"^(?:torchrun --standalone --nproc_per_node (\d+)|python) ")
LIST = "--infer_list"
INPUTS = ("--weights", "--list", "--train_list", "--image_list", LIST, "--label_dir", "--sal_path", "--predict_dir")


@dataclass(frozen=True)
class Step:
    """One command, as typed in a shell in the repository's root. `name` is a plain file name."""

    name: str
    title: str
    command: str


@dataclass
class Mark:
    """Record of a step: command, input files with their digests, seconds over all attempts, bytes of its largest process."""

    command: str
    inputs: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    peak_bytes: int = 0
    finished: bool = False


def read_mark(out: Path, name: str) -> Mark | None:
    """Return the mark of a step in the experiment's folder `out`; None if there is none that can be read."""
    try:
        return Mark(**json.loads((out / "finished" / f"{name}.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def write_mark(out: Path, name: str, mark: Mark) -> None:
    """Write the mark of a step."""
    with atomic_write(out / "finished" / f"{name}.json", "w") as file:
        json.dump(asdict(mark), file)


def is_finished(out: Path, step: Step) -> bool:
    """Return True if this command, in any number of processes, ended with status 0 and its inputs have not changed."""
    mark = read_mark(out, step.name)
    return mark is not None and mark.finished and not differences(step, mark)


def differences(step: Step, mark: Mark) -> list[str]:
    """Return what has changed since a step's mark was written: "its flags", or input files by path."""
    now = input_digests(step.command)  # a missing file counts as unchanged: it may have been deleted after use
    changed = [path for path, digest in mark.inputs.items() if now.get(path, digest) != digest]
    same_command = LAUNCHER.sub("", step.command) == LAUNCHER.sub("", mark.command)
    return changed if same_command else ["its flags", *changed]


def flag_values(command: str) -> list[tuple[str, str]]:
    """Return each flag of a command with the word after it."""
    return [(flag, word) for flag, word in itertools.pairwise(shlex.split(command)) if flag.startswith("--")]


def input_digests(command: str) -> dict[str, str]:
    """Return path -> digest of the weights and lists that a command reads, and of its input folders' manifests."""
    paths = [REPO / word for flag, word in flag_values(command) if flag in INPUTS]
    paths = [path / MANIFEST if path.is_dir() else path for path in paths]
    return {str(path): _digest(path, path.stat().st_mtime_ns) for path in paths if path.is_file()}


@functools.cache
def _digest(path: Path, changed: int) -> str:
    return f"{path.stat().st_size} bytes, SHA-256 {weights_digest(path)}"


def run_steps(
    steps: Sequence[Step], out: Path, environment: Mapping[str, str], rerun: str, again: bool = False
) -> None:
    """Run the steps that are not finished, or all if `again`, and all that follow one that was run.

    `environment`: of every command. `rerun`: the command that resumes, for messages. UserError: a command failed, or would
    resume a training that was begun with other flags or inputs. KeyboardInterrupt: after an interrupted command has ended.
    """
    make_folder(out / "finished")
    make_folder(out / "scores")
    current: set[Path] = set()  # folders that these steps, unchanged, have written
    for number, step in enumerate(steps, 1):
        print(f"\n== {number}/{len(steps)}  {step.title}  ({step.name})\n$ {step.command}", flush=True)
        if is_finished(out, step) and not again:
            print("finished already", flush=True)
        else:
            for later in steps[number:]:
                if mark := read_mark(out, later.name):
                    write_mark(out, later.name, replace(mark, finished=False))
            mark = read_mark(out, step.name)
            if mark and (changed := differences(step, mark)):
                make_room(step, changed, current)
                mark = None
            if status := _run_step(step, mark or Mark(step.command), out, environment):
                raise UserError(f"step {step.name} ({step.title}) ended with status {status}. Resume with {rerun}.")
        current |= output_folders(step)


def output_folders(step: Step) -> set[Path]:
    """Return the folders that a step writes its results to."""
    return {REPO / word for flag, word in flag_values(step.command) if flag.startswith("--out_")}


def make_room(step: Step, changed: Sequence[str], current: set[Path]) -> None:
    """Back up the results of an inference step whose inputs have `changed`, except those in the folders `current`.

    UserError: a training's session exists.
    """
    values = dict(flag_values(step.command))
    if "--resume" in shlex.split(step.command):
        session = REPO / values["--checkpoint_dir"] / values["--session_name"]
        if session.exists():
            problem = f"step {step.name}: {' and '.join(changed)} changed since it began"
            raise UserError(f"{problem}. Rename {session} to train it again, or give another --out.")
    another_list = [str(REPO / values.get(LIST, ""))]  # for which results stay valid
    if "infer_" in step.command and changed != another_list:
        for folder in output_folders(step) - current:
            if kept := back_up(folder):
                print(f"{folder}: kept as {kept}; {' and '.join(changed)} changed", flush=True)


def _run_step(step: Step, mark: Mark, out: Path, environment: Mapping[str, str]) -> int:
    """Run one step, keep its mark up to date, and return the status."""
    mark.command, mark.finished = step.command, False
    mark.inputs |= input_digests(step.command)
    write_mark(out, step.name, mark)
    began = time.monotonic()
    try:
        status, peak = call(step.command, environment)
        mark.peak_bytes = max(mark.peak_bytes, peak)
        mark.finished = status == 0
    finally:
        mark.seconds += time.monotonic() - began
        write_mark(out, step.name, mark)
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
    peak = 0
    try:
        while process.poll() is None:
            peak = max(peak, peak_memory(process.pid))
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.2)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if signals:
        raise KeyboardInterrupt
    return process.returncode, peak


def peak_memory(process: int) -> int:
    """Return the peak bytes of the largest of a process and its descendants that run; 0 without /proc.

    `ru_maxrss` would not do: it is never below what the process that started them held.
    """
    try:
        peak = re.search(r"VmHWM:\s*(\d+)", Path(f"/proc/{process}/status").read_text())
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:  # it has ended
        return 0
    return max([1024 * int(peak[1]) if peak else 0, *(peak_memory(int(child)) for child in children)])


def share_threads(command: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Return `environment`, its OMP_NUM_THREADS divided by the number of torchrun's processes."""
    launcher, threads = LAUNCHER.match(command), environment.get("OMP_NUM_THREADS")
    if not launcher or not launcher[1] or threads is None:
        return dict(environment)
    return {**environment, "OMP_NUM_THREADS": str(max(1, int(threads) // int(launcher[1])))}


def select(steps: Sequence[Step], first: str | None, only: str | None) -> list[Step]:
    """Return the steps for --from and --only. UserError: no step has that name."""
    names = [step.name for step in steps]
    for flag, name in (("--from", first), ("--only", only)):
        if name is not None and name not in names:
            raise UserError(f"{flag} {name}: no such step. Choose one of {', '.join(names)}.")
    if only:
        return [steps[names.index(only)]]
    return list(steps[names.index(first) :] if first else steps)
