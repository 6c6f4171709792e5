"""Overlays, class maps and contact sheets, pixel by pixel."""

import numpy as np

from pseudo_label.visualise import PAPER, contact_sheet, heat, outline, overlay, with_legend
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
    np.testing.assert_array_equal(drawn[outline(LABEL) & (LABEL == 15)], [PALETTE[15]] * 14)
    np.testing.assert_array_equal(drawn[2:4, 3:6], (0.75 * picture[2:4, 3:6] + 0.25 * PALETTE[15]).round())
    np.testing.assert_array_equal(overlay(picture, LABEL, PALETTE, 0.0), picture)
    np.testing.assert_array_equal(overlay(picture, LABEL, PALETTE, 1.0)[LABEL == 15], [PALETTE[15]] * 20)
    own = np.array([(0, 0, 0), (9, 99, 199)], np.uint8)  # of a dataset with one class
    np.testing.assert_array_equal(overlay(picture, LABEL // 15, own, 1.0)[LABEL == 15], [own[1]] * 20)


def test_heat_is_transparent_at_zero_and_goes_from_blue_to_red():
    picture = photo(1, 4)
    drawn = heat(picture, np.array([[-1.0, 0.0, 0.3, 2.0]]), opacity=1.0)
    assert drawn.shape == (1, 4, 3) and drawn.dtype == np.uint8
    np.testing.assert_array_equal(drawn[0, :2], picture[0, :2])
    red, green, blue = heat(np.zeros((1, 1, 3), np.uint8), np.ones((1, 1)), opacity=1.0)[0, 0].tolist()
    assert red > 200 and red > 3 * green and red > 3 * blue
    red, green, blue = heat(np.zeros((1, 1, 3), np.uint8), np.full((1, 1), 0.15), opacity=1.0)[0, 0].tolist()
    assert blue > red and blue > green
    np.testing.assert_array_equal(heat(picture, np.ones((1, 4)), opacity=0.0), picture)


def test_contact_sheet_places_every_picture():
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0), (0, 250, 250), (250, 0, 250)]
    flat = [np.full((30, 40, 3), colour, np.uint8) for colour in colours]
    rows = [flat[0:2], flat[2:4], flat[4:6]]
    for across, lines in ((1, 3), (2, 2)):
        sheet = contact_sheet(rows, ["photo", "label"], ["a", "b", "c"], cell=(40, 30), across=across)
        assert sheet.dtype == np.uint8 and sheet.ndim == 3
        places = []
        for colour in colours:
            found = np.argwhere((sheet == colour).all(axis=2))
            assert len(found) == 30 * 40  # whole, and nothing drawn over it
            places.append(found.min(axis=0).tolist())
        assert len({top for top, _ in places}) == lines and len({left for _, left in places}) == 2 * across
        assert (sheet[:2] == PAPER).all() and (sheet[:, :2] == PAPER).all()
        ink = (sheet < 100).all(axis=2)
        assert ink.any()  # headings
        assert not ink[places[0][0] :][: 30 * lines].any(axis=1)[:30].any()


def test_picture_with_legend_is_enlarged_but_never_reduced():
    key = {"person": PALETTE[15]}
    small, large = with_legend(photo(30, 40), key, least=80), with_legend(photo(30, 400), key, least=80)
    assert small.shape[1] == 80 and small.shape[0] > 60 and large.shape[1] == 400
    np.testing.assert_array_equal(large[:30], photo(30, 400))
    assert (large[30:] == PALETTE[15]).all(axis=2).sum() == 14 * 14
