"""Dense CRF on small pictures, and parity figures."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pseudo_label.crf import EDAM, background_score, dense_crf, with_background
from voc12.images import load_photo

TESTS = Path(__file__).resolve().parent
SYNTHETIC = TESTS / "parity" / "synthetic"
SHARED = TESTS.parents[1] / "shared" / "parity"


def test_background_score():
    maps = np.array([[[0.0, 0.25, 1.0]], [[0.5, 0.0, 0.75]]], np.float32)
    np.testing.assert_allclose(background_score(maps), [[0.5, 0.75, 0.0]])
    np.testing.assert_allclose(background_score(maps, alpha=2), [[0.25, 0.5625, 0.0]])
    stacked = with_background(maps)
    assert stacked.shape == (3, 1, 3) and stacked.dtype == np.float32
    np.testing.assert_array_equal(stacked[1:], maps)
    assert with_background(np.zeros((0, 2, 2), np.float32)).tolist() == [[[1, 1], [1, 1]]]


def test_colour_decides_between_probabilities():
    image = np.zeros((12, 16, 3), np.uint8)
    image[:, 8:] = 255
    scores = np.stack([np.full((12, 16), 0.45, np.float32), np.full((12, 16), 0.55, np.float32)])
    scores[:, :, 10:] = [[[0.9]], [[0.1]]]  # columns 8 and 9 are of the bright side's colour but lean to label 1
    before = scores.copy()
    result = dense_crf(image, scores)
    assert result.shape == (2, 12, 16) and result.dtype == np.float32
    np.testing.assert_allclose(result.sum(axis=0), 1, atol=1e-5)
    assert (result.argmax(axis=0) == np.array([1] * 8 + [0] * 8)).all()
    np.testing.assert_array_equal(scores, before)
    np.testing.assert_array_equal(dense_crf(image, scores), result)


def test_scores_are_clipped_and_not_renormalised():
    image = np.random.default_rng(0).integers(0, 255, (6, 7, 3)).astype(np.uint8)
    low, floor = np.zeros((2, 6, 7), np.float32), np.full((2, 6, 7), 1e-5, np.float32)
    low[1], floor[1] = 0.7, 0.7
    np.testing.assert_array_equal(dense_crf(image, low), dense_crf(image, floor))
    # Without pairwise steps the result is the softmax of the unary term: the scores over their sum.
    scores = np.random.default_rng(1).uniform(0.1, 0.9, (3, 6, 7)).astype(np.float32)
    np.testing.assert_allclose(
        dense_crf(image, scores, replace(EDAM, iterations=0)), scores / scores.sum(axis=0), atol=1e-6
    )


def test_background_without_classes():
    assert (dense_crf(np.zeros((4, 5, 3), np.uint8), np.ones((1, 4, 5), np.float32)) == 1).all()


@pytest.mark.parametrize("name", ["2099_000001", "2099_000002"])
def test_parity_on_drawn_pictures(name):
    figures = np.load(SYNTHETIC / "figures.npz")
    photo = np.array(load_photo(SYNTHETIC / "VOC2012" / "JPEGImages" / f"{name}.jpg"))
    result = dense_crf(photo, with_background(figures[f"cam_{name}"]))
    assert np.abs(result - figures[f"crf_{name}"]).mean() <= 1e-5


@pytest.mark.skipif(not SHARED.exists(), reason="the parity photos are not beside this checkout")
@pytest.mark.parametrize("name", ["2007_000648", "2007_001185", "2007_001377", "2007_001416"])
def test_parity_on_photos(name):
    photo = np.array(load_photo(SHARED / "VOC2012_small" / "JPEGImages" / f"{name}.jpg"))
    maps = np.load(SHARED / "pseudo_labels" / "cam" / f"{name}.npz")["cam"]
    result = dense_crf(photo, with_background(maps))
    assert np.abs(result - np.load(SHARED / "pseudo_labels" / "crf" / f"{name}.npz")["prob"]).mean() <= 1e-5
