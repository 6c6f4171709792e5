"""End all ranks of a training when one of them fails."""

import contextlib
import multiprocessing
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator

import torch.distributed as dist

from tool.cli import UserError, print_error

WAIT = 0.5  # seconds that other ranks stay, or torchrun would end the failed one before it has printed its error


@contextlib.contextmanager
def shared_failure() -> Iterator[None]:
    """End all ranks within a second if the block fails in one of them, which prints its error.

    Without it, a rank that waits for the failed one on a GPU notices nothing until torchrun kills it after 30 seconds.
    """
    if not dist.is_initialized():
        yield
        return
    store, over = dist.PrefixStore("failure", dist.distributed_c10d._get_default_store()), threading.Event()
    watcher = threading.Thread(target=_watch, args=(store, over), daemon=True)
    watcher.start()
    try:
        yield
    except Exception as error:
        over.set()
        is_first = store.add("failed", 1) == 1
        if is_first and isinstance(error, UserError | OSError) and "TRACEBACK" not in os.environ:
            print_error(error)
        elif is_first:
            traceback.print_exc()
        _leave(0 if is_first else WAIT)
    finally:
        over.set()
        watcher.join()  # a thread within PyTorch at the interpreter's end aborts the process


def _watch(store: dist.Store, over: threading.Event) -> None:
    with contextlib.suppress(RuntimeError):  # torchrun is gone, and the store with it
        while not over.wait(0.2):
            if store.check(["failed"]):
                _leave(WAIT)


def _leave(seconds: float) -> None:
    """End this process and its children after a wait; a regular exit could wait for the other ranks."""
    time.sleep(seconds)
    for child in multiprocessing.active_children():
        child.kill()
    sys.stdout.flush()
    os._exit(1)
