"""Floating-point precision of the whole run: TF32 on GPUs, mixed precision."""

import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

_Net = TypeVar("_Net", bound=nn.Module)

AMP_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
# CPU features of /proc/cpuinfo that compute convolutions and matrix products in these types: x86, ARM
_INSTRUCTIONS = {"bf16": {"avx512_bf16", "amx_bf16", "bf16"}, "fp16": {"avx512_fp16", "amx_fp16", "asimdhp"}}


def setup_precision(tf32: bool) -> None:
    """Allow or forbid that GPUs round float32 products to TF32. PyTorch allows it for convolutions unless told otherwise."""
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32


def warn_of_emulation(device: torch.device, amp: str) -> None:
    """Print a note where this CPU has no instructions for the precision `amp`, and so would be slower than in float32.

    Only where the system lists the CPU's features (Linux); elsewhere nothing is known and nothing is said.
    """
    if device.type != "cpu" or amp == "off":
        return
    try:
        features = set(re.findall(r"[a-z0-9_]+", Path("/proc/cpuinfo").read_text(encoding="utf-8").lower()))
    except (OSError, ValueError):
        return
    if not features & _INSTRUCTIONS[amp]:
        print(
            f"note: --amp {amp}: this CPU has no {amp} instructions and emulates them, many times slower than float32; "
            "leave out --amp",
            file=sys.stderr,
            flush=True,
        )


def training_form(net: _Net, device: torch.device, amp: str, tf32: bool) -> _Net:
    """Move a network to the device in the memory format that trains fastest there.

    GPUs' matrix units want channels last. On CPUs that format is left alone in training: oneDNN's weight gradient of narrow
    1x1 convolutions writes out of bounds in it (its issue 6035).
    """
    if device.type != "cuda":
        return net.to(device)
    torch.backends.cudnn.benchmark = True  # all crops have one size
    net = net.to(device)
    return net.to(memory_format=torch.channels_last) if amp != "off" or tf32 else net


def inference_form(net: _Net, device: torch.device, amp: str = "off") -> _Net:
    """Make a network ready for inference: on the device, frozen, in the fastest form. It can't be trained then.

    amp: "off", "bf16" or "fp16", the precision of the autocast context that it will compute in: convolution weights are cast
    once instead of for every photo.
    """
    net.eval().requires_grad_(False)
    fold = getattr(net, "fold_batch_norms", None)
    if callable(fold):
        fold()
    for module in net.modules():
        if isinstance(module, nn.Conv2d) and amp != "off":
            module.to(AMP_DTYPES[amp])
    return net.to(device).to(memory_format=torch.channels_last)


@contextlib.contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """The context in which a network that is being trained only computes; then each part has its mode back."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


class Autocast(nn.Module):
    """A network whose forward pass runs in `autocast`. DataParallel's threads would not inherit the context from outside."""

    def __init__(self, net: nn.Module, device: torch.device, amp: str) -> None:
        super().__init__()
        self.net, self.device, self.amp = net, device, amp

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        with autocast(self.device, self.amp):
            return self.net(*inputs)


def autocast(device: torch.device, amp: str) -> contextlib.AbstractContextManager:
    """The context in which the network computes. amp: "off", "bf16" or "fp16"."""
    if amp == "off":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=AMP_DTYPES[amp])
