"""`tests.small_net` that fails as the environment variable FAIL says: "kill 1 7", kind, rank and number of forward passes."""

import os
import signal
import time
from pathlib import Path

import torch

from tests import small_net


class Net(small_net.Net):
    """`--network tests.failing_net`. Kinds: kill; error; deaf: an error, while the other rank hears nothing, as if on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.passes = 0
        Path(f"process{os.environ['RANK']}").write_text(str(os.getpid()))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        kind, rank, number = os.environ["FAIL"].split()
        if self.passes == int(number) and rank == os.environ["RANK"]:
            Path("failed").touch()
            if kind == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ZeroDivisionError("made to fail")
        if self.passes == int(number) and kind == "deaf":
            time.sleep(100)
        return super().forward(images)
