"""TensorBoard events, written at once and in order.

tensorboardX's SummaryWriter hands events to a thread: what the disk refuses there is lost, and the run then waits for ever on the
thread's queue. Its parts are used here without the thread, so that a flush means written, and a full disk is an error.
"""

import os
import time
from pathlib import Path

import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

from tool.cli import UserError
from tool.files import make_folder


class Events:
    """Writes one event file into `folder`.

    Args:
        start: step from which this run goes on. What an interrupted run in `folder` wrote for that step and later is void.

    Raises, as all methods do, UserError where the disk is full or the folder unwritable.
    """

    def __init__(self, folder: Path, start: int) -> None:
        self.folder = folder
        try:
            # The suffix tells apart files of runs that begin within one second.
            self.file = EventsWriter(str(make_folder(folder) / "events"), f".{os.getpid()}.{start}")
        except OSError as error:
            raise self._failed(error) from error
        if start:
            self._write(step=start, session_log=SessionLog(status=SessionLog.START))

    def scalar(self, tag: str, value: float, step: int) -> None:
        """One point of a curve."""
        self._write(step=step, summary=summary.scalar(tag, value))

    def image(self, tag: str, image: np.ndarray, step: int) -> None:
        """One picture, uint8 RGB (H, W, 3)."""
        self._write(step=step, summary=summary.image(tag, image, dataformats="HWC"))

    def flush(self) -> None:
        """Bring everything to the disk."""
        try:
            self.file.flush()
        except OSError as error:
            raise self._failed(error) from error

    def close(self) -> None:
        """Flush and close."""
        try:
            self.file.close()
        except OSError as error:
            raise self._failed(error) from error

    def _write(self, **content) -> None:
        try:
            self.file.write_event(Event(wall_time=time.time(), **content))
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> UserError:
        return UserError(f"cannot write TensorBoard events to {self.folder}: {error.strerror or error}")
