"""Several processes under torchrun: who am I, and where do I compute. Without torchrun everything is rank 0 of 1."""

import hashlib
import os
import socket

import torch
import torch.distributed as dist

from tool.errors import UserError


def setup(device: str | None) -> tuple[torch.device, int, int]:
    """Join the process group if torchrun started this process, and choose the device.

    Args:
        device: as given by `--device`: "cpu", "cuda", "cuda:1"; None takes a GPU where there is one.

    Returns:
        The device, this process's rank, and the number of processes.

    Raises:
        UserError: on a device that is not there.
    """
    try:
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise UserError(f"--device {device}: not a device; use cpu, cuda or cuda:0") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"--device {device}: this PyTorch sees no GPU; use --device cpu")
    world = int(os.environ.get("WORLD_SIZE", 1))
    if chosen.type == "cuda":
        local = chosen.index if chosen.index is not None else int(os.environ.get("LOCAL_RANK", 0))
        if local >= torch.cuda.device_count():
            raise UserError(f"GPU {local} asked for, but only {torch.cuda.device_count()} are visible")
        chosen = torch.device("cuda", local)
        torch.cuda.set_device(chosen)
    if world == 1:
        return chosen, 0, 1
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    return chosen, dist.get_rank(), dist.get_world_size()


def seed_step(seed: int, step: int, rank: int) -> None:
    """Make what a step draws at random (dropout) a function of these three, so that no random state has to be saved."""
    mixed = int.from_bytes(hashlib.sha256(f"{seed} {step} {rank}".encode()).digest()[:7], "little")
    torch.manual_seed(mixed)
    for index in range(torch.cuda.device_count()):  # DataParallel's replicas must not repeat each other
        torch.cuda.default_generators[index].manual_seed(mixed + index)


def any_process(flag: bool, device: torch.device) -> bool:
    """True where the flag is set in any process."""
    if not dist.is_initialized():
        return flag
    value = torch.tensor(float(flag), device=device)
    dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return bool(value)


def total(value: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor over all processes."""
    if dist.is_initialized():
        dist.all_reduce(value)
    return value


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
