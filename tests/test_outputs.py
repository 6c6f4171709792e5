"""Networks whose outputs do not fit the labels; the count of outputs follows the classes, also of an edited CLASSES."""

from types import SimpleNamespace

import pytest
import torch

import train_deeplab
import train_EDAM_cls
from network import make_net
from tests.plain_net import Net
from tool.cli import UserError
from voc12 import classes
from voc12.classes import Classes


def make(script, dataset, network: str, *more: str):
    flags = ["--voc12_root", "R", "--network", network, *more]
    return script.make_network(script.get_parser().parse_args(flags), dataset)


def test_outputs_follow_edited_classes(monkeypatch):
    """A user edits CLASSES to four names."""
    monkeypatch.setattr(classes, "VOC", four := Classes(("car", "bus", "train", "tram")))
    edited = SimpleNamespace(classes=four)
    net = make(train_EDAM_cls, edited, "network.resnet38_EDAM_tiny")
    assert net.num_classes == 4 and net.train()(torch.zeros(1, 2, 3, 64, 64)).shape == (1, 2, 4)
    assert make(train_deeplab, edited, "network.deeplab_v2_tiny", "--label_dir", "L").num_labels == 5
    monkeypatch.setattr(Net, "__init__", lambda self, num_classes: super(Net, self).__init__(20))
    with pytest.raises(UserError, match=r"tests\.plain_net.*20.*4"):
        make(train_EDAM_cls, edited, "tests.plain_net")


@pytest.mark.parametrize("module", ["network.timm_EDAM", "network.deeplab_v2_timm"])
@pytest.mark.parametrize("backbone", ["convnext_atto", "tf_efficientnet_lite0"])
def test_timm_leaves_no_parameter_without_a_gradient(module, backbone):
    """Processes that share a step wait for the gradient of each parameter that is not frozen."""
    net = make_net(module, backbone=backbone).train()
    out = net(torch.rand(*((1, 2) if "EDAM" in module else (1,)), 3, 64, 64))
    sum(part.sum() for part in (out if isinstance(out, list) else [out])).backward()
    assert all(parameter.grad is not None for parameter in net.parameters() if parameter.requires_grad)
