"""The trainings' numbers: losses and weights of the scripts against plain loops, and what each position holds."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import devices
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import SHARED, needs_shared
from devices import limit
from PIL import Image
from torch import Tensor, nn
from training import CASES, IDS, curve, train_pairs

from network.losses import multi_scale_loss
from tests import small_deeplab, small_net, small_poolnet
from tool.distributed import seed_step
from tool.optim import lr_factor, make_sgd, set_learning_rate
from voc12.data import LabelledPhotos, MaskedPhotos, PairedPhotos
from voc12.dataset import Dataset, label_maps

STEPS = 6
POOLNET = small_poolnet.Net.func


@pytest.fixture(autouse=True)
def one_thread():
    """Compute with one thread, as the commands do: with more, sums round differently."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def check_steps(commands, data, tmp_path) -> Callable[..., None]:
    """Compare the losses, learning rates and final weights of a case's script with those of a plain loop."""

    def check(name: str, net: nn.Module, optimizers: list, factors: list[float], shares_at: Callable) -> None:
        commands.run(tmp_path, CASES[name].script, *CASES[name].flags(data))
        losses, rates = [], []
        for step, (optimizer, factor) in enumerate(zip(optimizers, factors, strict=True)):
            rates.append(set_learning_rate(optimizer, factor))
            seed_step(0, step, 0)
            optimizer.zero_grad()
            losses.append(0.0)
            for share in shares_at(step):
                share.backward()
                losses[-1] += share.item()
            optimizer.step()
        for tag, expected, bound in (("Train/Loss", losses, limit(1e-5)), ("Lr", rates, 1e-6)):
            found = curve(tmp_path / "runs/s", tag)
            assert list(found) == list(range(STEPS)) and list(found.values()) == pytest.approx(expected, rel=bound)
        saved = torch.load(tmp_path / "checkpoints/s/s.pth", weights_only=True)
        atol, rtol = (1e-6, 1e-5) if devices.name == "cpu" else (1e-3, 1e-3)  # as devices.same
        torch.testing.assert_close(saved, dict(net.cpu().state_dict()), rtol=rtol, atol=atol)

    torch.manual_seed(0)
    return check


def labelled_photos(data: Path) -> LabelledPhotos:
    dataset, labels = Dataset(data), label_maps(data / "SegmentationClass")
    return LabelledPhotos(list(IDS), dataset.photos, labels, 33, 0, small_deeplab.Net.input, dataset)


def paired_photos(data: Path) -> PairedPhotos:
    return PairedPhotos.listed({f"image/{i}.jpg": f"mask/{i}.png" for i in IDS[:4]}, data, None, 0, POOLNET.input)


def test_edam_steps(check_steps, data, device):
    """Binary cross-entropy of both photos of a pair, by SGD with a warm-up; dropout follows from seed and step."""
    net, pairs = small_net.Net().to(device).train(), train_pairs(data)
    optimizer = make_sgd(net.get_parameter_groups(), net.group_factors, 0.01, 5e-4)

    def shares_at(step: int) -> Iterable[Tensor]:
        images, targets = (tensor.to(device) for tensor in pairs[step])
        yield F.binary_cross_entropy_with_logits(net(images[None])[0], targets)

    check_steps("EDAM", net, [optimizer] * STEPS, [lr_factor(step, STEPS, 4) for step in range(STEPS)], shares_at)


def test_deeplab_steps(check_steps, data, device):
    """Two micro-batches of two photos a step, each a mean over its own pixels; the rate changes every ten steps."""
    net, photos = small_deeplab.Net().to(device).train(), labelled_photos(data)
    optimizer = make_sgd(net.get_parameter_groups(), net.group_factors, 0.01, 5e-4)

    def shares_at(step: int) -> Iterable[Tensor]:
        for first in (4 * step, 4 * step + 2):
            pictures, labels = map(torch.stack, zip(photos[first], photos[first + 1], strict=True))
            yield multi_scale_loss(net(pictures.to(device)), labels.to(device)) / 2

    check_steps("DeepLab", net, [optimizer] * STEPS, [1] * STEPS, shares_at)


def test_poolnet_steps(check_steps, data, device):
    """Whole photos one by one, the loss summed over pixels; after two thirds a new Adam with a tenth of the rate."""
    net, photos = small_poolnet.Net().to(device).train(), paired_photos(data)
    groups = [{"params": parameters, "initial_lr": 0.003} for parameters in net.get_parameter_groups()]
    first, second = (torch.optim.Adam(groups, weight_decay=5e-4) for _ in range(2))

    def shares_at(step: int) -> Iterable[Tensor]:
        for picture, mask in (photos[2 * step], photos[2 * step + 1]):
            logits = net(picture[None].to(device))
            yield F.binary_cross_entropy_with_logits(logits, mask[None].to(device), reduction="sum") / 2

    check_steps("PoolNet", net, [first] * 4 + [second] * 2, [1] * 4 + [0.1] * 2, shares_at)


