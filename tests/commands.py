"""Scripts as processes, without importing PyTorch (4 seconds) for each.

A fork server imports the scripts once; each command is a fork of it that executes the script's file as `__main__`.
"""

import contextlib
import multiprocessing
import os
import re
import resource
import runpy
import select
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

REPO = Path(__file__).resolve().parent.parent
NETWORK_SCRIPTS = [path.name for kind in ("train", "infer") for path in REPO.glob(f"{kind}_*.py")]
_BAR = re.compile(r"\d+/\d+ \[")  # a line of tqdm


class Command:
    """A running or finished script."""

    def __init__(self, process: multiprocessing.Process, out: Path, err: Path) -> None:
        self.process, self.pid, self._out, self._err = process, process.pid, out, err

    @property
    def stdout(self) -> str:
        return self._out.read_text()

    @property
    def stderr(self) -> list[str]:
        """Return the lines without the progress bars."""
        return [line for line in self._err.read_text().splitlines() if line.strip() and not _BAR.search(line)]

    def until(self, condition: Callable[[], bool]) -> bool:
        """Wait until the condition holds; return False if the process ended before."""
        while not condition():
            self.process.join(0.002)
            if self.process.exitcode is not None:
                return condition()
        return True

    def wait(self, seconds: float = 200) -> int:
        """Wait; return the exit status, negative for a signal."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            raise AssertionError(f"still running after {seconds} s\n{self.stdout}\n{self.stderr}")
        return self.process.exitcode

    def children(self) -> list[int]:
        tasks = Path(f"/proc/{self.pid}/task").glob("*/children")
        return [int(child) for task in tasks for child in task.read_text().split()]

    def send(self, number: int, group: bool = False) -> int:
        """Send a signal, with `group` to its children, too; return the exit status. It may have finished before."""
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self.pid, number)
        return self.wait()


def ended(process: int, seconds: float = 30) -> bool:
    """Wait for the end of any process; return whether it has ended."""
    try:
        descriptor = os.pidfd_open(process)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], seconds)[0])
    finally:
        os.close(descriptor)


class Commands:
    """Starter of commands by a fork server, which only imports: CUDA cannot be used after a fork.

    flags: given to the scripts that compute with a network, before their own.
    """

    def __init__(self, *flags: str) -> None:
        self.flags = flags
        self.context = multiprocessing.get_context("forkserver")
        scripts = [name.removesuffix(".py") for name in NETWORK_SCRIPTS]
        self.context.set_forkserver_preload([*scripts, "eval", "colorful"])
        self.number = 0

    def start(
        self, cwd: Path, script: str, *args: object, limits: dict[int, int] | None = None, **env: object
    ) -> Command:
        """Start a script. limits: of resources, such as {resource.RLIMIT_FSIZE: 1000}. env: variables, such as RANK."""
        self.number += 1
        out, err = (cwd / f".{self.number}.{name}" for name in ("out", "err"))
        words = [*(self.flags if script in NETWORK_SCRIPTS else ()), *map(str, args)]
        variables = {name: str(value) for name, value in env.items()}
        arguments = (str(REPO / script), words, cwd, limits or {}, variables, out, err)
        process = self.context.Process(target=_run, args=arguments)
        with patch.dict(os.environ, PYTHONPATH=str(REPO), OMP_NUM_THREADS="1"):  # the fork server inherits them
            process.start()
        return Command(process, out, err)

    def run(self, cwd: Path, script: str, *args: object, status: int = 0, **options) -> Command:
        """Run a script and check its exit status."""
        command = self.start(cwd, script, *args, **options)
        found = command.wait()
        assert found == status, (found, command.stdout, command.stderr)
        return command

    def error(self, cwd: Path, script: str, *args: object, **options) -> str:
        """Run a script that must fail in one line; return the line after `<script>: error: `."""
        command = self.run(cwd, script, *args, status=1, **options)
        prefix = f"{script}: error: "
        assert len(command.stderr) == 1 and command.stderr[0].startswith(prefix), command.stderr
        return command.stderr[0].removeprefix(prefix)


def _run(
    script: str, args: list[str], cwd: Path, limits: dict[int, int], env: dict[str, str], out: Path, err: Path
) -> None:
    for stream, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    multiprocessing.set_start_method(None, force=True)  # the scripts' own processes start in the ordinary way
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the tests' own shell ignores Ctrl-C
    os.setpgrp()
    os.chdir(cwd)
    os.environ.update(env)
    sys.argv = [script, *args]
    for kind, most in limits.items():
        resource.setrlimit(kind, (most, most))
    try:
        runpy.run_path(script, run_name="__main__")
    finally:
        threading._shutdown()  # as at the end of a script: executors' threads first
        sys.stdout.flush()
        sys.stderr.flush()
