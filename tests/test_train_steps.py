"""The trainings' numbers: losses and weights of the scripts against plain loops, and what each position holds."""

from collections.abc import Iterable
from pathlib import Path

import devices
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from devices import limit
from PIL import Image
from torch import Tensor, nn
from training import CASES, IDS, curve, make_data

from network.losses import multi_scale_loss
from tests import small_deeplab, small_net, small_poolnet
from tool.distributed import seed_step
from tool.optim import lr_factor, make_sgd
from voc12.data import LabelledPhotos, MaskedPhotos, PairedPhotos, TrainPairs
from voc12.dataset import Dataset

STEPS, RENEWED, LR = 6, 4, 0.003  # of PoolNet's case: three epochs of four photos; after two thirds a new Adam
POOLNET = small_poolnet.Net.func


@pytest.fixture(scope="module")
def data(drawn, tmp_path_factory) -> Path:
    return make_data(drawn, tmp_path_factory.mktemp("data") / "data")


@pytest.fixture(autouse=True)
def one_thread():
    """Compute with one thread, as the commands do: with more, sums end in other digits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def run(name: str, commands, data: Path, folder: Path) -> tuple[list[float], list[float], dict[str, Tensor]]:
    """Return losses, learning rates and final weights of a case's script."""
    commands.run(folder, CASES[name].script, *CASES[name].flags(data))
    saved = torch.load(folder / "checkpoints/s/s.pth", weights_only=True)
    losses, rates = (curve(folder / "runs/s", tag) for tag in ("Train/Loss", "Lr"))
    assert list(losses) == list(rates) == list(range(STEPS))
    return list(losses.values()), list(rates.values()), saved


def check_weights(net: nn.Module, saved: dict[str, Tensor]) -> None:
    atol, rtol = (1e-6, 1e-5) if devices.name == "cpu" else (1e-3, 1e-3)  # as devices.same
    for name, tensor in net.cpu().state_dict().items():
        torch.testing.assert_close(saved[name], tensor, rtol=rtol, atol=atol, msg=lambda text, n=name: f"{n}: {text}")


def stacked(items: Iterable[tuple[Tensor, ...]]) -> list[Tensor]:
    return [torch.stack(tensors) for tensors in zip(*items, strict=True)]


def pairs_of(data: Path) -> TrainPairs:
    dataset = Dataset(data)
    pairs = dataset.read_pairs(data / "pairs.txt")
    labels = dataset.image_labels([i for pair in pairs for i in pair[:2]], data / "pairs.txt")
    return TrainPairs(pairs, labels, dataset, 32, 0, (32, 48))


def labelled_photos(data: Path) -> LabelledPhotos:
    return LabelledPhotos(list(IDS), Dataset(data), data / "SegmentationClass", 33, 0, small_deeplab.Net.input)


def paired_photos(data: Path) -> PairedPhotos:
    return PairedPhotos({f"image/{i}.jpg": f"mask/{i}.png" for i in IDS[:4]}, data, None, 0, POOLNET.input)


def test_edam_steps(commands, data, device, tmp_path):
    """Binary cross-entropy of both photos of a pair, by SGD with a warm-up; dropout follows from seed and step."""
    losses, rates, saved = run("EDAM", commands, data, tmp_path)
    torch.manual_seed(0)
    net, expected = small_net.Net().to(device).train(), []
    optimizer = make_sgd(net.get_parameter_groups(), net.group_factors, 0.01, 5e-4)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * lr_factor(step, STEPS, 4)
        seed_step(0, step, 0)
        optimizer.zero_grad()
        images, targets = (tensor.to(device) for tensor in pairs_of(data)[step])
        loss = F.binary_cross_entropy_with_logits(net(images[None])[0], targets)
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    assert losses == pytest.approx(expected, rel=limit(1e-5))
    assert rates == pytest.approx([0.01 * lr_factor(step, STEPS, 4) for step in range(STEPS)], rel=1e-6)
    check_weights(net, saved)


