"""PoolNet against the figures of the published method."""

import copy
import json
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import PARITY
from torch import Tensor, nn

from network.losses import saliency_loss
from network.poolnet import JointNet, Net, is_joint, upsample
from pseudo_label.predict import grey_map

FOLDER = PARITY / "poolnet"
FIGURES, JOINT = np.load(FOLDER / "salt0.npz"), np.load(FOLDER / "joint_vgg_salt0.npz")
DATA, EDGES = np.load(FOLDER / "train_data.npz"), np.load(FOLDER / "joint_train_edges.npz")


def filled(net: Net) -> Net:
    sys.path.insert(0, str(FOLDER))
    from fill_poolnet import fill

    net.load_state_dict(fill(net.state_dict()), strict=True)
    return net


@pytest.fixture(scope="module")
def _plain() -> Net:
    return filled(Net())


@pytest.fixture(scope="module")
def _joint() -> JointNet:
    return filled(JointNet())


@pytest.fixture
def plain(_plain) -> Net:
    return copy.deepcopy(_plain)


@pytest.fixture
def joint(_joint) -> JointNet:
    return copy.deepcopy(_joint)


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


@pytest.mark.parametrize("name", ["plain", "joint"])
def test_state_dict_is_the_published_one(name, request):
    net = request.getfixturevalue(f"_{name}")
    layout = json.loads((FOLDER / f"{'joint_' * (name == 'joint')}state_dict_layout.json").read_text())
    assert [(name, list(tensor.shape)) for name, tensor in net.state_dict().items()] == list(layout.items())
    assert is_joint(layout) == isinstance(net, JointNet)
    assert sum(p.numel() for p in net.get_parameter_groups()[0]) == {"plain": 68_207_937, "joint": 69_504_522}[name]


@pytest.mark.parametrize("folded", [False, True])
def test_logits_and_maps(plain, folded):
    if folded:
        plain.fold_batch_norms()
        assert not any(isinstance(module, nn.BatchNorm2d) for module in plain.modules())
    for k in range(1 if folded else 3):
        with torch.inference_mode():
            logits = plain.eval()(as_input(FIGURES[f"image_{k}"]))
        expected = FIGURES[f"map_{k}"]
        assert logits.shape == (1, 1, *expected.shape)
        np.testing.assert_allclose(logits[0, 0], FIGURES[f"logits_{k}"], rtol=0, atol=1e-4)
        np.testing.assert_allclose(255 * logits[0, 0].sigmoid(), expected, rtol=0, atol=5e-3)
        near_half = np.abs(expected % 1 - 0.5) < 0.01
        grey = grey_map(logits[0, 0].numpy())
        assert grey.dtype == np.uint8
        assert ((grey == FIGURES[f"png_{k}"]) | near_half).all() and near_half.mean() < 0.05


def test_logits_of_the_joint_network(joint):
    image = as_input(JOINT["image"])
    with torch.inference_mode():
        saliency, edge_logits = joint.eval()(image), edges(joint, image)
    kinds = ("sal", "edge_fuse", *(f"edge_side{i}" for i in range(4)))
    for logits, kind in zip((saliency, *edge_logits), kinds, strict=True):
        np.testing.assert_allclose(logits[0, 0], JOINT[f"joint_{kind}_logits"], rtol=0, atol=1e-4)


def test_smallest_side(plain):
    assert plain.smallest_side == 111
    with torch.inference_mode():
        assert plain(torch.zeros(1, 3, 111, 111)).shape == (1, 1, 111, 111)
        with pytest.raises(RuntimeError, match="too small"):
            plain(torch.zeros(1, 3, 110, 111))


def train(net: Net, expected: dict, losses_of) -> None:
    """Train by the published recipe with `losses_of(picture)`; assert losses, gradients, movements."""
    net.train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    (group,) = net.get_parameter_groups()
    optimizer = torch.optim.Adam(group, lr=expected["lr"], weight_decay=expected["wd"])
    size = expected["iter_size"]
    for step, of_step in enumerate(expected["loss_per_step"]):
        optimizer.zero_grad()
        total = sum(losses_of(picture) for picture in range(step * size, (step + 1) * size))
        assert total == pytest.approx(of_step, rel=1e-3)
        for name, norm in expected[f"grad_norm_step{step}"].items():
            grad = net.get_parameter(name).grad
            assert (grad is None) == (norm is None), name
            if norm is not None:
                assert grad.norm().item() == pytest.approx(norm, rel=(5e-3, 5e-2)[step]), name
        optimizer.step()
        moved = {name: (tensor.double() - before[name]).norm().item() for name, tensor in net.state_dict().items()}
        assert moved == pytest.approx(expected[f"move_norm_after_step{step}"], rel=(1e-3, 2e-2)[step])
    norms = [name for name, norm in expected["grad_norm_step0"].items() if norm is None]
    assert len(norms) == 106 and all(moved[name] == 0 for name in norms)


def loss_of(net: Net, i: int, pictures: int) -> Tensor:
    image, mask = DATA[f"image_{i:02}"], DATA[f"mask_{i:02}"]
    if DATA["flip"][i]:
        image, mask = np.ascontiguousarray(image[:, ::-1]), np.ascontiguousarray(mask[:, ::-1])
    return saliency_loss(net(as_input(image)), torch.from_numpy(mask / np.float32(255))[None, None], pictures)


def test_training_steps(plain):
    expected = json.loads((FOLDER / "train_salt0.json").read_text())["light"]

    def losses_of(picture: int) -> float:
        loss = loss_of(plain, picture, expected["iter_size"])
        assert loss.item() == pytest.approx(expected["loss_per_picture"][picture], rel=1e-3)
        loss.backward()
        return loss.item()

    train(plain, expected, losses_of)


def test_training_steps_of_the_joint_network(joint):
    expected = json.loads((FOLDER / "train_joint_salt0.json").read_text())

    def losses_of(pair: int) -> float:
        photos = expected["iter_size"]
        target = torch.from_numpy(EDGES[f"edge_{pair + 10}"] / np.float32(255))[None, None]
        losses = [edge_loss(logits, target, photos) for logits in edges(joint, as_input(DATA[f"image_{pair + 10}"]))]
        losses.append(loss_of(joint, pair, photos))
        assert [loss.item() for loss in losses] == pytest.approx(expected["loss_terms_per_pair"][pair], rel=1e-3)
        torch.stack(losses).sum().backward()
        return sum(loss.item() for loss in losses)

    train(joint, expected, losses_of)
