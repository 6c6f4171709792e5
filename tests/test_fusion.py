"""Fusion of scores and saliency into label maps."""

import numpy as np
import pytest
from conftest import FIGURES, figure

from pseudo_label.fusion import pseudo_label, restore_classes
from voc12.images import load_grey
from voc12.labels import read_annotation


def plane(*values: float) -> np.ndarray:
    return np.array([values], np.float32)


def test_labels_by_hand():
    scores = np.stack([plane(0.4, 0.5, 0.6, 0.6, 0.2), plane(0.3, 0.1, 0.7, 0.6, 0.51)])
    label = pseudo_label(scores, np.array([3, 14]), theta=0.5)
    # below, tie with the background, second class, tie of classes, second class
    assert label.dtype == np.uint8 and label.tolist() == [[0, 0, 15, 4, 15]]
    scores = np.stack([plane(0.2, 0.5, 0.4), plane(0.1, 0.0, 0.4)])
    label = pseudo_label(scores, np.array([0, 19]), background=plane(0.7, 0.5, 0.2), theta=0.9, alpha=0.45, beta=0.1)
    assert label.tolist() == [[0, 0, 1]]


def test_saliency_replaces_the_background():
    #               not salient | at the limit | salient | salient, below alpha | not salient, above beta
    score = plane(0.9, 0.9, 0.1, 0.05, 0.99)
    saliency = np.array([[0, 20, 21, 255, 0]], np.uint8)
    options = {"saliency": saliency, "theta": 0.2, "alpha": 0.06, "beta": 0.95}
    before = score.copy()
    for background in ({}, {"background": plane(1, 1, 1, 1, 1)}):  # the CRF's own
        assert pseudo_label(score[None], np.array([6]), **background, **options).tolist() == [[0, 0, 7, 0, 7]]
    np.testing.assert_array_equal(score, before)
    # Scores equal to alpha or beta follow saliency; so does 1.0, which is not above the default beta.
    options = {"saliency": np.array([[255, 0, 0]], np.uint8), "alpha": np.float32(0.1), "beta": np.float32(0.9)}
    assert pseudo_label(plane(0.1, 0.9, 0.91)[None], np.array([6]), **options).tolist() == [[7, 0, 7]]
    assert pseudo_label(plane(1.0)[None], np.array([0]), saliency=np.zeros((1, 1), np.uint8)).tolist() == [[0]]


def test_classes_that_saliency_removed_are_restored():
    generator = np.random.default_rng(0)
    for share in (0.0, 0.1, 0.5, 1.0):
        plain = generator.integers(0, 4, (8, 9), np.uint8) * 5
        salient = np.where(plain == 5, generator.random((8, 9)) < 0.05, generator.random((8, 9)) < 0.6)
        fused = np.where(salient, plain, np.uint8(0))
        expected = fused.copy()
        for label in (5, 10, 15):
            kept = sum(value == label for value in fused.flat)
            if kept < share * sum(value == label for value in plain.flat):
                expected[plain == label] = label
        np.testing.assert_array_equal(restore_classes(fused, plain, share), expected)
        assert (expected != fused).any() == (share > 0)
    one_class = np.full((2, 2), 7, np.uint8)
    assert not restore_classes(np.zeros_like(one_class), one_class, 1.0).any()


@pytest.mark.parametrize("n", [0, 1, 2, 5, 20])
def test_equals_argmax_with_the_background_in_front(n):
    generator = np.random.default_rng(n)
    scores = (generator.integers(0, 11, (n, 20, 30)) / 10).astype(np.float32)  # many ties
    saliency = generator.integers(0, 255, (20, 30)).astype(np.uint8)
    crf = generator.integers(0, 11, (20, 30)).astype(np.float32) / 10
    classes = np.sort(generator.permutation(20)[:n])
    values = np.array([0, *(classes + 1)])
    suppressed = np.where(scores < 0.25, -2, np.where(scores > 0.85, 2, scores))
    for options, background, class_scores in (
        ({"theta": 0.5}, np.full((20, 30), 0.5, np.float32), scores),
        ({"background": crf}, crf, scores),
        ({"saliency": saliency, "theta": 1.1, "alpha": 0.25, "beta": 0.85}, saliency <= 1.1 * 100, suppressed),
    ):
        expected = values[np.argmax(np.concatenate([background[None], class_scores]), axis=0)]
        np.testing.assert_array_equal(pseudo_label(scores, classes, **options), expected)


@pytest.mark.parametrize(("root", "name"), FIGURES)
def test_parity(root, name):
    saliency = {"saliency": load_grey(root / f"saliency/{name}.png"), "theta": 0.2, "alpha": 0.000001, "beta": 0.99999}
    classes = np.flatnonzero(read_annotation(root / f"Annotations/{name}.xml"))
    maps, (background, *crf) = figure(root, "cam", name), figure(root, "crf", name)
    for kind, scores, options in (
        ("cam_png_theta0.5", maps, {"theta": 0.5}),
        ("cam_png_saliency", maps, saliency),
        ("crf_png", np.array(crf), {"background": background}),
        ("crf_png_saliency", np.array(crf), {"background": background, **saliency}),
    ):
        np.testing.assert_array_equal(pseudo_label(scores, classes, **options), figure(root, kind, name), err_msg=kind)
