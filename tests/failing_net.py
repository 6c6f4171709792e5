"""`tests.small_net` that fails as the environment variable FAIL says: "SIGKILL 1 7", kind, rank and number of forward passes."""

import errno
import os
import signal
import time
from pathlib import Path

import torch

from tests import small_net


class Net(small_net.Net):
    """`--network tests.failing_net`. Kinds: a signal's name; full, of a disk; error; deaf: the other rank hears nothing of it."""

    def __init__(self) -> None:
        super().__init__()
        self.passes = 0
        Path(f"process{os.environ['RANK']}").write_text(str(os.getpid()))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        kind, rank, number = os.environ["FAIL"].split()
        if self.passes == int(number) and rank == os.environ["RANK"]:
            Path("failed").touch()
            if kind == "full":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "file")
            if kind in ("error", "deaf"):
                raise ZeroDivisionError("made to fail")
            os.kill(os.getpid(), signal.Signals[kind])
        elif self.passes == int(number) and kind == "deaf":
            time.sleep(100)
        return super().forward(images)
