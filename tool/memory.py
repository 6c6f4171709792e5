"""Reuse of freed memory by glibc's malloc, for computations on CPUs."""

import ctypes
import sys

MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes per unit of ru_maxrss
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt's parameters in glibc's malloc.h
_LARGEST = 2**31 - 1  # mallopt takes a C int


def keep_freed_memory() -> bool:
    """Let malloc reuse freed blocks of any size, as PyTorch does on GPUs; return whether it took effect.

    By default glibc maps each block above 32 MB afresh and the kernel zeroes its pages, a fifth of a training step.
    No-op with other C libraries.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # macOS, musl; Windows
        return False
    # Order matters: if the first is refused, the second would fix the first threshold at 128 KB.
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST) and mallopt(_TRIM_THRESHOLD, _LARGEST))