def test_batch_norms_that_learn(commands, data, tmp_path):
    commands.run(tmp_path, "train_deeplab.py", *CASES["DeepLab"].flags(data, "--no-freeze_bn"))
    learned = torch.load(tmp_path / "checkpoints/s/s.pth", weights_only=True)
    torch.manual_seed(0)
    initial = small_deeplab.Net().state_dict()
    norms = [name for name in initial if "bn." in name and not name.endswith("tracked")]
    assert norms and not any(torch.equal(initial[name], learned[name]) for name in norms)


@needs_shared
def test_published_schedule():
    figures = json.loads((SHARED / "parity" / "train_three_steps.json").read_text())
    for max_step, rates in figures["lr_schedule_base_0.001_warmup_2000"].items():
        for step, rate in rates.items():
            assert 0.001 * lr_factor(int(step), int(max_step), 2000) == pytest.approx(rate, rel=0, abs=1e-12)


@pytest.mark.parametrize(
    ("step", "max_step", "warmup", "factor"),
    [(0, 100, 20, 0.1), (10, 100, 20, 0.55), (20, 100, 20, 1), (60, 100, 20, 0.5**0.9), (5, 10, 0, 0.5**0.9)],
)
def test_schedule_by_hand(step, max_step, warmup, factor):
    assert lr_factor(step, max_step, warmup) == pytest.approx(factor, abs=1e-12)


@pytest.mark.parametrize("make", [labelled_photos, paired_photos])
def test_each_photo_once_an_epoch(make, data):
    photos, orders = make(data), []
    for epoch in range(3):  # as resumed runs of earlier versions expect
        orders.append([photos.ids_at(epoch * len(photos) + place)[0] for place in range(len(photos))])
        assert orders[-1] == [photos.ids[n] for n in np.random.default_rng([0, epoch]).permutation(len(photos))]
    first, start = photos[0][0], orders[0][0]
    again = [photos[epoch * len(photos) + order.index(start)][0] for epoch, order in enumerate(orders)]
    assert torch.equal(first, make(data)[0][0]) and not all(torch.equal(first, picture) for picture in again)


def test_pairs_depend_on_their_position(data):
    pairs = train_pairs(data)
    images, labels = pairs[2]
    assert images.shape == (2, 3, 32, 32) and images.dtype == labels.dtype == torch.float32 and labels.shape == (2, 20)
    assert torch.equal(pairs[2][0], images)
    assert not torch.equal(pairs[2 + 3][0], images) and torch.equal(pairs[2 + 3][1], labels)  # in the next epoch


def test_grey_masks_of_whole_photos(data):
    """Photo and mask are mirrored together, and the mask is not binarised."""
    photos, mirrored = paired_photos(data), 0
    for position in range(24):
        i = Path(photos.ids_at(position)[0]).stem
        photo, mask = (np.array(Image.open(data / name)) for name in (f"image/{i}.jpg", f"mask/{i}.png"))
        picture, target = photos[position]
        if not np.array_equal(target[0].numpy(), mask / np.float32(255)):
            mirrored, photo, mask = mirrored + 1, photo[:, ::-1], mask[:, ::-1]
        assert np.array_equal(target[0].numpy(), mask / np.float32(255))
        expected = photo[:, :, ::-1].astype(np.float32) - np.float32((104.00699, 116.66877, 122.67892))
        np.testing.assert_allclose(picture.permute(1, 2, 0), expected, atol=1e-4)
    assert 4 < mirrored < 20


def test_masks_of_label_maps(data, tmp_path):
    """Any class is foreground, void is unknown, and so is the padding of crops."""
    (tmp_path / "JPEGImages").symlink_to(data / "image")
    dataset = Dataset(tmp_path)
    photos = MaskedPhotos(IDS[:4], dataset.photos, label_maps(data / "label"), 140, 0, POOLNET.input, dataset)
    for position in range(4):
        i = photos.ids_at(position)[0]
        label, mask = np.array(Image.open(data / f"label/{i}.png")), photos.load(i)[1]
        assert (mask == np.select([label == 255, label > 0], [-1, 1], 0)).all() and (mask < 0).any()
        picture, target = photos[position]
        assert picture.shape == (3, 140, 140) and target.shape == (1, 140, 140)
        assert (target[0, len(label) :] == -1).all() and (picture[:, len(label) :] == 0).all()
