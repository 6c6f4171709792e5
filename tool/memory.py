"""Memory of computations on CPUs."""

import ctypes
import sys

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


def give_back_freed_memory() -> None:
    """Hand the freed blocks that malloc keeps back to the system. Does nothing with C libraries other than glibc.

    An aligned block does not fit where one of its size was freed, so that what a loop takes and frees grows as it goes on.
    """
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        return
