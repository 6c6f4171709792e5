"""Fusion of scores and saliency into label maps."""

from pathlib import Path

import numpy as np
import pytest

from pseudo_label.fusion import background_from_saliency, check_fusion, pseudo_label, strongest, suppress
from tool.cli import UserError
from voc12.images import load_grey, load_label
from voc12.labels import read_annotation

TESTS = Path(__file__).resolve().parent
SYNTHETIC = TESTS / "parity" / "synthetic"
SHARED = TESTS.parents[1] / "shared" / "parity"
SEED_PAGE = {"theta": 0.2, "alpha": 0.000001, "beta": 0.99999}


def plane(*values: float) -> np.ndarray:
    return np.array([values], np.float32)


def test_background_score_theta():
    scores = np.stack([plane(0.4, 0.5, 0.6, 0.6, 0.2), plane(0.3, 0.1, 0.7, 0.6, 0.51)])
    label = pseudo_label(scores, np.array([3, 14]), theta=0.5)
    assert label.dtype == np.uint8
    # below, tie with the background, second class, tie of classes, second class
    assert label.tolist() == [[0, 0, 15, 4, 15]]


def test_crf_background_row():
    scores = np.stack([plane(0.2, 0.5, 0.4), plane(0.1, 0.0, 0.4)])
    label = pseudo_label(scores, np.array([0, 19]), background=plane(0.7, 0.5, 0.2), theta=0.9, alpha=0.45, beta=0.1)
    assert label.tolist() == [[0, 0, 1]]


def test_saliency_replaces_the_background():
    #               not salient | at the limit | salient | salient, below alpha | not salient, above beta
    score = plane(0.9, 0.9, 0.1, 0.05, 0.99)
    saliency = np.array([[0, 20, 21, 255, 0]], np.uint8)
    options = {"saliency": saliency, "theta": 0.2, "alpha": 0.06, "beta": 0.95}
    expected = [[0, 0, 7, 0, 7]]
    assert pseudo_label(score[None], np.array([6]), **options).tolist() == expected
    # The saliency map replaces the CRF's own background.
    assert pseudo_label(score[None], np.array([6]), background=plane(1, 1, 1, 1, 1), **options).tolist() == expected


def test_scores_equal_to_alpha_and_beta_stay():
    assert suppress(plane(0.1, 0.09, 0.9, 0.91)[None], np.float32(0.1), np.float32(0.9))[0].tolist() == [
        [np.float32(0.1), -2, np.float32(0.9), 2]
    ]
    # A score of exactly 1 ties with the background where nothing is salient.
    assert pseudo_label(plane(1.0)[None], np.array([0]), saliency=np.zeros((1, 1), np.uint8)).tolist() == [[0]]


def test_scores_are_not_changed():
    scores = np.random.default_rng(0).random((3, 4, 5)).astype(np.float32)
    before = scores.copy()
    pseudo_label(scores, np.arange(3), saliency=np.full((4, 5), 255, np.uint8), alpha=0.3, beta=0.6)
    np.testing.assert_array_equal(scores, before)


def test_photo_without_classes_is_background():
    empty = np.zeros((0, 2, 3), np.float32)
    none = np.zeros(0, np.int64)
    for options in ({}, {"saliency": np.full((2, 3), 255, np.uint8)}, {"background": np.zeros((2, 3))}):
        label = pseudo_label(empty, none, **options)
        assert label.dtype == np.uint8 and label.tolist() == [[0] * 3] * 2