def test_deeplab_steps(commands, data, device, tmp_path):
    """Two micro-batches of two photos a step, each a mean over its own pixels."""
    losses, rates, saved = run("DeepLab", commands, data, tmp_path)
    torch.manual_seed(0)
    net, photos, expected = small_deeplab.Net().to(device).train(), labelled_photos(data), []
    optimizer = make_sgd(net.get_parameter_groups(), net.group_factors, 0.01, 5e-4)
    for step in range(STEPS):
        optimizer.zero_grad()
        total = 0.0
        for first in (4 * step, 4 * step + 2):
            pictures, labels = stacked([photos[first], photos[first + 1]])
            loss = multi_scale_loss(net(pictures.to(device)), labels.to(device)) / 2
            loss.backward()
            total += loss.item()
        expected.append(total)
        optimizer.step()
    assert losses == pytest.approx(expected, rel=limit(1e-5))
    assert rates == pytest.approx([0.01] * STEPS)  # changes every ten steps
    check_weights(net, saved)


def test_poolnet_steps(commands, data, device, tmp_path):
    """Whole photos one by one, the loss summed over pixels; after two thirds a new Adam with a tenth of the rate."""
    losses, rates, saved = run("PoolNet", commands, data, tmp_path)
    torch.manual_seed(0)
    net, photos, expected = small_poolnet.Net().to(device).train(), paired_photos(data), []
    for step in range(STEPS):
        if step in (0, RENEWED):
            (group,) = net.get_parameter_groups()
            optimizer = torch.optim.Adam(group, lr=LR if step == 0 else LR / 10, weight_decay=5e-4)
        optimizer.zero_grad()
        total = 0.0
        for picture, mask in (photos[2 * step], photos[2 * step + 1]):
            logits = net(picture[None].to(device))
            loss = F.binary_cross_entropy_with_logits(logits, mask[None].to(device), reduction="sum") / 2
            loss.backward()
            total += loss.item()
        expected.append(total)
        optimizer.step()
    assert losses == pytest.approx(expected, rel=limit(1e-5))
    assert rates == pytest.approx([LR] * RENEWED + [LR / 10] * 2)
    check_weights(net, saved)


def test_batch_norms_that_learn(commands, data, tmp_path):
    for name, more in (("frozen", ()), ("learned", ("--no-freeze_bn",))):
        (tmp_path / name).mkdir()
        commands.run(tmp_path / name, "train_deeplab.py", *CASES["DeepLab"].flags(data, *more))
    frozen, learned = (
        torch.load(tmp_path / f"{n}/checkpoints/s/s.pth", weights_only=True) for n in ("frozen", "learned")
    )
    torch.manual_seed(0)
    initial = small_deeplab.Net().state_dict()
    norms = [name for name in frozen if "bn." in name and not name.endswith("tracked")]
    assert all(torch.equal(frozen[name], initial[name]) for name in norms)
    assert not any(torch.equal(frozen[name], learned[name]) for name in norms)


def test_micro_batches_of_crops(commands, data, tmp_path):
    (tmp_path / "list.txt").write_text("\n".join(IDS[:4]))
    (data / "large").mkdir()
    (data / "large/JPEGImages").symlink_to(data / "image")
    flags = f"--voc12_root {data}/large --mask_dir {data}/label --train_list list.txt --network tests.small_poolnet "
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
    assert all(sorted(epoch) == sorted(photos.ids) for epoch in epochs) and len(set(map(tuple, epochs))) == 3
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
    photos = MaskedPhotos(IDS[:4], Dataset(tmp_path), data / "label", 140, 0, POOLNET.input)
    for i in IDS[:4]:
        label, mask = np.array(Image.open(data / f"label/{i}.png")), photos.load(i)[1]
        assert (mask == np.select([label == 255, label > 0], [-1, 1], 0)).all() and (mask < 0).any()
    for position in range(4):
        picture, target = photos[position]
        assert picture.shape == (3, 140, 140) and target.shape == (1, 140, 140)
        height = Image.open(data / f"image/{photos.ids_at(position)[0]}.jpg").height
        assert (target[0, height:] == -1).all() and (picture[:, height:] == 0).all()
        assert (target[0, :height] >= 0).any()
