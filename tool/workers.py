"""Processes that leave Ctrl-C to the script that started them and never outlive it."""

import os
import signal
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from tool.cli import UserError


class WorkerPool(ProcessPoolExecutor):
    """A pool of `workers` >= 1 processes, forked on Linux: make it before a GPU is used.

    As a context manager it waits for all tasks; after an exception, such as Ctrl-C, it cancels those that have not begun.
    """

    def __init__(self, workers: int) -> None:
        context = get_context("fork" if sys.platform == "linux" else "spawn")
        try:
            super().__init__(workers, context, initializer=_end_with_parent, initargs=(os.getpid(),))
        except OSError as error:  # of the semaphores
            raise UserError(f"/dev/shm: cannot start processes ({error.strerror}). Enlarge it.") from error

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.shutdown(cancel_futures=kind is not None)


def _end_with_parent(parent: int) -> None:
    """Leave Ctrl-C to the process `parent`, and end this process when `parent` has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
