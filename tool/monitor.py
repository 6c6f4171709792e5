"""What a training run shows: the progress bar, its log file, and TensorBoard."""

import argparse
import contextlib
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tool.checkpoint import set_aside
from tool.cli import UserError
from tool.events import Events
from tool.files import make_folder

FLUSH_SECONDS = 20


class Monitor:
    """Reports a run's steps start..max_step-1. Its methods raise UserError where the disk is full.

    Args:
        args: the script's flags: session_name, log_dir, batch_size.
        session: the run's folder, for train.log. Unless this run continues what is in it, that is set aside, with its events.
        photos: in one item of a batch.
    """

    def __init__(
        self, args: argparse.Namespace, session: Path, continues: bool, start: int, max_step: int, photos: int
    ) -> None:
        folder = Path(args.log_dir, args.session_name)
        aside = None if continues else set_aside(session)
        if not continues:
            set_aside(folder)
        self.log_path = make_folder(session) / "train.log"
        self.write("")
        self.events = Events(folder, start)
        self.flushed = time.monotonic()
        self.max_step, self.photos = max_step, photos * args.batch_size
        self.bar = tqdm(total=max_step, initial=start, unit="step", dynamic_ncols=True)
        self.lines_every = max(1, max_step // 200)
        self.since = (time.monotonic(), start)
        if aside:
            self.say(f"an earlier run is kept in {aside}; an interrupted run goes on with --resume")

    def say(self, message: str) -> None:
        """One line to the terminal and the log file."""
        self.bar.write(message, file=sys.stdout)
        sys.stdout.flush()
        self.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {message}\n")

    def write(self, text: str) -> None:
        """Add to the log file alone."""
        try:
            with open(self.log_path, "a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise UserError(f"cannot write {self.log_path}: {error.strerror}") from error

    def step(self, step: int, loss: float, lr: float) -> None:
        """Report a finished step: on the bar and in TensorBoard each one, in the log file about 200 of a run."""
        self.events.scalar("Train/Loss", loss, step)
        self.events.scalar("Lr", lr, step)
        done, now = step + 1, time.monotonic()
        if now - self.flushed > FLUSH_SECONDS:
            self.flush()
        then, before = self.since
        speed = self.photos * (done - before) / max(now - then, 1e-9)
        text = f"loss {loss:.4f}, lr {lr:.2e}, {speed:.1f} images/s"
        self.bar.set_postfix_str(text, refresh=False)
        self.bar.update()
        if done % self.lines_every == 0 or done == self.max_step:
            self.since = (now, done)
            self.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} step {done}/{self.max_step}, {text}\n")

    def pictures(self, step: int, pictures: Iterable[tuple[str, np.ndarray]]) -> None:
        """Show pictures, (name, uint8 RGB (H, W, 3))."""
        for name, picture in pictures:
            self.events.image(name, picture, step)

    def flush(self) -> None:
        """Bring the events to the disk: before a state is saved, or the curves of a killed and resumed run had gaps."""
        self.events.flush()
        self.flushed = time.monotonic()

    def close(self) -> None:
        """Finish the bar and the files. After a failure, what can't be written any more is left."""
        self.bar.close()
        with contextlib.suppress(UserError):
            self.events.close()
