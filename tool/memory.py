"""Memory of computations on CPUs."""

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt's parameters in glibc's malloc.h
_NEVER = 2**31 - 1  # bytes; the largest value mallopt takes


def keep_freed_memory() -> None:
    """Let malloc keep freed blocks for the next ones, as PyTorch does on GPUs, instead of returning each to the system.

    By default glibc maps every large block anew, and the system fills it with zeros page by page: a sixth of a training step,
    and of the class maps. Does nothing where the C library is another.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # macOS, musl; Windows
        return
    mallopt(_MMAP_THRESHOLD, _NEVER)
    mallopt(_TRIM_THRESHOLD, _NEVER)
