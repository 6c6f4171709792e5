"""Batches of trainings, read by the processes of a DataLoader."""

import re
import signal
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from tool.cli import UserError

_EXHAUSTED = re.compile("shared memory|No space left|Too many open files")  # errors of a DataLoader
_PROBLEM = "a process that reads photos was killed; memory, /dev/shm or open files (`ulimit -n`) ran out"


def positions(start: int, stop: int, batch_size: int, rank: int = 0, world: int = 1) -> Iterator[list[int]]:
    """Yield the dataset's positions of steps start..stop-1, `batch_size` each; rank r takes every world-th, from r."""
    for step in range(start, stop):
        first = step * batch_size
        yield list(range(first + rank, first + batch_size, world))


def batches(dataset: Any, indices: Iterable[list[int]], num_workers: int, pin_memory: bool) -> Iterator[Any]:
    """Yield batches of a map-style dataset, drawing nothing from the global random state. UserError: a worker was killed."""
    loader = DataLoader(
        _Batches(dataset),
        batch_size=None,
        sampler=indices,
        num_workers=num_workers,
        pin_memory=pin_memory,
        generator=torch.Generator().manual_seed(0),  # for the workers' seeds, which nothing here uses
        prefetch_factor=4 if num_workers else None,
    )
    try:
        iterator = iter(loader)
        if num_workers and threading.current_thread() is threading.main_thread():
            # PyTorch's handler would interrupt the training step; without it the loop raises the same error in 5 seconds.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for batch in iterator:
            if isinstance(batch, UserError):
                raise batch
            yield batch
    except (RuntimeError, OSError, EOFError) as error:
        is_own = num_workers == 0 or "Caught" in str(error)  # raised by the dataset
        if is_own and not _EXHAUSTED.search(str(error)):
            raise
        raise UserError(f"--num_workers: {_PROBLEM}. Lower it (0: no processes) and rerun.") from error


class _Batches(Dataset):
    """Batches by their indices, or the UserError of an item: raised in a worker it would arrive wrapped in a traceback."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getitem__(self, indices: list[int]) -> Any:
        try:
            return default_collate([self.dataset[index] for index in indices])
        except UserError as error:
            return error
