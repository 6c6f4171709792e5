"""Reading ahead: processes of a DataLoader for trainings, threads for inference."""

import re
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only
from torch.utils.data import DataLoader, Dataset, default_collate

from tool.cli import UserError

# Errors of a DataLoader whose process ended between announcing a batch and sending it, and of one without resources
_BROKEN = (ConnectionError, EOFError, FileNotFoundError)
_EXHAUSTED = re.compile("exited unexpectedly|shared memory|No space left|Too many open files|ancdata")
_PROBLEM = "a process that reads photos was killed; memory, /dev/shm or open files (`ulimit -n`) ran out"


class Items(Protocol):
    """A map-style dataset."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


def read_ahead(dataset: Items, num_workers: int, pin_memory: bool) -> Iterator[Any]:
    """Yield dataset[i] for all i in order, or the UserError that it raised.

    Threads are enough, as Pillow decodes and resizes without Python's lock.

    Args:
        dataset: items of tensors and other values in tuples, lists and dicts.
        num_workers: threads, each of which reads one item ahead; 0 reads in this one.
        pin_memory: yield tensors in pinned memory, for faster copies to a GPU.
    """
    in_this_thread = (_read(dataset, index) for index in range(len(dataset)))
    for item in _read_in_threads(dataset, num_workers) if num_workers else in_this_thread:
        yield tree_map_only(Tensor, Tensor.pin_memory, item) if pin_memory else item


def _read_in_threads(dataset: Items, count: int) -> Iterator[Any]:
    pending: deque[Future] = deque()
    with ThreadPoolExecutor(count) as pool:
        for index in range(len(dataset)):
            pending.append(pool.submit(_read, dataset, index))
            if len(pending) > count:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _read(dataset: Items, index: int) -> Any:
    try:
        return dataset[index]
    except UserError as error:
        return error


def make_loader(dataset: Items, batches: Iterable[list[int]], num_workers: int, pin_memory: bool) -> DataLoader:
    """Return a DataLoader over batches of indices that draws nothing from the global random state."""
    return DataLoader(
        _Batches(dataset),
        batch_size=None,
        sampler=batches,
        num_workers=num_workers,
        pin_memory=pin_memory,
        generator=torch.Generator().manual_seed(0),  # for the workers' seeds, which nothing here uses
        prefetch_factor=4 if num_workers else None,
    )


def batches(loader: DataLoader) -> Iterator:
    """Yield the batches of `make_loader`; raise UserError for what a worker could not read, or if one was killed."""
    try:
        iterator = iter(loader)
        if loader.num_workers and threading.current_thread() is threading.main_thread():
            # PyTorch's handler would interrupt the training step; without it the loop raises the same error in 5 seconds.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for batch in iterator:
            if isinstance(batch, UserError):
                raise batch
            yield batch
    except (RuntimeError, OSError, EOFError) as error:
        broken = isinstance(error, _BROKEN) and "Caught" not in str(error)  # not the dataset's own error
        if not broken and not _EXHAUSTED.search(str(error)):
            raise
        raise UserError(f"--num_workers: {_PROBLEM}. Lower it (0: no processes) and rerun.") from error


class _Batches(Dataset):
    """Batches by their indices, or the UserError of an item: raised in a worker it would arrive wrapped in a traceback."""

    def __init__(self, dataset: Items) -> None:
        self.dataset = dataset

    def __getitem__(self, indices: list[int]) -> Any:
        try:
            return default_collate([self.dataset[index] for index in indices])
        except UserError as error:
            return error


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
