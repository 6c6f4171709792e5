"""Floating-point precision of the whole run: TF32 on GPUs, mixed precision."""

import contextlib

import torch

AMP_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def setup_precision(tf32: bool) -> None:
    """Allow or forbid that GPUs round float32 products to TF32. PyTorch allows it for convolutions unless told otherwise."""
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32


def autocast(device: torch.device, amp: str) -> contextlib.AbstractContextManager:
    """The context in which the network computes. amp: "off", "bf16" or "fp16"."""
    if amp == "off":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=AMP_DTYPES[amp])
