"""Several processes under torchrun: who reports, and what all of them agree on. Alone, a process does so without PyTorch.

PyTorch takes seconds to import, which scripts that only read and write files save.
"""

import sys
from typing import Any


def _group() -> Any:
    """torch.distributed, if this is one of several processes that have joined; otherwise None."""
    dist = sys.modules.get("torch.distributed")
    return dist if dist and dist.is_initialized() else None


def is_main_process() -> bool:
    """Whether this is the first process, the one that reports."""
    dist = _group()
    return dist is None or dist.get_rank() == 0


def from_main(value: Any) -> Any:
    """The first process's value, in all of them."""
    dist = _group()
    if dist is None:
        return value
    values = [value]
    dist.broadcast_object_list(values, 0)
    return values[0]
