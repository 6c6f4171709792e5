"""Main process under torchrun, without importing PyTorch, which takes seconds that scripts without a network save."""

import sys
from collections.abc import Callable
from typing import Any

from tool.cli import UserError

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


def on_main(compute: Callable[[], Any]) -> Any:
    """Return the value that the main process alone computes, or raise its UserError, in all processes."""
    value: Any = None
    if is_main_process():
        try:
            value = compute()
        except UserError as error:
            value = error
    value = from_main(value)
    if isinstance(value, UserError):
        raise value
    return value
