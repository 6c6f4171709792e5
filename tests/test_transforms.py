"""The colour jitter of training, against torchvision's, whose import is saved."""

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import functional

from voc12.augment import color_jitter, shift_hue


@pytest.fixture
def photo() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8))


@pytest.mark.parametrize("turn", [-0.5, -0.1, -0.003, 0.0, 0.003, 0.0765, 0.1, 0.5])
def test_hue_is_shifted_as_by_torchvision(photo, turn):
    assert np.array_equal(shift_hue(photo, turn), functional.adjust_hue(photo, turn))


def test_jitter_takes_its_four_steps_in_a_random_order(photo):
    for seed in range(10):
        rng = np.random.default_rng(seed)
        factors, turn, wanted = rng.uniform(0.7, 1.3, 3), rng.uniform(-0.1, 0.1), photo
        for step in rng.permutation(4):
            name = ("brightness", "contrast", "saturation", "hue")[step]
            wanted = getattr(functional, f"adjust_{name}")(wanted, [*factors, turn][step])
        assert np.array_equal(color_jitter(photo, np.random.default_rng(seed)), wanted)
