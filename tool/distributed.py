"""Device and process group of a script. Without torchrun there is one process, rank 0."""

import contextlib
import hashlib
import os
import re
import socket
from collections.abc import Collection, Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from tool import processes
from tool.cli import UserError
from tool.precision import keep_freed_memory

# Words in the errors that Gloo and NCCL raise when another rank has ended.
_LOST = ("gloo", "NCCL", "Connection closed", "Connection reset", "Broken pipe")
_PATIENT = timedelta(days=7)  # for ranks that wait while the main process checks files, or others label more photos


def setup(device: str | None, independent: bool = False) -> tuple[torch.device, int, int]:
    """Make the device (None: a GPU if there is one) ready and join the process group of torchrun.

    Return device, rank and number of processes. `independent` ranks share no step and meet at start and end, where some
    wait long for others. UserError: no such device, or no process group.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise UserError(f"--device {device}: not a device. Use cpu, cuda or cuda:0.")
    chosen, world = torch.device(device), int(os.environ.get("WORLD_SIZE", 1))
    if chosen.type == "cpu":
        keep_freed_memory()
    elif world > 1 and chosen.index is not None:
        raise UserError(f"--device {device}: torchrun gives each rank a GPU of its own. Use --device cuda.")
    else:
        index = int(os.environ.get("LOCAL_RANK", 0)) if chosen.index is None else chosen.index
        if index >= (count := torch.cuda.device_count()):
            remedy = "Name one of them, lower --nproc_per_node, or use --device cpu."
            raise UserError(f"--device cuda:{index}: visible GPUs: {count}. {remedy}")
        torch.cuda.set_device(chosen := torch.device("cuda", index))
    if world == 1:
        return chosen, 0, 1
    try:
        if independent:
            dist.init_process_group("gloo", timeout=_PATIENT)
        else:
            on_gpu = chosen.type == "cuda"
            dist.init_process_group("nccl" if on_gpu else "gloo", device_id=chosen if on_gpu else None)
        processes.patient_group = dist.new_group(backend="gloo", timeout=_PATIENT)
    except (ValueError, RuntimeError) as error:
        problem = f"could not form a process group of {world} ({_first_line(error)})"
        raise UserError(f"{problem}. Start the processes with torchrun.") from error
    return chosen, dist.get_rank(), dist.get_world_size()


@contextlib.contextmanager
def translate_errors(remedy: str) -> Iterator[None]:
    """Raise UserError in place of PyTorch's errors about a lost rank, or lack of memory, against which `remedy` helps."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise UserError(f"out of memory ({_first_line(error)}); {remedy}") from error
        lost = isinstance(error, dist.DistError) or any(word in str(error) for word in _LOST)
        if dist.is_initialized() and lost:
            problem = f"rank {dist.get_rank()}: lost connection to another rank ({_first_line(error)})"
            raise UserError(f"{problem}. Its own message may say why.") from error
        raise


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means lack of memory, a GPU's or the machine's."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed PyTorch's generators (dropout) by these three numbers, so that resume needs no random state."""
    mixed = int.from_bytes(hashlib.sha256(f"{seed} {step} {rank}".encode()).digest()[:7], "little")
    torch.manual_seed(mixed)
    for index, generator in enumerate(torch.cuda.default_generators):  # none before a GPU is used
        generator.manual_seed(mixed + index)  # DataParallel's replicas must not repeat each other


def share_batch_norms(net: nn.Module, norms: Collection[nn.BatchNorm2d]) -> None:
    """Replace batch norms of a network by SyncBatchNorm, whose statistics are those of all ranks."""
    for module in list(net.modules()):
        for name, child in module.named_children():
            if child in norms:
                setattr(module, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))


def all_reduce_sum(value: torch.Tensor) -> torch.Tensor:
    """Return the sum of all ranks' tensors, computed in place."""
    if dist.is_initialized():
        dist.all_reduce(value)
    return value


def gather(value: Any) -> list[Any]:
    """Return the values of all ranks, in their order."""
    if not dist.is_initialized():
        return [value]
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value, processes.patient_group)
    return values


def cleanup() -> None:
    """Wait for all ranks and leave the process group."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def describe(device: torch.device, world: int) -> str:
    """Return a line for the log: device, host, number of processes, PyTorch's version."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return f"{name} on {socket.gethostname()}, {world} process{'es' if world > 1 else ''}, torch {torch.__version__}"
