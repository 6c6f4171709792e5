"""What a training run shows: the progress bar, its log file, and TensorBoard."""

import argparse
import logging
import sys
import time
from pathlib import Path

import numpy as np
from tensorboardX import SummaryWriter
from torch import nn
from tqdm import tqdm

from tool.checkpoint import set_aside
from tool.errors import UserError
from tool.files import make_folder
from tool.images import load_photo
from tool.inference import class_maps
from tool.transforms import views
from tool.visualise import heat


class Monitor:
    """Reports a run's steps start..max_step-1.

    Args:
        args: the script's flags: session_name, log_dir, batch_size.
        session: the run's folder, for train.log. Unless this run continues what is in it, that is set aside, with its events.
    """

    def __init__(self, args: argparse.Namespace, session: Path, continues: bool, start: int, max_step: int) -> None:
        events = Path(args.log_dir, args.session_name)
        aside = None if continues else set_aside(session)
        if not continues:
            set_aside(events)
        make_folder(session)
        try:
            self.log_file = logging.FileHandler(session / "train.log")
            self.writer = SummaryWriter(str(events), purge_step=start or None)
        except OSError as error:
            raise UserError(f"cannot write {error.filename}: {error.strerror}") from error
        self.log_file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        self.max_step, self.batch_size = max_step, args.batch_size
        self.bar = tqdm(total=max_step, initial=start, unit="step", dynamic_ncols=True)
        self.lines_every = max(1, max_step // 200)
        self.since = (time.monotonic(), start)
        if aside:
            self.say(f"an earlier run is kept in {aside}; an interrupted run goes on with --resume")

    def say(self, message: str) -> None:
        """One line to the terminal and the log file."""
        self.bar.write(message, file=sys.stdout)
        sys.stdout.flush()
        self.write(message)

    def write(self, message: str) -> None:
        """One line to the log file alone."""
        self.log_file.handle(logging.makeLogRecord({"msg": message}))

    def step(self, step: int, loss: float, lr: float) -> None:
        """Report a finished step: scalars at every step, speed about 200 times in a run."""
        self.writer.add_scalar("Train/Loss", loss, step)
        self.writer.add_scalar("Lr", lr, step)
        self.bar.update()
        done = step + 1
        if done % self.lines_every == 0 or done == self.max_step:
            now, (then, before) = time.monotonic(), self.since
            speed = 2 * self.batch_size * (done - before) / max(now - then, 1e-9)
            self.since = (now, done)
            text = f"loss {loss:.4f}, lr {lr:.2e}, {speed:.1f} images/s"
            self.bar.set_postfix_str(text)
            self.write(f"step {done}/{self.max_step}, {text}")

    def class_maps(
        self,
        step: int,
        net: nn.Module,
        photos: list[tuple[Path, list[int]]],
    ) -> None:
        """Show the class maps, at scale 1, of a few photos (path, classes). The network's mode is left as it was."""
        device, training = next(net.parameters()).device, net.training
        net.eval()
        for path, classes in photos:
            photo = load_photo(path)
            maps = class_maps(net, views(photo, (1.0,)), classes, photo.size[::-1], device).cpu().numpy()
            pictures = [np.array(photo), *(heat(np.array(photo), class_map) for class_map in maps)]
            self.writer.add_image(f"Class maps/{path.stem}", np.hstack(pictures), step, dataformats="HWC")
        net.train(training)

    def close(self) -> None:
        """Finish the bar and flush the files."""
        self.bar.close()
        self.writer.close()
        self.log_file.close()
