"""DataLoaders whose failures reach the user as one line."""

import signal
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.utils._pytree import tree_map_only
from torch.utils.data import DataLoader, Dataset, default_collate, get_worker_info

from tool.cli import UserError


def make_loader(dataset: Dataset, batches: Iterable[list[int]], num_workers: int, pin_memory: bool) -> DataLoader:
    """A DataLoader over index batches that draws nothing from the global random state and shows errors as they are."""
    return DataLoader(
        Reporting(dataset),
        batch_sampler=batches,
        num_workers=num_workers,
        pin_memory=pin_memory,
        collate_fn=_collate,
        generator=torch.Generator().manual_seed(0),  # for the workers' seeds, which nothing here uses
        prefetch_factor=4 if num_workers else None,
    )


class Killed(UserError):
    """A process that reads items was killed."""


class ItemDataset(Protocol):
    """A map-style dataset that knows how many items it has, and what stands in place of one that cannot be read."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...

    def lost(self, index: int, error: UserError) -> Any: ...


def items(dataset: ItemDataset, num_workers: int, pin_memory: bool, go_on: bool = False) -> Iterator:
    """The items of a dataset, in order, read by processes beside this one. UserError: as `batches`.

    What has no room in /dev/shm, through which the processes hand over tensors, is read in this process. (Containers have 64 MB.)
    Where `go_on` is set and a process was killed, the items that were under way are read one by one, and the one at which a process
    is killed again is the dataset's `lost`.
    """
    at, careful = 0, 0  # the next item; up to `careful` they are read one by one
    warned = False
    while at < len(dataset):
        part = _Shared(dataset, range(at, careful if at < careful else len(dataset)))
        workers, ahead = (1, 1) if at < careful else (min(num_workers, len(part)), 2)
        loader = DataLoader(
            part,
            batch_size=None,
            num_workers=workers,
            prefetch_factor=ahead if workers else None,
            pin_memory=pin_memory,
        )
        try:
            for item in batches(loader):
                if isinstance(item, _NoRoom):
                    if not warned:
                        print(
                            "note: /dev/shm is full, so photos are read one by one; a lower --num_workers needs less",
                            flush=True,
                        )
                    warned, item = True, dataset[item.index]
                yield item
                at += 1
        except Killed as error:
            if not go_on:
                raise Killed(f"{error} (--skip_errors goes on without a photo that needs too much)") from error
            if at < careful:
                yield dataset.lost(at, error)
                at += 1
            else:
                careful = min(len(dataset), at + workers * ahead)


@dataclass(frozen=True)
class _NoRoom:
    """In place of an item that could not be handed over."""

    index: int


class _Shared(Dataset):
    """Items whose tensors already lie in shared memory: PyTorch would move them there in a thread, whose errors nobody sees."""

    def __init__(self, dataset: ItemDataset, indices: range) -> None:
        self.dataset, self.indices = dataset, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, number: int):
        index = self.indices[number]
        item = self.dataset[index]
        try:
            return tree_map_only(torch.Tensor, torch.Tensor.share_memory_, item) if get_worker_info() else item
        except RuntimeError as error:
            if _of_worker(error) is None:
                raise
            return _NoRoom(index)


def batches(loader: DataLoader) -> Iterator:
    """The loader's batches. UserError: what a worker could not read, or that a worker was killed."""
    iterator = iter(loader)
    if loader.num_workers and threading.current_thread() is threading.main_thread():
        # PyTorch's handler raises an error in the midst of whatever runs when a worker dies. Without it the same error comes
        # from `next`, at most 5 seconds later.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    while True:
        try:
            batch = next(iterator)
        except StopIteration:
            return
        except (RuntimeError, OSError, EOFError) as error:
            if loader.num_workers and (reason := _of_worker(error)):
                raise reason from error
            raise
        if isinstance(batch, UserError):
            raise batch
        yield batch


def _of_worker(error: Exception) -> UserError | None:
    """What happened to a worker process; None where the error is of another kind."""
    message = str(error)
    remedy = "lower --num_workers, or 0 for none"
    if "Too many open files" in message or "ancdata" in message:
        return UserError(f"too many open files (`ulimit -n` raises the limit); {remedy}")
    if "shared memory" in message or "No space left" in message:
        return UserError(f"the processes that read photos have no room left in /dev/shm; {remedy}")
    # The connection breaks where a worker ends between announcing a batch and handing it over.
    broken = isinstance(error, ConnectionError | EOFError | FileNotFoundError) and "Caught" not in message
    if broken or "exited unexpectedly" in message:
        reason = f"a process that reads photos was killed ({message or 'no answer'})"
        return Killed(f"{reason}; memory or /dev/shm may be full; {remedy}")
    return None


class Reporting(Dataset):
    """Returns a UserError as the item that failed: raised in a worker it would arrive wrapped in a traceback."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __getitem__(self, index: int):
        try:
            return self.dataset[index]
        except UserError as error:
            return error


def _collate(items: list):
    """The items as one batch, or the first UserError among them."""
    return next((item for item in items if isinstance(item, UserError)), None) or default_collate(items)


class StepBatches:
    """Batches of positions for steps start..stop-1: step s takes positions s * batch_size onwards, shared out to the processes."""

    def __init__(self, start: int, stop: int, batch_size: int, rank: int = 0, world: int = 1) -> None:
        self.start, self.stop, self.batch_size, self.rank, self.world = start, stop, batch_size, rank, world

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start, self.stop):
            first = step * self.batch_size
            yield list(range(first, first + self.batch_size))[self.rank :: self.world]
