"""Main process under torchrun, without importing PyTorch, which takes seconds that scripts without a network save."""

import sys
from typing import Any

patient_group: Any = None  # of all processes, whose waits last for days; set by distributed.setup


def _process_group() -> Any:
    """Return torch.distributed if this process has joined a group, else None."""
    dist = sys.modules.get("torch.distributed")
    return dist if dist and dist.is_initialized() else None


def is_main_process() -> bool:
    """Return whether this is rank 0, the process that checks, prints and writes. It is without torchrun."""
    dist = _process_group()
    return dist is None or dist.get_rank() == 0


def from_main(value: Any) -> Any:
    """Return the main process's value in all processes."""
    dist = _process_group()
    if dist is None:
        return value
    values = [value]
    dist.broadcast_object_list(values, 0, patient_group)
    return values[0]
