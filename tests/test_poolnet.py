"""PoolNet against the figures of the published method."""

import copy
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import PARITY
from poolnet.fill_poolnet import fill
from published import check_training
from torch import Tensor

from network.losses import saliency_loss
from network.poolnet import JointNet, Net, upsample
from pseudo_label.predict import grey_map

FOLDER = PARITY / "poolnet"
FIGURES, JOINT = np.load(FOLDER / "salt0.npz"), np.load(FOLDER / "joint_vgg_salt0.npz")
DATA, EDGES = np.load(FOLDER / "train_data.npz"), np.load(FOLDER / "joint_train_edges.npz")


@pytest.fixture(scope="module", params=[Net])
def _filled(request) -> Net:
    net = request.param()
    net.load_state_dict(fill(net.state_dict()), strict=True)
    return net


@pytest.fixture
def net(_filled) -> Net:
    return copy.deepcopy(_filled)


joint = pytest.mark.parametrize("_filled", [JointNet], indirect=True)


def edges(net: JointNet, x: Tensor) -> list[Tensor]:
    """Return edge logits (N, 1, H, W): the fused ones, then each level's."""
    blocks = [block(y) for block, y in zip(net.block, net.decode(x), strict=True)]
    levels = [upsample(layer(y), x) for layer, y in zip(net.fuse["trans"], blocks, strict=True)]
    return [net.fuse["fuse"](torch.cat(levels, dim=1)), *levels]


def edge_loss(logits: Tensor, target: Tensor, photos: int) -> Tensor:
    """Return the balanced cross-entropy of a map of edge logits; fractional targets do not count."""
    edge, other = (target > 0.5).float(), (target == 0).float()
    weight = (edge * other.sum() + 1.1 * other * edge.sum()) / (edge.sum() + other.sum())
    return F.binary_cross_entropy_with_logits(logits, edge, weight, reduction="sum") / photos


def as_input(image: np.ndarray) -> Tensor:
    return Net.input.normalise(torch.from_numpy(image))[None]


@pytest.mark.parametrize("k", range(3))
def test_logits_and_maps(net, k):
    with torch.inference_mode():
        logits = net.eval()(as_input(FIGURES[f"image_{k}"]))
    expected = FIGURES[f"map_{k}"]
    assert logits.shape == (1, 1, *expected.shape)
    np.testing.assert_allclose(logits[0, 0], FIGURES[f"logits_{k}"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(255 * logits[0, 0].sigmoid(), expected, rtol=0, atol=5e-3)
    near_half = np.abs(expected % 1 - 0.5) < 0.01
    grey = grey_map(logits[0, 0].numpy())
    assert grey.dtype == np.uint8
    assert ((grey == FIGURES[f"png_{k}"]) | near_half).all() and near_half.mean() < 0.05


@joint
def test_logits_of_the_joint_network(net):
    image = as_input(JOINT["image"])
    with torch.inference_mode():
        saliency, edge_logits = net.eval()(image), edges(net, image)
    kinds = ("sal", "edge_fuse", *(f"edge_side{i}" for i in range(4)))
    for logits, kind in zip((saliency, *edge_logits), kinds, strict=True):
        np.testing.assert_allclose(logits[0, 0], JOINT[f"joint_{kind}_logits"], rtol=0, atol=1e-4)


def train(net: Net, expected: dict, losses_of) -> None:
    """Train two steps by the published recipe; `losses_of` returns the losses of a picture."""
    (group,) = net.get_parameter_groups()
    size = expected["iter_size"]

    def backward(step: int) -> float:
        total = 0.0
        for picture in range(step * size, (step + 1) * size):
            losses = losses_of(picture)
            torch.stack(losses).sum().backward()
            total += sum(loss.item() for loss in losses)
        return total

    figures = [
        (expected["loss_per_step"][step], expected[f"grad_norm_step{step}"], expected[f"move_norm_after_step{step}"])
        for step in range(2)
    ]
    optimizer = torch.optim.Adam(group, lr=expected["lr"], weight_decay=expected["wd"])
    check_training(net, optimizer, backward, figures, [(1e-3, 5e-3, 1e-3), (1e-3, 5e-2, 2e-2)])


def loss_of(net: Net, i: int, pictures: int) -> Tensor:
    image, mask = DATA[f"image_{i:02}"], DATA[f"mask_{i:02}"]
    if DATA["flip"][i]:
        image, mask = np.ascontiguousarray(image[:, ::-1]), np.ascontiguousarray(mask[:, ::-1])
    return saliency_loss(net(as_input(image)), torch.from_numpy(mask / np.float32(255))[None, None], pictures)


def test_training_steps(net):
    expected = json.loads((FOLDER / "train_salt0.json").read_text())["light"]

    def losses_of(picture: int) -> list[Tensor]:
        loss = loss_of(net, picture, expected["iter_size"])
        assert loss.item() == pytest.approx(expected["loss_per_picture"][picture], rel=1e-3)
        return [loss]

    train(net, expected, losses_of)


@joint
def test_training_steps_of_the_joint_network(net):
    expected = json.loads((FOLDER / "train_joint_salt0.json").read_text())
    photos = expected["iter_size"]

    def losses_of(pair: int) -> list[Tensor]:
        target = torch.from_numpy(EDGES[f"edge_{pair + 10}"] / np.float32(255))[None, None]
        losses = [edge_loss(logits, target, photos) for logits in edges(net, as_input(DATA[f"image_{pair + 10}"]))]
        losses.append(loss_of(net, pair, photos))
        assert [loss.item() for loss in losses] == pytest.approx(expected["loss_terms_per_pair"][pair], rel=1e-3)
        return losses

    train(net, expected, losses_of)
