"""TensorBoard events are on the disk when they are said to be, and void where a run goes on from an earlier step."""

import io
import resource

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training import curve

from tool.cli import UserError
from tool.events import Events


def test_steps_done_again_replace_the_first_ones(tmp_path):
    killed = Events(tmp_path, 0)
    for step in range(8):
        killed.scalar("Train/Loss", step, step)
    killed.flush()  # and no close
    resumed = Events(tmp_path, 5)
    for step in range(5, 7):
        resumed.scalar("Train/Loss", 10 + step, step)
    resumed.close()
    assert curve(tmp_path, "Train/Loss") == {0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 5: 15, 6: 16}


def test_an_image_arrives_as_it_is(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    events = Events(tmp_path, 0)
    events.image("Class_maps/a", picture, 3)
    events.close()
    found = EventAccumulator(str(tmp_path)).Reload().Images("Class_maps/a")[0]
    assert found.step == 3 and (np.array(Image.open(io.BytesIO(found.encoded_image_string))) == picture).all()


def test_a_full_disk_is_an_error_at_once(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    events = Events(tmp_path / "runs", 0)
    events.flush()
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        events.scalar("Lr", 1.0, 0)
        events.scalar("Lr", 1.0, 1)
        with pytest.raises(UserError, match=r"^cannot write TensorBoard events to .*runs: File too large$"):
            events.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
