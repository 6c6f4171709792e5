"""Precision (TF32, mixed precision) and memory format of networks; malloc's reuse of their memory."""

import contextlib
import ctypes
from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import nn

_Net = TypeVar("_Net", bound=nn.Module)

AMP_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def setup_precision(tf32: bool) -> None:
    """Allow or forbid that GPUs round float32 products to TF32; by default PyTorch allows it for convolutions."""
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32


def keep_freed_memory() -> bool:
    """Let glibc's malloc reuse freed blocks of any size; return whether it took effect.

    By default it maps each block above 32 MB afresh and the kernel zeroes its pages, a fifth of a training step.
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
    return net.to(device).to(memory_format=torch.channels_last if amp != "off" or tf32 else torch.preserve_format)


def inference_form(net: _Net, device: torch.device, amp: str = "off", tf32: bool = False) -> _Net:
    """Make a network ready for inference and return it: on the device, frozen, batch norms folded, weights cast to `amp`.

    It is in channels-last format on CPUs, and on GPUs with TF32 or mixed precision. It cannot be trained afterwards.
    """
    net.eval().requires_grad_(False)
    fold = getattr(net, "fold_batch_norms", None)
    if callable(fold):
        fold()
    for module in net.modules():
        if isinstance(module, nn.Conv2d) and amp != "off":
            module.to(AMP_DTYPES[amp])
    channels_last = device.type == "cpu" or amp != "off" or tf32
    return net.to(device).to(memory_format=torch.channels_last if channels_last else torch.preserve_format)


def input_form(images: torch.Tensor) -> torch.Tensor:
    """Return the input of a network in `inference_form`; on GPUs the first convolution takes any memory format."""
    return images.contiguous(memory_format=torch.channels_last) if images.device.type == "cpu" else images


@contextlib.contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Put a network in training into eval mode for the block."""
    net.eval()
    yield
    net.train()


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
    return torch.autocast(device.type, dtype=AMP_DTYPES.get(amp), enabled=amp != "off")
