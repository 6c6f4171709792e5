"""Several processes under torchrun: who am I, and where do I compute. Without torchrun everything is rank 0 of 1."""

import contextlib
import hashlib
import os
import socket
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from tool.cli import UserError
from tool.memory import keep_freed_memory

# Words of the errors that Gloo and NCCL raise in the processes that are left when one has ended.
_LOST = ("gloo", "NCCL", "Connection closed", "Connection reset", "Broken pipe")


def setup(device: str | None, apart: bool = False) -> tuple[torch.device, int, int]:
    """Join the process group if torchrun started this process, choose the device and make it ready.

    Args:
        device: as given by `--device`: "cpu", "cuda", "cuda:1"; None takes a GPU where there is one.
        apart: the processes work by themselves and only meet at the end, where some wait long for the others.

    Returns:
        The device, this process's rank, and the number of processes.

    Raises:
        UserError: on a device that is not there, or where the processes don't find each other.
    """
    try:
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise UserError(f"--device {device}: not a device; use cpu, cuda or cuda:0") from error
    if chosen.type not in ("cpu", "cuda"):
        raise UserError(f"--device {device}: computes on cpu, cuda or cuda:N only")
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"--device {device}: this PyTorch sees no GPU; use --device cpu")
    if chosen.type == "cpu":
        keep_freed_memory()
    world = int(os.environ.get("WORLD_SIZE", 1))
    if chosen.type == "cuda":
        if world > 1 and chosen.index is not None:
            raise UserError(
                f"--device {device}: under torchrun each process takes the GPU of its rank; use --device cuda"
            )
        local = chosen.index if chosen.index is not None else int(os.environ.get("LOCAL_RANK", 0))
        if local >= torch.cuda.device_count():
            raise UserError(f"GPU {local} asked for, but only {torch.cuda.device_count()} are visible")
        chosen = torch.device("cuda", local)
        torch.cuda.set_device(chosen)
    if world == 1:
        return chosen, 0, 1
    try:
        if apart:
            dist.init_process_group("gloo", timeout=timedelta(days=7))
        elif chosen.type == "cuda":
            dist.init_process_group("nccl", device_id=chosen)
        else:
            dist.init_process_group("gloo")
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"the {world} processes don't find each other ({_line(error)}); start them with torchrun"
        ) from error
    return chosen, dist.get_rank(), dist.get_world_size()


@contextlib.contextmanager
def translate_errors(remedy: str) -> Iterator[None]:
    """Turn what PyTorch raises when memory runs out, or when another process has ended, into a UserError.

    Args:
        remedy: against lack of memory.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise UserError(f"out of memory ({_line(error, 'allocate')}); {remedy}") from error
        lost = isinstance(error, dist.DistError) or any(word in str(error) for word in _LOST)
        if dist.is_initialized() and lost:
            raise UserError(
                f"process {dist.get_rank()} lost another one; its own message, if it left one, says why"
            ) from error
        raise


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is not enough memory, a GPU's or the machine's."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def _line(error: BaseException, word: str = "") -> str:
    """The first line of an error that holds the word, shortened; its type's name where there is none."""
    lines = (line.strip() for line in str(error).splitlines() if word in line)
    return next(filter(None, lines), type(error).__name__)[:200]


def cores() -> int:
    """CPU cores for this process: those that it may use, shared with the other processes of this machine."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, usable // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def seed_step(seed: int, step: int, rank: int) -> None:
    """Make what a step draws at random (dropout) a function of these three, so that no random state has to be saved."""
    mixed = int.from_bytes(hashlib.sha256(f"{seed} {step} {rank}".encode()).digest()[:7], "little")
    torch.manual_seed(mixed)
    for index, generator in enumerate(torch.cuda.default_generators):  # none before a GPU is used
        generator.manual_seed(mixed + index)  # DataParallel's replicas must not repeat each other


def all_reduce_max(value: int, device: torch.device) -> int:
    """The highest of the processes' values, in all of them."""
    if not dist.is_initialized():
        return value
    tensor = torch.tensor(value, device=device)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return int(tensor)


def accumulating(model: torch.nn.Module, until: bool) -> contextlib.AbstractContextManager:
    """The context of one of several backward passes: the processes share their gradients in the last one, where `until` holds."""
    if isinstance(model, DistributedDataParallel) and not until:
        return model.no_sync()
    return contextlib.nullcontext()


def all_reduce_sum(value: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor over all processes."""
    if dist.is_initialized():
        dist.all_reduce(value)
    return value


def gather(value: Any) -> list[Any]:
    """The values of all processes, by rank, in all of them."""
    if not dist.is_initialized():
        return [value]
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def world_size() -> int:
    """How many there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def barrier() -> None:
    """Wait for all processes."""
    if dist.is_initialized():
        dist.barrier()


def cleanup() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def describe(device: torch.device, world: int) -> str:
    """One line for the log: device, processes, host."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return f"{name} on {socket.gethostname()}, {world} process{'es' if world > 1 else ''}, torch {torch.__version__}"
