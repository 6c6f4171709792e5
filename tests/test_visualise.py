"""Overlays, class maps and contact sheets, pixel by pixel."""

import numpy as np
import pytest

from pseudo_label.visualise import contact_sheet, heat, overlay
from voc12.classes import PALETTE

LABEL = np.zeros((6, 8), np.uint8)
LABEL[1:5, 2:7] = 15  # a person of 4 x 5 pixels


def photo(height: int = 6, width: int = 8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


def test_overlay_blends_labels_outlines_them_and_leaves_the_background():
    picture = photo()
    drawn = overlay(picture, LABEL, PALETTE, 0.25)
    assert drawn.dtype == np.uint8
    np.testing.assert_array_equal(drawn[LABEL == 0], picture[LABEL == 0])
    np.testing.assert_array_equal(drawn[2:4, 3:6], (0.75 * picture[2:4, 3:6] + 0.25 * PALETTE[15]).round())
    drawn[2:4, 3:6] = PALETTE[15]
    np.testing.assert_array_equal(drawn[LABEL == 15], [PALETTE[15]] * 20)  # the outline
    np.testing.assert_array_equal(overlay(picture, LABEL, PALETTE, 0.0), picture)
    own = np.array([(0, 0, 0), (9, 99, 199)], np.uint8)  # of a dataset with one class
    np.testing.assert_array_equal(overlay(picture, LABEL // 15, own, 1.0)[LABEL == 15], [own[1]] * 20)


def test_heat_is_transparent_at_zero_and_goes_from_blue_to_red():
    picture = photo(1, 4)
    np.testing.assert_array_equal(heat(picture, np.array([[-1.0, 0.0, 0.3, 2.0]]))[0, :2], picture[0, :2])
    red, green, blue = heat(np.zeros((1, 1, 3), np.uint8), np.ones((1, 1)))[0, 0].tolist()
    assert red > 140 and red > 3 * green and red > 3 * blue
    red, green, blue = heat(np.zeros((1, 1, 3), np.uint8), np.full((1, 1), 0.15))[0, 0].tolist()
    assert blue > red and blue > green


@pytest.mark.parametrize(("count", "lines", "across"), [(1, 1, 1), (3, 3, 1), (5, 3, 2)])
def test_contact_sheet_places_every_picture(count, lines, across):
    """It enlarges small pictures and shows a colour key; dollars in names enclose no formula."""
    colours = np.random.default_rng(0).choice(np.arange(110, 250), (count, 2, 3), replace=False)
    rows = [[np.full((30, 40, 3), colour, np.uint8) for colour in pair] for pair in colours]
    sheet = contact_sheet(rows, ["photo", "label"], ["$_$", *"bcde"][:count], {"$_$": PALETTE[15]})
    assert sheet.dtype == np.uint8 and sheet.shape[1] == 1000 * across
    places = []
    for colour in colours.reshape(-1, 3):
        found = np.argwhere((sheet == colour).all(axis=2))
        assert len(found) > 450 * 330  # whole, and nothing drawn over it
        places.append(found.min(axis=0).tolist())
    assert len({top for top, _ in places}) == lines and len({left for _, left in places}) == 2 * across
    assert (sheet[: places[0][0]] < 100).all(axis=2).any()  # headings
    assert (sheet == PALETTE[15]).all(axis=2).sum() > 100
