"""EDAM against the figures of the published method."""

import json

import devices
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import PARITY, SHARED, needs_shared
from devices import limit
from published import check_training

from network import resnet38_EDAM_tiny
from tool.image_ops import IMAGENET
from tool.optim import lr_factor, make_sgd, set_learning_rate

SYNTHETIC = np.load(PARITY / "synthetic" / "figures.npz")


def as_input(images: np.ndarray) -> torch.Tensor:
    return IMAGENET.normalise(torch.from_numpy(images).to(devices.name))


def check_mask(net, image: np.ndarray, expected: np.ndarray) -> None:
    with torch.inference_mode():
        mask = net.eval().forward_cam(as_input(image)[None])[0].cpu()
    np.testing.assert_allclose(mask, expected, rtol=0, atol=limit(1e-5))


def test_masks_on_a_drawn_picture(filled_net):
    check_mask(filled_net, SYNTHETIC["mask_image"], SYNTHETIC["mask"])


@needs_shared
def test_masks_on_photos(filled_net):
    figures = np.load(SHARED / "parity" / "forward_cam.npz")
    for image_id in ("2007_000032", "2007_000129"):
        check_mask(filled_net, figures[f"{image_id}_image"], figures[f"{image_id}_mask"])


def test_logits_of_a_drawn_pair(filled_net):
    images = as_input(SYNTHETIC["train_images"])
    with torch.inference_mode():
        logits = filled_net.train()(torch.stack([images, images.flip(0)]))
    assert logits.shape == (2, 2, 20)
    np.testing.assert_allclose(logits[0].cpu(), SYNTHETIC["train_logits"], rtol=0, atol=limit(1e-5))


def three_steps(net, images: np.ndarray, labels: np.ndarray, expected: dict) -> None:
    optimizer = make_sgd(net.get_parameter_groups(), net.group_factors, 0.01, 5e-4)
    inputs, targets = as_input(images), torch.from_numpy(labels).to(devices.name)

    def backward(step: int) -> float:
        set_learning_rate(optimizer, lr_factor(step, 33000, 2000))
        loss = F.binary_cross_entropy_with_logits(net(inputs[None])[0], targets)
        loss.backward()
        return loss.item()

    gradients, moves = (expected["grad_norm_step0"], {}, {}), ({}, {}, expected["delta_norm_after_3_steps"])
    figures = list(zip(expected["loss"], gradients, moves, strict=True))
    check_training(net, optimizer, backward, figures, 3 * [(limit(1e-4), limit(1e-3), limit(1e-3))])


def test_three_steps_on_a_drawn_pair(filled_net):
    expected = json.loads((PARITY / "synthetic" / "train_three_steps.json").read_text())
    three_steps(filled_net, SYNTHETIC["train_images"], SYNTHETIC["train_labels"], expected)


@needs_shared
def test_three_steps_on_photos_at_the_published_crop(filled_net):
    pair = np.load(SHARED / "parity" / "train_pair.npz")
    expected = json.loads((SHARED / "parity" / "train_three_steps.json").read_text())
    with torch.inference_mode():
        logits = filled_net.train()(as_input(pair["images"])[None])[0]
    np.testing.assert_allclose(logits.cpu(), pair["logits"], rtol=0, atol=limit(1e-4))
    three_steps(filled_net, pair["images"], pair["labels"], expected)


def test_parameter_groups(filled_net):
    groups = filled_net.get_parameter_groups()
    names = {id(parameter): name for name, parameter in filled_net.named_parameters()}
    tops = [{names[id(parameter)].split(".")[0] for parameter in group} for group in groups]
    assert [len(group) for group in groups] == [35, 0, 22, 0, 321, 0]
    assert not tops[0] & {"conv1a", "b2", "b2_1", "b2_2"}
    assert tops[2] == {"mask_layer", "d_d", "fc_list"}
    assert tops[4] == {"embedding", "trans_list"}
    assert filled_net.group_factors == ((1, 1), (2, 0), (10, 1), (20, 0), (1, 1), (1, 1))  # learning rate, decay


def test_initial_weights_of_a_seed():
    """Seeds reproduce published runs, so layers draw in a fixed order: a value of each part, and the next random number."""
    torch.manual_seed(0)
    state = resnet38_EDAM_tiny.Net().state_dict()
    assert torch.rand(1).item() == pytest.approx(0.3224949836730957, abs=1e-6)
    for name, value in {
        "conv1a.weight": 0.13364429771900177,
        "b7.conv_branch2b2.weight": -0.014717974700033665,
        "embedding.segment.weight": 0.31873631477355957,
        "trans_list.19.0.feed_forward.w_2.bias": -0.056086793541908264,
        "fc_list.19.weight": -0.03456651046872139,
    }.items():
        assert state[name].flatten()[-1].item() == pytest.approx(value, abs=1e-6), name


@pytest.mark.parametrize("num_classes", [1, 3, 37])
def test_number_of_classes(num_classes):
    net = resnet38_EDAM_tiny.Net(num_classes)
    assert net.forward_cam(torch.zeros(1, 3, 31, 40)).shape == (1, num_classes + 1, 4, 5)
    assert [len(group) for group in net.get_parameter_groups()] == [23, 0, 2 + num_classes, 0, 1 + 16 * num_classes, 0]
