"""Processes of a script: ranks under torchrun, and workers. It does not import PyTorch, which takes seconds."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from tool.cli import UserError, print_error

patient_group: Any = None  # of all processes, whose waits last for days; set by distributed.setup
_WAIT = 0.5  # seconds that other ranks stay, or torchrun would end the failed one before it has printed its error


def _process_group() -> Any:
    """Return torch.distributed if this process has joined a group, otherwise None."""
    dist = sys.modules.get("torch.distributed")
    return dist if dist and dist.is_initialized() else None


def cores() -> int:
    """Return the number of CPU cores for this process: its share of those it may use on this machine."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, usable // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def is_main_process() -> bool:
    """Return whether this is rank 0, the process that checks, prints and writes. Without torchrun it always is."""
    dist = _process_group()
    return dist is None or dist.get_rank() == 0


def on_main(compute: Callable[[], Any]) -> Any:
    """Return the value that the main process alone computes, or raise its UserError, in all processes."""
    values: list[Any] = [None]
    if is_main_process():
        try:
            values[0] = compute()
        except UserError as error:
            values[0] = error
    if dist := _process_group():
        dist.broadcast_object_list(values, 0, patient_group)
    if isinstance(values[0], UserError):
        raise values[0]
    return values[0]


@contextlib.contextmanager
def shared_failure() -> Iterator[None]:
    """End all ranks if the block fails in one of them, which prints its error; torchrun would do so after 30 seconds."""
    dist = _process_group()
    if dist is None:
        yield
        return
    store, over = dist.PrefixStore("failure", dist.distributed_c10d._get_default_store()), threading.Event()
    watcher = threading.Thread(target=_watch_ranks, args=(store, over), daemon=True)
    watcher.start()
    try:
        yield
    except Exception as error:
        over.set()
        is_first = store.add("failed", 1) == 1
        if is_first and isinstance(error, UserError | OSError):
            print_error(error)
        elif is_first:
            traceback.print_exc()
        _leave(0 if is_first else _WAIT)
    finally:
        over.set()
        watcher.join()  # a thread within PyTorch at the interpreter's end aborts the process


def _watch_ranks(store: Any, over: threading.Event) -> None:
    with contextlib.suppress(RuntimeError):  # torchrun is gone, and the store with it
        while not over.wait(0.2):
            if store.check(["failed"]):
                _leave(_WAIT)


def _leave(seconds: float) -> None:
    """End this process and its children after a wait; a regular exit could wait for the other ranks."""
    time.sleep(seconds)
    for child in multiprocessing.active_children():
        child.kill()
    sys.stdout.flush()
    os._exit(1)


class WorkerPool(ProcessPoolExecutor):
    """A pool of `workers` >= 1 processes, which leave Ctrl-C to this process and end with it.

    They are forked on Linux: make the pool before a GPU is used. An exception in its block cancels tasks not yet begun.
    """

    def __init__(self, workers: int) -> None:
        context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
        try:
            super().__init__(workers, context, initializer=_end_with_parent, initargs=(os.getpid(),))
        except OSError as error:  # of the semaphores
            raise UserError(f"/dev/shm: cannot start processes ({error.strerror}). Enlarge it.") from error

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.shutdown(cancel_futures=kind is not None)


def _end_with_parent(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
