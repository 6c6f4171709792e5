"""What is done with a photo and its label map: augmentation, resizing, losses."""

import math

import numpy as np
import pytest
import torch
from conftest import PARITY
from PIL import Image

from network.deeplab_v2 import Net
from network.segmentation_loss import balanced_cross_entropy, cross_entropy, multi_scale_loss
from tool.image_ops import IMAGENET, Normalization, resize_labels
from voc12.augment import augment_labelled, augment_labelled_at

FOLDER = PARITY / "deeplab_v2"
PHOTO, LABEL = (np.load(FOLDER / "salt0.npz")[f"2007_100000_{kind}"] for kind in ("image", "label"))
PLAIN = Normalization("RGB", (0.0, 0.0, 0.0))


def test_augmentation_is_the_published_one():
    figures = np.load(FOLDER / "augment.npz")
    for i, (scale, top, left, mirror) in enumerate(figures["cases"]):
        image, label = augment_labelled_at(PHOTO, LABEL, scale, int(top), int(left), bool(mirror), 97, Net.input)
        np.testing.assert_allclose(image, figures[f"case{i}_image"], rtol=0, atol=1e-4)
        np.testing.assert_array_equal(label, figures[f"case{i}_label"])
        assert label.dtype == torch.uint8


def test_labels_are_resized_as_pillow_does():
    generator = np.random.default_rng(0)
    for _ in range(300):
        height, width, h, w = (int(n) for n in generator.integers(1, 400, 4))
        label = generator.integers(0, 256, (height, width)).astype(np.uint8)
        expected = np.array(Image.fromarray(label).resize((w, h), Image.Resampling.NEAREST))
        np.testing.assert_array_equal(resize_labels(torch.from_numpy(label), (h, w)), expected)


def test_augmentation_follows_from_the_generator():
    def drawn(seed):
        return augment_labelled(PHOTO, LABEL, 65, np.random.default_rng(seed), Net.input)

    first, again = drawn(0), drawn(0)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert len({tuple(drawn(seed)[1].flatten().tolist()) for seed in range(20)}) == 20


def test_every_choice_is_drawn_about_as_often():
    """A label map that holds its own column numbers tells what was chosen."""
    label = np.broadcast_to(np.arange(40, dtype=np.uint8), (20, 40)).copy()
    photo = np.zeros((20, 40, 3), np.uint8)
    seen = {}
    for seed in range(2000):
        row = augment_labelled(photo, label, 20, np.random.default_rng(seed), PLAIN)[1][0].tolist()
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


def test_padding_is_void_and_the_mean_colour():
    image, label = augment_labelled_at(PHOTO[:4, :6], LABEL[:4, :6], 1.0, 0, 0, False, 8, Net.input)
    assert (label[4:] == 255).all() and (label[:, 6:] == 255).all()
    assert (image[:, 4:] == 0).all() and (image[:, :, 6:] == 0).all()
    np.testing.assert_array_equal(label[:4, :6], LABEL[:4, :6])


def test_statistics():
    photo = torch.from_numpy(PHOTO)
    imagenet = (PHOTO / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    np.testing.assert_allclose(IMAGENET.normalise(photo).permute(1, 2, 0), imagenet, rtol=0, atol=1e-5)
    expected = PHOTO[..., ::-1].astype(np.float64) - (104.008, 116.669, 122.675)
    np.testing.assert_allclose(Net.input.normalise(photo).permute(1, 2, 0), expected, rtol=0, atol=1e-5)


def slow_loss(logits: np.ndarray, labels: np.ndarray, balanced: bool) -> float:
    """Pixel by pixel, in float64."""
    lost: dict[bool, list[float]] = {False: [], True: []}
    height, width = logits.shape[2:]
    for n in range(len(labels)):
        for y in range(height):
            for x in range(width):
                at = math.floor((y + 0.5) * labels.shape[1] / height), math.floor((x + 0.5) * labels.shape[2] / width)
                label = int(labels[n][at])
                if label != 255:
                    scores = logits[n, :, y, x].astype(np.float64)
                    lost[balanced and label > 0].append(math.log(np.exp(scores).sum()) - scores[label])
    parts = [sum(part) / len(part) if part else 0.0 for part in lost.values()]
    return sum(parts) / 2 if balanced else parts[0]


@pytest.mark.parametrize("balanced", [False, True])
def test_losses_against_a_slow_reference(balanced):
    generator = np.random.default_rng(0)
    labels = generator.choice(np.array([0, 0, 0, 1, 2, 255], np.uint8), (2, 21, 17))
    maps = [generator.normal(size=(2, 3, h, w)).astype(np.float32) for h, w in ((7, 5), (4, 3), (9, 6))]
    loss = multi_scale_loss([torch.from_numpy(map_) for map_ in maps], torch.from_numpy(labels), balanced)
    assert loss.item() == pytest.approx(sum(slow_loss(map_, labels, balanced) for map_ in maps), rel=1e-6)


def test_a_map_without_known_pixels_costs_nothing():
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    void = torch.full((2, 8, 8), 255, dtype=torch.uint8)
    for balanced in (False, True):
        loss = multi_scale_loss([logits], void, balanced)
        loss.backward()
        assert loss.item() == 0 and (logits.grad == 0).all()
    background = torch.zeros(2, 4, 4, dtype=torch.uint8)
    half = cross_entropy(logits, background).item() / 2
    assert balanced_cross_entropy(logits, background).item() == pytest.approx(half, rel=1e-6)
