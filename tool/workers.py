"""Pools of processes that leave Ctrl-C to the script that made them, and never outlive it."""

import os
import signal
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context


class WorkerPool(ProcessPoolExecutor):
    """A pool of `workers` >= 1 processes: forked where the system can do that safely, so make it before a GPU is touched.

    As a context manager it waits for all tasks, but after an exception, such as Ctrl-C, only for those that have begun.
    `late`: a GPU may have been touched, or threads started: the processes start Python anew, which takes seconds.
    """

    def __init__(self, workers: int, late: bool = False) -> None:
        context = get_context("fork" if sys.platform == "linux" and not late else "spawn")
        super().__init__(workers, context, initializer=_start, initargs=(os.getpid(),))

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.shutdown(cancel_futures=kind is not None)


def _start(parent: int) -> None:
    """Leave Ctrl-C to the parent, and end when it is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
