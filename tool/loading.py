"""DataLoaders whose failures reach the user as one line."""

from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from tool.errors import UserError


def make_loader(dataset: Dataset, batches, num_workers: int, pin_memory: bool, collate=default_collate) -> DataLoader:
    """A DataLoader over index batches that draws nothing from the global random state and shows errors as they are."""
    return DataLoader(
        Reporting(dataset),
        batch_sampler=batches,
        num_workers=num_workers,
        pin_memory=pin_memory,
        collate_fn=ErrorOr(collate),
        generator=torch.Generator().manual_seed(0),  # for the workers' seeds, which nothing here uses
        prefetch_factor=4 if num_workers else None,
    )


def batches(loader: DataLoader) -> Iterator:
    """The loader's batches. UserError: what a worker could not read, or that a worker was killed."""
    iterator = iter(loader)
    while True:
        try:
            batch = next(iterator)
        except StopIteration:
            return
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise UserError(
                f"a process that reads photos died ({str(error).splitlines()[0]}); if memory ran out, lower --num_workers"
            ) from error
        if isinstance(batch, UserError):
            raise batch
        yield batch


class Reporting(Dataset):
    """Returns a UserError as the item that failed: raised in a worker it would arrive wrapped in a traceback."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int):
        try:
            return self.dataset[index]
        except UserError as error:
            return error


class ErrorOr:
    """A collate function that lets the first UserError among the items through."""

    def __init__(self, collate) -> None:
        self.collate = collate

    def __call__(self, items: list):
        for item in items:
            if isinstance(item, UserError):
                return item
        return self.collate(items)


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
