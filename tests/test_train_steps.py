"""The trainings' numbers: losses and weights of the scripts against plain loops, and what each position holds."""

from collections.abc import Callable, Iterable
from pathlib import Path

import devices
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from devices import limit
from PIL import Image
from torch import Tensor, nn
from training import CASES, IDS, curve

from network.losses import multi_scale_loss
from tests import small_deeplab, small_net, small_poolnet
from tool.distributed import seed_step
from tool.optim import lr_factor, make_sgd
from voc12.data import LabelledPhotos, MaskedPhotos, PairedPhotos, TrainPairs
from voc12.dataset import Dataset, label_maps

STEPS, RENEWED, LR = 6, 4, 0.003  # of PoolNet's case: three epochs of four photos; after two thirds a new Adam
POOLNET = small_poolnet.Net.func


@pytest.fixture(autouse=True)
def one_thread():
    """Compute with one thread, as the commands do: with more, sums end in other digits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def check_steps(commands, data, tmp_path) -> Callable[..., None]:
    """Compare the losses, learning rates and final weights of a case's script with those of a plain loop."""

    def check(
        name: str,
        net: nn.Module,
        optimizer_at: Callable[[int], torch.optim.Optimizer],
        shares_at: Callable[[int], Iterable[Tensor]],
        rates: list[float],
    ) -> None:
        commands.run(tmp_path, CASES[name].script, *CASES[name].flags(data))
        losses = []
        for step in range(STEPS):
            optimizer = optimizer_at(step)
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


def pairs_of(data: Path) -> TrainPairs:
    dataset = Dataset(data)
    pairs = dataset.read_pairs(data / "pairs.txt")
    labels = dataset.image_labels([i for pair in pairs for i in pair[:2]], data / "pairs.txt")
    return TrainPairs(pairs, labels, dataset, 32, 0, (32, 48))


def labelled_photos(data: Path) -> LabelledPhotos:
    dataset, labels = Dataset(data), label_maps(data / "SegmentationClass")
    return LabelledPhotos(list(IDS), dataset.photos, labels, 33, 0, small_deeplab.Net.input, dataset)


def paired_photos(data: Path) -> PairedPhotos:
    return PairedPhotos.listed({f"image/{i}.jpg": f"mask/{i}.png" for i in IDS[:4]}, data, None, 0, POOLNET.input)


def test_edam_steps(check_steps, data, device):
    """Binary cross-entropy of both photos of a pair, by SGD with a warm-up; dropout follows from seed and step."""
    net, pairs = small_net.Net().to(device).train(), pairs_of(data)
    optimizer = make_sgd(net.get_parameter_groups(), net.group_factors, 0.01, 5e-4)

    def optimizer_at(step: int) -> torch.optim.Optimizer:
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * lr_factor(step, STEPS, 4)
        return optimizer

    def shares_at(step: int) -> Iterable[Tensor]:
        images, targets = (tensor.to(device) for tensor in pairs[step])
        yield F.binary_cross_entropy_with_logits(net(images[None])[0], targets)

    check_steps("EDAM", net, optimizer_at, shares_at, [0.01 * lr_factor(step, STEPS, 4) for step in range(STEPS)])


def test_deeplab_steps(check_steps, data, device):
    """Two micro-batches of two photos a step, each a mean over its own pixels; the rate changes every ten steps."""
    net, photos = small_deeplab.Net().to(device).train(), labelled_photos(data)
    optimizer = make_sgd(net.get_parameter_groups(), net.group_factors, 0.01, 5e-4)

    def shares_at(step: int) -> Iterable[Tensor]:
        for first in (4 * step, 4 * step + 2):
            pictures, labels = map(torch.stack, zip(photos[first], photos[first + 1], strict=True))
            yield multi_scale_loss(net(pictures.to(device)), labels.to(device)) / 2

    check_steps("DeepLab", net, lambda step: optimizer, shares_at, [0.01] * STEPS)


def test_poolnet_steps(check_steps, data, device):
    """Whole photos one by one, the loss summed over pixels; after two thirds a new Adam with a tenth of the rate."""
    net, photos = small_poolnet.Net().to(device).train(), paired_photos(data)
    (parameters,) = net.get_parameter_groups()
    adams = [torch.optim.Adam(parameters, lr=lr, weight_decay=5e-4) for lr in (LR, LR / 10)]

    def shares_at(step: int) -> Iterable[Tensor]:
        for picture, mask in (photos[2 * step], photos[2 * step + 1]):
            logits = net(picture[None].to(device))
            yield F.binary_cross_entropy_with_logits(logits, mask[None].to(device), reduction="sum") / 2

    rates = [LR] * RENEWED + [LR / 10] * (STEPS - RENEWED)
    check_steps("PoolNet", net, lambda step: adams[step >= RENEWED], shares_at, rates)


def test_batch_norms_that_learn(commands, data, tmp_path):
    for name, more in (("frozen", ()), ("learned", ("--no-freeze_bn",))):
        commands.run(tmp_path, "train_deeplab.py", *CASES["DeepLab"].flags(data, *more, "--session_name", name))
    frozen, learned = (
        torch.load(tmp_path / f"checkpoints/{name}/{name}.pth", weights_only=True) for name in ("frozen", "learned")
    )
    torch.manual_seed(0)
    initial = small_deeplab.Net().state_dict()
    norms = [name for name in frozen if "bn." in name and not name.endswith("tracked")]
    assert all(torch.equal(frozen[name], initial[name]) for name in norms)
    assert not any(torch.equal(frozen[name], learned[name]) for name in norms)


def test_micro_batches_of_crops(commands, data, tmp_path):
    (tmp_path / "list.txt").write_text("\n".join(IDS[:4]))
    (tmp_path / "JPEGImages").symlink_to(data / "image")
    flags = f"--voc12_root . --mask_dir {data}/label --train_list list.txt --network tests.small_poolnet "
    flags += "--crop_size 112 --batch_size 4 --max_epoches 1 --amp bf16 --num_workers 0"
    losses = []
    for count in (1, 2):
        more = ("--iter_size", count, "--session_name", f"s{count}")
        commands.run(tmp_path, "train_sal.py", *flags.split(), *more)
        losses.append(curve(tmp_path / f"runs/s{count}", "Train/Loss")[0])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.parametrize("make", [labelled_photos, paired_photos])
def test_each_photo_once_an_epoch(make, data):
    photos = make(data)
    count = len(photos)
    epochs = [[photos.ids_at(n)[0] for n in range(start, start + count)] for start in (0, count, 2 * count)]
    assert len(set(map(tuple, epochs))) == 3
    for epoch, order in enumerate(epochs):  # as resumed runs of earlier versions expect
        assert order == [photos.ids[place] for place in np.random.default_rng([0, epoch]).permutation(count)]
    first = photos[0][0]
    assert torch.equal(first, make(data)[0][0])
    again = [photos[count * epoch + order.index(epochs[0][0])][0] for epoch, order in enumerate(epochs)]
    assert not all(torch.equal(first, picture) for picture in again)


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
    for i in IDS[:4]:
        label, mask = np.array(Image.open(data / f"label/{i}.png")), photos.load(i)[1]
        assert (mask == np.select([label == 255, label > 0], [-1, 1], 0)).all() and (mask < 0).any()
    for position in range(4):
        picture, target = photos[position]
        assert picture.shape == (3, 140, 140) and target.shape == (1, 140, 140)
        height = Image.open(data / f"image/{photos.ids_at(position)[0]}.jpg").height
        assert (target[0, height:] == -1).all() and (picture[:, height:] == 0).all()
        assert (target[0, :height] >= 0).any()
