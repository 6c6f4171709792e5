"""Progress bar, log file and TensorBoard curves of a training run."""

import contextlib
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tqdm import tqdm

from tool.files import make_folder, writing


class Monitor:
    """Reports the steps start..max_step-1 of a run. Its methods raise UserError if the disk is full.

    Events of an interrupted run from step `start` on are void. A step has `photos` photos. Events are written without
    tensorboardX's SummaryWriter: its thread would lose them on a full disk, then hang.
    """

    def __init__(self, log_path: Path, events_dir: Path, start: int, max_step: int, photos: int) -> None:
        self.log_path, self.events_dir, self.max_step, self.photos = log_path, events_dir, max_step, photos
        with writing(self.events_dir):
            # The suffix distinguishes runs that start within one second.
            self.writer = EventsWriter(str(make_folder(self.events_dir) / "events"), f".{os.getpid()}.{start}")
        if start:
            self._event(step=start, session_log=SessionLog(status=SessionLog.START))
        self.bar = tqdm(total=max_step, initial=start, unit="step", dynamic_ncols=True)
        self.last_line = (time.monotonic(), start)  # in the log

    def say(self, message: str) -> None:
        """Write a line to the terminal and to the log file."""
        self.bar.write(message, file=sys.stdout)
        sys.stdout.flush()
        self._log(message)

    def step(self, step: int, loss: float, lr: float, more: str = "") -> None:
        """Report a finished step: on the bar and in TensorBoard; in the log file about 200 times a run."""
        self._event(step=step, summary=summary.scalar("Train/Loss", loss))
        self._event(step=step, summary=summary.scalar("Lr", lr))
        done, now = step + 1, time.monotonic()
        then, before = self.last_line
        speed = self.photos * (done - before) / max(now - then, 1e-9)
        text = f"loss {loss:.4f}, lr {lr:.2e}, {speed:.1f} images/s{more}"
        self.bar.set_postfix_str(text, refresh=False)
        self.bar.update()
        if done % max(1, self.max_step // 200) == 0 or done == self.max_step:
            self.last_line = (now, done)
            self.flush()
            self._log(f"step {done}/{self.max_step}, {text}")

    def pictures(self, step: int, pictures: Iterable[tuple[str, np.ndarray]]) -> None:
        """Show pictures in TensorBoard: (name, uint8 RGB (H, W, 3))."""
        for name, picture in pictures:
            self._event(step=step, summary=summary.image(name, picture, dataformats="HWC"))

    def flush(self) -> None:
        """Write buffered events to the disk."""
        with writing(self.events_dir):
            self.writer.flush()

    def close(self) -> None:
        """Finish the bar and the files. Events that a full disk does not take are lost."""
        self.bar.close()
        with contextlib.suppress(OSError):
            self.writer.close()

    def _event(self, **content) -> None:
        with writing(self.events_dir):
            self.writer.write_event(Event(wall_time=time.time(), **content))

    def _log(self, text: str) -> None:
        with writing(self.log_path), open(self.log_path, "a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
