"""Memory of computations on CPUs."""

import ctypes
import sys

import torch
from torch import Tensor

MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes of one in ru_maxrss
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt's parameters in glibc's malloc.h
_LARGEST = 2**31 - 1  # it takes a C int


def keep_freed_memory() -> bool:
    """Let malloc keep freed blocks of any size for the next ones, as PyTorch does on GPUs.

    By default glibc maps every block over 32 MB anew, and the system fills it with zeros page by page: a sixth of a training
    step, and of the class maps. Does nothing with other C libraries, or with a glibc that allows no more than its 32 MB.

    Returns:
        Whether it took effect.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # macOS, musl; Windows
        return False
    # In this order: where the first is refused, the second would fix the threshold where it is, at 128 KB.
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST) and mallopt(_TRIM_THRESHOLD, _LARGEST))


def give_back_freed_memory(x: Tensor) -> Tensor:
    """x; freed blocks that malloc keeps go back to the system, now and when the gradient of x has been computed.

    An aligned block does not fit where one of its size was freed, so what a loop takes and frees grows with its repetitions. Does
    nothing with C libraries other than glibc.
    """
    return _GiveBack.apply(x)


class _GiveBack(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        _trim()
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        _trim()
        return grad


def _trim() -> None:
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        return
