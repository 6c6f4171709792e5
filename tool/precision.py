"""Floating-point precision of the whole run: TF32 on GPUs, mixed precision."""

import contextlib
from typing import TypeVar

import torch
from torch import nn

_Net = TypeVar("_Net", bound=nn.Module)

AMP_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def setup_precision(tf32: bool) -> None:
    """Allow or forbid that GPUs round float32 products to TF32. PyTorch allows it for convolutions unless told otherwise."""
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32


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
