"""Dense CRF on small pictures, and parity figures."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import FIGURES, figure

from pseudo_label.crf import EDAM, dense_crf, with_background
from voc12.images import load_photo


def test_background_score_comes_first():
    maps = np.array([[[0.0, 0.25, 1.0]], [[0.5, 0.0, 0.75]]], np.float32)
    np.testing.assert_array_equal(with_background(maps), [[[0.5, 0.75, 0.0]], *maps])
    assert with_background(np.zeros((0, 2, 2), np.float32)).tolist() == [[[1, 1], [1, 1]]]


def test_colour_decides_between_probabilities():
    image = np.zeros((12, 16, 3), np.uint8)
    image[:, 8:] = 255
    scores = np.stack([np.full((12, 16), 0.45, np.float32), np.full((12, 16), 0.55, np.float32)])
    scores[:, :, 10:] = [[[0.9]], [[0.1]]]  # columns 8 and 9 are of the bright side's colour but lean to label 1
    result = dense_crf(image, scores)
    assert result.shape == (2, 12, 16) and result.dtype == np.float32
    np.testing.assert_allclose(result.sum(axis=0), 1, atol=1e-5)
    assert (result.argmax(axis=0) == np.array([1] * 8 + [0] * 8)).all()
    assert (dense_crf(image, np.ones((1, 12, 16), np.float32)) == 1).all()  # a photo without classes


def test_scores_are_clipped_and_not_renormalised():
    image = np.random.default_rng(0).integers(0, 255, (6, 7, 3)).astype(np.uint8)
    low, floor = np.zeros((2, 6, 7), np.float32), np.full((2, 6, 7), 1e-5, np.float32)
    low[1], floor[1] = 0.7, 0.7
    np.testing.assert_array_equal(dense_crf(image, low), dense_crf(image, floor))
    # Without pairwise steps the result is the softmax of the unary term: the scores over their sum.
    scores = np.random.default_rng(1).uniform(0.1, 0.9, (3, 6, 7)).astype(np.float32)
    unary = dense_crf(image, scores, replace(EDAM, iterations=0))
    np.testing.assert_allclose(unary, scores / scores.sum(axis=0), atol=1e-6)


@pytest.mark.parametrize(("root", "name"), FIGURES)
def test_parity(root, name):
    photo = np.array(load_photo(root / f"JPEGImages/{name}.jpg"))
    result = dense_crf(photo, with_background(figure(root, "cam", name)))
    assert np.abs(result - figure(root, "crf", name)).mean() <= 1e-5
