"""Reading ahead in other processes: a DataLoader for trainings, `read_ahead` for inference."""

import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only
from torch.utils.data import DataLoader, Dataset, default_collate

from tool.cli import UserError
from tool.workers import end_with_parent

_REMEDY = "Lower --num_workers (0: no processes) and rerun."


class Items(Protocol):
    """A map-style dataset."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


def read_ahead(dataset: Items, num_workers: int, pin_memory: bool) -> Iterator[Any]:
    """Yield dataset[i] for all i in order, read ahead by `num_workers` processes; 0 reads in this process.

    Each process reads every num_workers-th item and has one ready. Items go through pipes: /dev/shm, which PyTorch's
    DataLoader uses, has 64 MB in containers. A pipe of its own for each shows at once when a process was killed.

    Args:
        dataset: items of tensors, numpy arrays and other values in tuples, lists and dicts.
        num_workers: number of processes.
        pin_memory: yield tensors in pinned memory, for faster copies to a GPU.

    Yields:
        dataset[i], arrays as tensors; a UserError object for an item that raised it.

    Raises:
        UserError: a process was killed.
    """
    num_workers = min(num_workers, len(dataset))
    readers = [_Reader(dataset, first, num_workers) for first in range(num_workers)]
    try:
        for index in range(len(dataset)):
            item = readers[index % num_workers].next_item() if readers else _read(dataset, index)
            tensors = tree_map_only(np.ndarray, torch.from_numpy, item)
            yield tree_map_only(Tensor, Tensor.pin_memory, tensors) if pin_memory else tensors
    finally:
        for reader in readers:
            reader.close()


class _Reader:
    """A process that reads every `step`-th item from `first`."""

    def __init__(self, dataset: Items, first: int, step: int) -> None:
        context = get_context("fork" if sys.platform == "linux" else "spawn")
        self.connection, sender = context.Pipe(duplex=False)
        arguments = (dataset, first, step, sender, os.getpid())
        self.process = context.Process(target=_send_items, args=arguments, daemon=True)  # type: ignore[attr-defined]
        self.process.start()
        sender.close()  # the process has the only one, so that its death is the end of the pipe

    def next_item(self) -> Any:
        try:
            return self.connection.recv()
        except (EOFError, OSError) as error:
            problem = "a process that reads photos was killed; memory may be full"
            raise UserError(f"--num_workers: {problem}. {_REMEDY}") from error

    def close(self) -> None:
        self.connection.close()
        self.process.terminate()
        self.process.join()


def _send_items(dataset: Items, first: int, step: int, sender: Connection, parent: int) -> None:
    """Send items as numpy arrays, one at a time: `send` waits until the other end takes it."""
    end_with_parent(parent)
    torch.set_num_threads(1)  # OpenMP's threads do not survive a fork
    for index in range(first, len(dataset), step):
        sender.send(tree_map_only(Tensor, Tensor.numpy, _read(dataset, index)))


def _read(dataset: Items, index: int) -> Any:
    try:
        return dataset[index]
    except UserError as error:
        return error


def make_loader(dataset: Any, batches: Iterable[list[int]], num_workers: int, pin_memory: bool) -> DataLoader:
    """Return a DataLoader over batches of indices that draws nothing from the global random state."""
    return DataLoader(
        _UserErrorsAsItems(dataset),
        batch_sampler=batches,
        num_workers=num_workers,
        pin_memory=pin_memory,
        collate_fn=_collate,
        generator=torch.Generator().manual_seed(0),  # for the workers' seeds, which nothing here uses
        prefetch_factor=4 if num_workers else None,
    )


def batches(loader: DataLoader) -> Iterator:
    """Yield the batches of `make_loader`; raise UserError for what a worker could not read, or if one was killed."""
    iterator = iter(loader)
    if loader.num_workers and threading.current_thread() is threading.main_thread():
        # PyTorch's handler would interrupt the training step; without it `next` raises the same error within 5 seconds.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    while True:
        try:
            batch = next(iterator)
        except StopIteration:
            return
        except (RuntimeError, OSError, EOFError) as error:
            problem = _worker_problem(error) if loader.num_workers else None
            if problem is None:
                raise
            raise UserError(f"--num_workers: {problem}. {_REMEDY}") from error
        if isinstance(batch, UserError):
            raise batch
        yield batch


def _worker_problem(error: Exception) -> str | None:
    """Return what happened to a worker process, None if the error is of another kind."""
    message = str(error)
    if "Too many open files" in message or "ancdata" in message:
        return "too many open files; `ulimit -n` raises the limit"
    if "shared memory" in message or "No space left" in message:
        return "/dev/shm is full"
    # The connection breaks if a worker ends between announcing a batch and sending it.
    broken = isinstance(error, ConnectionError | EOFError | FileNotFoundError) and "Caught" not in message
    if broken or "exited unexpectedly" in message:
        return "a process that reads photos was killed; memory or /dev/shm may be full"
    return None


class _UserErrorsAsItems(Dataset):
    """Dataset that returns a UserError as the item: raised in a worker it would arrive wrapped in a traceback."""

    def __init__(self, dataset: Items) -> None:
        self.dataset = dataset

    def __getitem__(self, index: int) -> Any:
        return _read(self.dataset, index)


def _collate(items: list) -> Any:
    """Return the items as one batch, or the first UserError among them."""
    return next((item for item in items if isinstance(item, UserError)), None) or default_collate(items)


class StepBatches:
    """Batches of positions for steps start..stop-1.

    Step s takes positions s * batch_size to (s + 1) * batch_size - 1; rank r of `world` takes every world-th, from r.
    """

    def __init__(self, start: int, stop: int, batch_size: int, rank: int = 0, world: int = 1) -> None:
        self.start, self.stop, self.batch_size, self.rank, self.world = start, stop, batch_size, rank, world

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start, self.stop):
            first = step * self.batch_size
            yield list(range(first, first + self.batch_size))[self.rank :: self.world]
