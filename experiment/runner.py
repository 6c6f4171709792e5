"""Run the commands of an experiment one after the other: finished steps are skipped, an interrupted one resumes."""

import contextlib
import itertools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
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
    """Record of a step: command, input files with their digests, total seconds, its largest process's peak memory."""

    command: str
    inputs: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    peak_bytes: int = 0
    gpu_bytes: int = 0
    finished: bool = False


def read_mark(out: Path, step: Step) -> Mark:
    """Return the mark of a step in the experiment's folder `out`; a new one if there is none that can be read."""
    try:
        return Mark(**json.loads((out / "finished" / f"{step.name}.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # missing, damaged, or with other fields
        return Mark(step.command)


def write_mark(out: Path, step: Step, mark: Mark) -> None:
    with atomic_write(out / "finished" / f"{step.name}.json", "w") as file:
        json.dump(asdict(mark), file)


def is_finished(out: Path, step: Step) -> bool:
    """Return True if this command, in any number of processes, ended with status 0 and its inputs have not changed."""
    mark = read_mark(out, step)
    return mark.finished and not differences(step, mark)


def differences(step: Step, mark: Mark) -> list[str]:
    """Return what has changed since a step's mark was written: "its flags", or input files by path."""
    now = input_digests(step.command)  # a missing file counts as unchanged: it may have been deleted after use
    changed = [path for path, digest in mark.inputs.items() if now.get(path, digest) != digest]
    same_command = LAUNCHER.sub("", step.command) == LAUNCHER.sub("", mark.command)
    return changed if same_command else ["its flags", *changed]


def flag_values(command: str) -> dict[str, str]:
    """Return each flag of a command with the word after it."""
    return {flag: word for flag, word in itertools.pairwise(shlex.split(command)) if flag.startswith("--")}


def input_digests(command: str) -> dict[str, str]:
    """Return path -> digest of the weights and lists that a command reads, and of its input folders' manifests."""
    paths = [REPO / word for flag, word in flag_values(command).items() if flag in INPUTS]
    paths = [path / MANIFEST if path.is_dir() else path for path in paths]
    files = (path for path in paths if path.is_file())
    return {str(path): f"{path.stat().st_size} bytes, SHA-256 {weights_digest(path)}" for path in files}


def run_steps(steps: Sequence[Step], out: Path, environment: Mapping[str, str], again: bool = False) -> None:
    """Run the steps that are not finished, or all if `again`, and all that follow one that was run.

    `environment`: added to each command's. UserError: a command failed, or would resume a training with other inputs.
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
                if (mark := read_mark(out, later)).finished:
                    write_mark(out, later, replace(mark, finished=False))
            if status := run_step(step, out, environment, current):
                end = f"was killed (signal {-status})" if status < 0 else f"ended with status {status}"
                raise UserError(f"step {step.name} ({step.title}) {end}. Rerun the same command to resume.")
        current |= output_folders(step)


def run_step(step: Step, out: Path, environment: Mapping[str, str], current: set[Path]) -> int:
    """Run one step and return its status; its mark adds up time and inputs; changed flags or inputs reset it."""
    mark = read_mark(out, step)
    if changed := differences(step, mark):
        make_room(step, changed, current)
        mark = Mark(step.command)
    mark.command, mark.finished = step.command, False
    mark.inputs |= input_digests(step.command)
    write_mark(out, step, mark)
    began = time.monotonic()
    try:
        with tempfile.NamedTemporaryFile("r") as gpu:  # tool.script writes each process's peak to it
            status, peak = call(step.command, {**environment, "GPU_PEAK": gpu.name})
            mark.gpu_bytes = max(mark.gpu_bytes, *map(int, gpu), 0)
        mark.peak_bytes = max(mark.peak_bytes, peak)
        mark.finished = status == 0
    finally:
        mark.seconds += time.monotonic() - began
        write_mark(out, step, mark)
    return status


def output_folders(step: Step) -> set[Path]:
    return {REPO / word for flag, word in flag_values(step.command).items() if flag.startswith("--out_")}


def make_room(step: Step, changed: Sequence[str], current: set[Path]) -> None:
    """Back up an inference's results, except in the folders `current`. UserError: a training's session exists."""
    values, problem = flag_values(step.command), f"{' and '.join(changed)} changed"
    only_list = changed == [str(REPO / values.get(LIST, ""))]  # results of another list stay valid
    if "--session_name" in values:
        session = REPO / values["--checkpoint_dir"] / values["--session_name"]
        if session.exists():
            remedy = f"Rename {session} to train it again, or give another --out."
            raise UserError(f"step {step.name}: {problem} since it began. {remedy}")
    elif "infer_" in step.command and not only_list:
        for folder in output_folders(step) - current:
            if kept := back_up(folder):
                print(f"{folder}: kept as {kept}; {problem}", flush=True)


def call(command: str, environment: Mapping[str, str]) -> tuple[int, int]:
    """Run a command in the repository's root; return its status and its largest process's peak bytes."""
    python = shlex.quote(sys.executable)
    real = re.sub(r"^torchrun ", f"{python} -m torch.distributed.run ", re.sub(r"^python ", f"{python} ", command))
    launcher, threads = LAUNCHER.match(command), environment.get("OMP_NUM_THREADS")
    if threads and launcher and launcher[1]:  # torchrun's processes share the threads
        environment = {**environment, "OMP_NUM_THREADS": str(max(1, int(threads) // int(launcher[1])))}
    process = subprocess.Popen(f"exec {real}", shell=True, cwd=REPO, env={**os.environ, **environment})

    def terminate(number: int, frame: object) -> None:
        process.terminate()
        raise KeyboardInterrupt

    before, peak = signal.signal(signal.SIGTERM, terminate), 0
    try:
        while process.poll() is None:
            peak = max(peak, peak_memory(process.pid))
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.2)
    except KeyboardInterrupt:  # the terminal sends Ctrl-C to the command, too
        process.wait()
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
    return process.returncode, peak


def peak_memory(process: int) -> int:
    """Return the largest peak memory, bytes, among a process and its descendants."""
    try:  # not `ru_maxrss`: it is never below what the process that started them held
        peak = re.search(r"VmHWM:\s*(\d+)", Path(f"/proc/{process}/status").read_text())
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:  # it has ended
        return 0
    return max([1024 * int(peak[1]) if peak else 0, *(peak_memory(int(child)) for child in children)])


def select(steps: Sequence[Step], first: str | None, only: str | None) -> list[Step]:
    """Return the steps for --from and --only. UserError: no step has that name."""
    names = [step.name for step in steps]
    name = only or first or names[0]
    if name not in names:
        raise UserError(f"{'--only' if only else '--from'} {name}: no such step. Choose one of {', '.join(names)}.")
    start = names.index(name)
    return list(steps[start : start + 1 if only else None])