@pytest.mark.parametrize("n", [1, 2, 5, 20])
def test_equals_argmax_with_the_background_in_front(n):
    generator = np.random.default_rng(n)
    scores = (generator.integers(0, 11, (n, 20, 30)) / 10).astype(np.float32)  # many ties
    saliency = generator.integers(0, 255, (20, 30)).astype(np.uint8)
    classes = np.sort(generator.permutation(20)[:n])
    values = np.array([0, *(classes + 1)])

    def argmax(background, class_scores):
        return values[np.argmax(np.concatenate([background[None], class_scores]), axis=0)]

    np.testing.assert_array_equal(
        pseudo_label(scores, classes, theta=0.5), argmax(np.full((20, 30), 0.5, np.float32), scores)
    )
    crf = generator.integers(0, 11, (20, 30)).astype(np.float32) / 10
    np.testing.assert_array_equal(pseudo_label(scores, classes, background=crf), argmax(crf, scores))
    np.testing.assert_array_equal(
        pseudo_label(scores, classes, saliency=saliency, theta=1.1, alpha=0.25, beta=0.85),
        argmax(background_from_saliency(saliency, 1.1), suppress(scores, 0.25, 0.85)),
    )
    best, label = strongest(scores, classes)
    np.testing.assert_array_equal(best, scores.max(axis=0))
    np.testing.assert_array_equal(label, classes[scores.argmax(axis=0)] + 1)


@pytest.mark.parametrize(
    ("theta", "alpha", "beta", "saliency", "keyword"),
    [
        (20, 0, 1, False, "write 0.2"),
        (1, 0, 1, False, "--theta 1"),
        (-0.1, 0, 1, False, "--theta -0.1"),
        (2.55, 0, 1, True, "below 2.55"),
        (0.2, 0.95, 0.25, True, "--alpha 0.95"),
        (0.2, 25, 95, True, "--beta 95"),
    ],
)
def test_check_fusion_rejects_other_scales(theta, alpha, beta, saliency, keyword):
    with pytest.raises(UserError, match=keyword):
        check_fusion(theta, alpha, beta, saliency=saliency)


def test_check_fusion_accepts_published_settings():
    check_fusion(2.5, 0.25, 0.95, saliency=True)
    check_fusion(**SEED_PAGE, saliency=True)
    check_fusion(0.99, 7, -7, saliency=False)  # alpha and beta do not count


def four_labels(maps: np.ndarray, crf: np.ndarray, classes: np.ndarray, saliency: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "cam_png_theta0.5": pseudo_label(maps, classes, theta=0.5),
        "cam_png_saliency": pseudo_label(maps, classes, saliency=saliency, **SEED_PAGE),
        "crf_png": pseudo_label(crf[1:], classes, background=crf[0]),
        "crf_png_saliency": pseudo_label(crf[1:], classes, background=crf[0], saliency=saliency, **SEED_PAGE),
    }


@pytest.mark.parametrize("name", ["2099_000001", "2099_000002"])
def test_parity_on_drawn_pictures(name):
    figures = np.load(SYNTHETIC / "figures.npz")
    saliency = load_grey(SYNTHETIC / "VOC2012" / "saliency" / f"{name}.png")
    classes = np.flatnonzero(read_annotation(SYNTHETIC / "VOC2012" / "Annotations" / f"{name}.xml"))
    for kind, label in four_labels(figures[f"cam_{name}"], figures[f"crf_{name}"], classes, saliency).items():
        np.testing.assert_array_equal(label, figures[f"{kind}_{name}"], err_msg=kind)


@pytest.mark.skipif(not SHARED.exists(), reason="the parity photos are not beside this checkout")
@pytest.mark.parametrize("name", ["2007_000648", "2007_001185", "2007_001377", "2007_001416"])
def test_parity_on_photos(name):
    maps = np.load(SHARED / "pseudo_labels" / "cam" / f"{name}.npz")
    crf = np.load(SHARED / "pseudo_labels" / "crf" / f"{name}.npz")["prob"]
    saliency = load_grey(SHARED / "VOC2012_small" / "saliency" / f"{name}.png")
    for kind, label in four_labels(maps["cam"], crf, maps["classes"], saliency).items():
        np.testing.assert_array_equal(label, load_label(SHARED / "pseudo_labels" / kind / f"{name}.png"), err_msg=kind)
