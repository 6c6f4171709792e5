"""Class names and palette against the devkit's."""

import numpy as np
import pytest
from PIL import Image
from voc12_devkit import SHARED

from tool import VOID
from voc12.classes import CLASSES, LABELS, PALETTE


def test_names_are_the_devkits_in_alphabetical_order():
    assert len(CLASSES) == 20
    assert sorted(CLASSES) == list(CLASSES)
    assert (CLASSES[0], CLASSES[14], CLASSES[19]) == ("aeroplane", "person", "tvmonitor")
    assert LABELS[0] == "background"
    assert LABELS[15] == "person"


def test_palette_holds_the_known_colours_of_the_devkit():
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 4: (0, 0, 128), 8: (64, 0, 0), 15: (192, 128, 128)}
    known |= {20: (0, 64, 128), VOID: (224, 224, 192)}
    assert {value: tuple(PALETTE[value].tolist()) for value in known} == known
    assert (PALETTE.shape, PALETTE.dtype) == ((256, 3), np.uint8)


@pytest.mark.skipif(not (SHARED / "voc12_mini").exists(), reason="needs ../shared/voc12_mini")
def test_palette_is_that_of_a_real_mask():
    image = Image.open(SHARED / "voc12_mini/VOC2012/SegmentationClass/2007_000032.png")
    colours = np.array(image.getpalette()).reshape(-1, 3)
    values = np.unique(np.array(image))
    assert np.array_equal(colours[values], PALETTE[values])
