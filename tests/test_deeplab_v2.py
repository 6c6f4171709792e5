"""DeepLab-v2 against the figures of the published method."""

import copy
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import PARITY
from deeplab_v2.fill_deeplab import fill
from published import check_training
from torch import Tensor

from network.deeplab_v2 import Net
from network.losses import cross_entropy, multi_scale_loss
from pseudo_label.crf import DEEPLAB, dense_crf
from pseudo_label.metrics import confusion, iou, segmentation_scores
from tool.image_ops import resize_labels
from tool.optim import make_sgd, stepwise_lr_factor

FOLDER = PARITY / "deeplab_v2"
FIGURES = np.load(FOLDER / "salt0.npz")
TRAINING = json.loads((FOLDER / "train_salt0.json").read_text())
IDS = ["2007_100000", "2007_100001", "2007_100002"]


@pytest.fixture(scope="module")
def _filled() -> Net:
    net = Net()
    net.load_state_dict(fill(net.state_dict()), strict=True)
    return net


@pytest.fixture
def net(_filled) -> Net:
    return copy.deepcopy(_filled)


def as_input(image: np.ndarray) -> Tensor:
    return Net.input.normalise(torch.from_numpy(image))


@pytest.mark.parametrize("image_id", IDS)
def test_logits_and_labels_with_and_without_crf(net, image_id):
    photo, size = FIGURES[f"{image_id}_image"], FIGURES[f"{image_id}_label"].shape
    with torch.inference_mode():
        several = net.train()(as_input(photo)[None])
    for logits, name in zip(several, ("_full", "_half", "_three_quarters", ""), strict=True):
        np.testing.assert_allclose(logits[0], FIGURES[f"{image_id}_logits{name}"], rtol=0, atol=2e-4)
    probability = F.interpolate(several[-1], size, mode="bilinear", align_corners=False)[0].softmax(0).numpy()
    np.testing.assert_allclose(probability, FIGURES[f"{image_id}_prob_u16"] / 65535, rtol=0, atol=5e-5)
    # The published code gives the CRF the picture less the mean, cast to bytes that wrap around.
    wrapped = (photo[..., ::-1] - np.float32(Net.input.mean)).astype(np.int64).astype(np.uint8)[..., ::-1]
    refined = (dense_crf(picture, probability, DEEPLAB) for picture in (wrapped, photo))
    for scores, name in zip((probability, *refined), ("argmax", "crf", "crf_photo"), strict=True):
        assert (scores.argmax(0) == FIGURES[f"{image_id}_{name}"]).mean() >= 0.999, name


def test_two_iterations(net):
    def backward(step: int) -> float:
        total = 0.0
        for part, expected in enumerate(TRAINING["cross_entropy"][step]):
            labels = torch.from_numpy(FIGURES["train_labels"][step, part])
            logits = net(as_input(FIGURES["train_images"][step, part]))
            assert [list(map_.shape[2:]) for map_ in logits] == TRAINING["head_sizes"]
            each = [cross_entropy(map_, resize_labels(labels, map_.shape[2:])).item() for map_ in logits]
            assert each == pytest.approx(expected, rel=1e-4)
            loss = multi_scale_loss(logits, labels) / 2
            assert loss.item() == pytest.approx(sum(each) / 2, rel=1e-6)
            loss.backward()
            total += loss.item()
        return total

    optimizer = make_sgd(net.get_parameter_groups(), Net.group_factors, 2.5e-4, 5e-4)
    gradients, moves = ("grad_norm_step0", "grad_norm_step1"), ({}, TRAINING["delta_norm_after_2_steps"])
    figures = list(zip(TRAINING["loss"], [TRAINING[key] for key in gradients], moves, strict=True))
    check_training(net, optimizer, backward, figures, 2 * [(1e-4, 1e-2, 1e-2)])


def test_parameter_groups_and_learning_rates(_filled):
    optimizer = make_sgd(_filled.get_parameter_groups(), Net.group_factors, 2.5e-4, 5e-4)
    names = {id(parameter): name for name, parameter in _filled.named_parameters()}
    for group, expected in zip(optimizer.param_groups, TRAINING["param_groups"], strict=True):
        assert [names[id(parameter)] for parameter in group["params"]] == expected["tensors"]
        assert {key: group[key] for key in ("lr", "weight_decay", "momentum")} == pytest.approx(
            {key: expected[key] for key in ("lr", "weight_decay", "momentum")}, rel=1e-12
        )
    for step, rates in TRAINING["learning_rate_after_scheduler_step"].items():
        factor = stepwise_lr_factor(int(step), 20000)
        assert [group["lr"] * factor for group in optimizer.param_groups] == pytest.approx(rates, rel=0, abs=1e-12)
    assert stepwise_lr_factor(25, 20) == 0


def test_scores():
    figures = json.loads((FOLDER / "metric.json").read_text())
    drawn = {"metric.json": (figures["gt"], figures["pred"], figures["expected"])}
    for key, name in (("test", "argmax"), ("crf", "crf")):
        maps = ([FIGURES[f"{image_id}_{kind}"] for image_id in IDS] for kind in ("label", name))
        drawn[key] = (*maps, TRAINING["scores_on_drawn_labels"][key])
    for truths, predictions, expected in drawn.values():
        pairs = zip(truths, predictions, strict=True)
        matrix = sum(confusion(np.array(truth, np.uint8), np.array(label, np.uint8), 21, 255) for truth, label in pairs)
        titles = ("Pixel Accuracy", "Mean Accuracy", "Mean IoU", "Frequency Weighted IoU")
        assert list(segmentation_scores(matrix).values()) == pytest.approx(
            [expected[title] for title in titles], abs=1e-9
        )
        of_label = np.array(list(expected["Class IoU"].values()), float)  # None becomes nan
        np.testing.assert_allclose(iou(matrix), of_label, rtol=0, atol=1e-9)
