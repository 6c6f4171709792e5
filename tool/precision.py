"""Precision (TF32, mixed precision) and memory format of networks; malloc's reuse of their memory."""

import contextlib
import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

_Net = TypeVar("_Net", bound=nn.Module)

AMP_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
# CPU features in /proc/cpuinfo with which matrix products are computed in these types: x86, ARM
_INSTRUCTIONS = {"bf16": {"avx512_bf16", "amx_bf16", "bf16"}, "fp16": {"avx512_fp16", "amx_fp16", "asimdhp"}}


def setup_precision(tf32: bool) -> None:
    """Allow or forbid that GPUs round float32 products to TF32; by default PyTorch allows it for convolutions."""
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32


def warn_of_emulation(device: torch.device, amp: str) -> None:
    """Print a note if this CPU has no instructions for the precision `amp`, if the system lists them (Linux)."""
    cpuinfo = Path("/proc/cpuinfo")
    if device.type != "cpu" or amp == "off" or not cpuinfo.exists():
        return
    if not _INSTRUCTIONS[amp] & set(cpuinfo.read_text(encoding="utf-8").split()):
        problem = f"this CPU emulates {amp}, many times slower than float32. Leave out --amp."
        print(f"note: --amp {amp}: {problem}", file=sys.stderr, flush=True)


def keep_freed_memory() -> bool:
    """Let malloc reuse freed blocks of any size, as PyTorch does on GPUs; return whether it took effect.

    By default glibc maps each block above 32 MB afresh and the kernel zeroes its pages, a fifth of a training step.
    No-op with other C libraries.
    """
    trim_threshold, mmap_threshold, largest = -1, -3, 2**31 - 1  # parameters in malloc.h; the largest C int
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    # Order matters: if the first is refused, the second would fix the first threshold at 128 KB.
    return bool(mallopt and mallopt(mmap_threshold, largest) and mallopt(trim_threshold, largest))


def training_form(net: _Net, device: torch.device, amp: str, tf32: bool) -> _Net:
    """Move a network to the device, on GPUs with TF32 or mixed precision in channels-last format; return it.

    On CPUs, oneDNN's weight gradient of narrow 1x1 convolutions corrupts memory in that format (its issue 6035).
    """
    if device.type != "cuda":
        return net.to(device)
    torch.backends.cudnn.benchmark = True  # all crops have one size
    return _in_format(net.to(device), amp != "off" or tf32)


def inference_form(net: _Net, device: torch.device, amp: str = "off", tf32: bool = False) -> _Net:
    """Make a network ready for inference and return it: on the device, frozen, batch norms folded.

    It is in channels-last format on CPUs, and on GPUs with TF32 or mixed precision. It cannot be trained afterwards.

    amp: "off", "bf16" or "fp16", precision of the autocast context it will run in; convolution weights are cast once.
    """
    net.eval().requires_grad_(False)
    fold = getattr(net, "fold_batch_norms", None)
    if callable(fold):
        fold()
    for module in net.modules():
        if isinstance(module, nn.Conv2d) and amp != "off":
            module.to(AMP_DTYPES[amp])
    return _in_format(net.to(device), device.type == "cpu" or amp != "off" or tf32)


def _in_format(net: _Net, channels_last: bool) -> _Net:
    return net.to(memory_format=torch.channels_last) if channels_last else net


def input_form(images: torch.Tensor) -> torch.Tensor:
    """Return the input of a network in `inference_form`; on GPUs the first convolution takes any memory format."""
    return images.contiguous(memory_format=torch.channels_last) if images.device.type == "cpu" else images


@contextlib.contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Put a network into eval mode for the block; afterwards restore each module's mode."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


class Autocast(nn.Module):
    """A network whose forward pass runs in `autocast`, also in DataParallel's threads."""

    def __init__(self, net: nn.Module, device: torch.device, amp: str) -> None:
        super().__init__()
        self.net, self.device, self.amp = net, device, amp

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        with autocast(self.device, self.amp):
            return self.net(*inputs)


def autocast(device: torch.device, amp: str) -> contextlib.AbstractContextManager:
    """Return the context in which networks compute; amp is "off", "bf16" or "fp16"."""
    if amp == "off":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=AMP_DTYPES[amp])
