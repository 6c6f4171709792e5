"""Progress bar, log file and TensorBoard curves of a training run."""

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tqdm import tqdm

from tool.cli import UserError
from tool.files import back_up, make_folder


class Monitor:
    """Reports the steps start..max_step-1 of a run. Its methods raise UserError if the disk is full.

    Events are written without tensorboardX's SummaryWriter: its thread would lose them on a full disk, then hang.

    Args:
        args: flags with session_name, log_dir, batch_size.
        session: the run's folder, for train.log; it and its events are backed up unless this run `resumes` them.
        start: first step; events of an interrupted run from this step on are void.
        photos: photos in one item of a batch.
    """

    def __init__(
        self, args: argparse.Namespace, session: Path, resumes: bool, start: int, max_step: int, photos: int
    ) -> None:
        self.events_dir, self.log_path = Path(args.log_dir, args.session_name), session / "train.log"
        self.max_step, self.photos = max_step, photos * args.batch_size
        backup = None if resumes else back_up(session)
        if not resumes:
            back_up(self.events_dir)
        make_folder(session)
        with _writing(self.events_dir):
            # The suffix distinguishes runs that start within one second.
            self.writer = EventsWriter(str(make_folder(self.events_dir) / "events"), f".{os.getpid()}.{start}")
        if start:
            self._event(step=start, session_log=SessionLog(status=SessionLog.START))
        self.bar = tqdm(total=max_step, initial=start, unit="step", dynamic_ncols=True)
        self.last_line = (time.monotonic(), start)  # in the log
        if backup:
            self.say(f"{session}: an earlier run is kept as {backup}. To resume it, use --resume {backup}.")

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
        """Write buffered events to the disk. To be called before a state is saved: a resumed run's curves then have no gap."""
        with _writing(self.events_dir):
            self.writer.flush()

    def close(self) -> None:
        """Finish the bar and the files. Events that a full disk does not take are lost."""
        self.bar.close()
        with contextlib.suppress(OSError):
            self.writer.close()

    def _event(self, **content) -> None:
        with _writing(self.events_dir):
            self.writer.write_event(Event(wall_time=time.time(), **content))

    def _log(self, text: str) -> None:
        with _writing(self.log_path), open(self.log_path, "a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Raise UserError naming `path` in place of an OSError."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
