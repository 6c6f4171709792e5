"""DeepLab-v2's head on ResNet38d: the files it loads, and its miniature on the demo's weights."""

import pytest
import torch
import torch.nn.functional as F
from test_weights import trained
from torch import nn

from network import deeplab_v2_resnet38, deeplab_v2_tiny, resnet38_EDAM_tiny
from network.frozen_norm import unfreeze_batch_norms
from network.resnet38d import ResNet38d
from network.weights import find_backbone, load_weights
from tool.image_ops import IMAGENET

ASPP = [f"base.aspp.c{i}.{kind}" for i in range(4) for kind in ("weight", "bias")]


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return deeplab_v2_tiny.Net()


def test_tensor_names_of_the_published_size():
    with torch.device("meta"):
        net, theirs = deeplab_v2_resnet38.Net(), ResNet38d()
    shapes = {name: tensor.shape for name, tensor in net.state_dict().items()}
    own = {f"base.{name}": tensor.shape for name, tensor in theirs.state_dict().items()}
    assert shapes == own | {n: (21, 4096, 3, 3) if n.endswith("weight") else (21,) for n in ASPP}


def test_backbone_of_the_demo_computes_the_same(tmp_path, net):
    edam = resnet38_EDAM_tiny.Net()
    edam.load_state_dict(trained(edam))
    given = {name: tensor for name, tensor in edam.state_dict().items() if name in find_backbone(edam)[1]}
    torch.save(given | {"fc8.weight": torch.ones(2, 2)}, tmp_path / "b.pth")
    report = load_weights(net, tmp_path / "b.pth")
    assert (report.loaded, report.missing, report.unexpected) == (len(given), ASPP, ["fc8.weight"])
    assert str(report).endswith("newly initialised: base.aspp; left out: fc8")
    photo = torch.randint(0, 256, (40, 48, 3), dtype=torch.uint8)
    theirs = edam.eval().features(IMAGENET.normalise(photo)[None]).relu()
    ours = net.eval().base.features(net.input.normalise(photo)[None])
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * theirs.max().item())
    logits = sum(conv(ours) for conv in net.base.aspp.children())
    close = {"rtol": 1.3e-6, "atol": 2e-6 * logits.abs().max().item()}  # they are about 1e33
    torch.testing.assert_close(net(net.input.normalise(photo)[None]), logits, **close)


def test_one_scale_has_one_loss(net):
    picture = torch.randn(1, 3, 40, 48)
    assert [tuple(logits.shape) for logits in net.train()(picture)] == [(1, 21, 5, 6)]
    net.scales = (0.5,)
    assert [tuple(logits.shape) for logits in net(picture)] == [(1, 21, 5, 6), (1, 21, 3, 3), (1, 21, 5, 6)]
    assert F.mse_loss(net.base.features(picture).clamp(min=0), net.base.features(picture)) == 0


def test_unfrozen_batch_norms_leave_the_stem_frozen():
    net = deeplab_v2_tiny.Net(freeze_stem=True).train()
    still = {name for name, parameter in net.named_parameters() if not parameter.requires_grad}
    norms = {name for name in still if ".bn" in name}
    assert norms and {name.split(".")[1] for name in still - norms} == {"conv1a", "b2"}
    unfreeze_batch_norms(net)
    assert all(module.training for module in net.modules())
    assert {name for name, parameter in net.named_parameters() if not parameter.requires_grad} == still - norms
