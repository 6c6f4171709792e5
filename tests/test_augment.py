"""Augmentations of the trainings: figures of the published code, torchvision's colours, Pillow's sizes."""

import math
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from conftest import PARITY
from PIL import Image
from torchvision.transforms import functional

from network.deeplab_v2 import Net
from tool.image_ops import IMAGENET, resize_labels
from voc12.augment import LABELLED_SCALES, augment_labelled, color_jitter

FOLDER = PARITY / "deeplab_v2"
PHOTO, LABEL = (np.load(FOLDER / "salt0.npz")[f"2007_100000_{kind}"] for kind in ("image", "label"))


def test_augmentation_of_the_published_code():
    figures = np.load(FOLDER / "augment.npz")
    for i, (scale, *choices) in enumerate(figures["cases"]):  # first row, first column, mirrored
        rng = Mock(integers=Mock(side_effect=[LABELLED_SCALES.index(scale), *choices]))
        image, label = augment_labelled(PHOTO, LABEL, 97, rng, Net.input)
        np.testing.assert_allclose(image, figures[f"case{i}_image"], rtol=0, atol=1e-4)
        np.testing.assert_array_equal(label, figures[f"case{i}_label"])
        assert label.dtype == torch.uint8


def test_labels_resized_by_pillow():
    generator = np.random.default_rng(0)
    for _ in range(300):
        *shape, height, width = generator.integers(1, 400, 4).tolist()
        label = generator.integers(0, 256, shape).astype(np.uint8)
        expected = Image.fromarray(label).resize((width, height), Image.Resampling.NEAREST)
        np.testing.assert_array_equal(resize_labels(torch.from_numpy(label), (height, width)), np.array(expected))


def test_choices_are_uniform():
    """The label map holds its own column numbers, which show the choices."""
    label = np.broadcast_to(np.arange(40, dtype=np.uint8), (20, 40)).copy()
    photo = np.zeros((20, 40, 3), np.uint8)
    seen = {}
    for seed in range(2000):
        row = augment_labelled(photo, label, 20, np.random.default_rng(seed), IMAGENET)[1][0].tolist()
        seen[tuple(row)] = seen.get(tuple(row), 0) + 1
    offsets = {0.5: 1, 0.75: 11, 1.0: 21, 1.25: 31, 1.5: 41}  # positions of the crop in width int(40 * scale)
    for scale, count in offsets.items():
        width = int(40 * scale)
        wide = np.array(Image.fromarray(label).resize((width, 1), Image.Resampling.NEAREST))[0]
        for left in (0, count - 1):
            crop = tuple(wide[left : left + 20].tolist())
            for row in (crop, crop[::-1]):
                assert seen.get(row, 0) == pytest.approx(200 / count, abs=4 * math.sqrt(200 / count)), (scale, left)
    assert sum(seen.values()) == 2000


def test_jitter_of_torchvision_in_random_order():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8))
    for seed in range(20):
        rng = np.random.default_rng(seed)
        factors, turn, wanted = rng.uniform(0.7, 1.3, 3), rng.uniform(-0.1, 0.1), noise
        for step in rng.permutation(4):
            name = ("brightness", "contrast", "saturation", "hue")[step]
            wanted = getattr(functional, f"adjust_{name}")(wanted, [*factors, turn][step])
        assert np.array_equal(color_jitter(noise, np.random.default_rng(seed)), wanted)
