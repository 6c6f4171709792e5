"""All networks: published tensors, options, initial weights, batch norms, sizes."""

import json

import pytest
import torch
from conftest import PARITY
from torch import Tensor, nn

from network import deeplab_v2, deeplab_v2_tiny, make_net, poolnet_tiny, resnet38_EDAM_tiny
from network.frozen_norm import FrozenBatchNorm2d, unfreeze_batch_norms
from network.poolnet import is_joint
from tests import small_deeplab, small_net, small_poolnet
from tool.cli import UserError

TINY = pytest.mark.parametrize("module", [f"network.{n}_tiny" for n in ("resnet38_EDAM", "deeplab_v2", "poolnet")])


def photos(count: int, height: int, width: int) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(0)) * 60


@pytest.mark.parametrize(
    ("module", "kind", "layout"),
    [
        ("network.resnet38_EDAM_cls", "Net", "state_dict_layout.json"),
        ("network.deeplab_v2", "Net", "deeplab_v2/state_dict_layout.json"),
        ("network.poolnet", "Net", "poolnet/state_dict_layout.json"),
        ("network.poolnet", "JointNet", "poolnet/joint_state_dict_layout.json"),
    ],
)
def test_state_dict_is_the_published_one(module, kind, layout):
    with torch.device("meta"):
        net = make_net(module, kind=kind)
    expected = json.loads((PARITY / layout).read_text())
    assert [(name, list(tensor.shape)) for name, tensor in net.state_dict().items()] == list(expected.items())
    assert is_joint(expected) == (kind == "JointNet")


def test_dilations_of_aspp():
    """The published figures' maps are smaller than the last one reaches."""
    with torch.device("meta"):
        convs = list(deeplab_v2.Net().base.aspp.children())
    assert [(conv.dilation, conv.padding) for conv in convs] == [((rate, rate),) * 2 for rate in (6, 12, 18, 24)]


@pytest.mark.parametrize(
    ("module", "options", "keyword"),
    [
        ("network.nothing", {}, "no such module"),
        ("no_such_package.net", {}, "no such module"),
        ("tool.cli", {}, "no attribute 'Net'"),
        ("", {}, "[Ee]mpty module name"),
        ("network.resnet38_EDAM_tiny", {"num_labels": 3}, "num_labels"),
        ("tests.small_deeplab", {"num_classes": 3}, "num_classes"),
    ],
)
def test_unknown_network_or_option(module, options, keyword):
    with pytest.raises(UserError, match=f"^--network {module}: .*{keyword}"):
        make_net(module, **options)


@TINY
def test_init_weights_false_draws_nothing(module):
    saved = make_net(module).state_dict()
    state = torch.get_rng_state()
    net = make_net(module, init_weights=False)
    assert torch.equal(torch.get_rng_state(), state)
    net.load_state_dict(saved, strict=True)
    assert all(torch.equal(tensor, saved[name]) for name, tensor in net.state_dict().items())


@TINY
def test_miniatures_train_everything_but_frozen_norms(module):
    torch.manual_seed(0)
    net = make_net(module).train()
    frozen = {id(p) for norm in net.modules() if isinstance(norm, FrozenBatchNorm2d) for p in norm.parameters()}
    assert bool(frozen) == ("poolnet" not in module)
    before = {name: tensor.clone() for name, tensor in net.named_buffers() if "running" in name}
    found = net(photos(2, 96, 128)[None] if "EDAM" in module else photos(2, 96, 128))
    sum(map_.square().mean() for map_ in found).backward()
    trained = [parameter for parameter in net.parameters() if id(parameter) not in frozen]
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in trained)
    assert all(torch.equal(tensor, net.get_buffer(name)) == bool(frozen) for name, tensor in before.items())
    assert {id(p) for group in net.get_parameter_groups() for p in group} == {id(p) for p in trained}


@pytest.mark.parametrize(
    ("make", "left"),  # the first batch norm of each block of ResNet38d
    [(small_net.Net, 6), (deeplab_v2_tiny.Net, 7), (small_deeplab.Net, 0), (small_poolnet.Net, 0)],
)
@torch.inference_mode()
def test_folded_batch_norms_compute_the_same(make, left):
    torch.manual_seed(0)
    net = make().double().eval()
    for name, tensor in net.state_dict().items():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 2) if name.endswith("var") else tensor.normal_(std=0.2)
    compute, photo = getattr(net, "forward_cam", net), photos(1, 113, 121).double()
    expected = compute(photo)
    net.fold_batch_norms()
    assert sum(isinstance(module, nn.BatchNorm2d) for module in net.modules()) == left
    torch.testing.assert_close(compute(photo), expected, rtol=1e-9, atol=1e-9)


def test_unfrozen_batch_norms_leave_the_stem_frozen():
    net = deeplab_v2_tiny.Net(freeze_stem=True).train()
    still = {name for name, parameter in net.named_parameters() if not parameter.requires_grad}
    norms = {name for name in still if ".bn" in name}
    assert norms and {name.split(".")[1] for name in still - norms} == {"conv1a", "b2"}
    unfreeze_batch_norms(net)
    assert all(module.training for module in net.modules())
    assert {name for name, parameter in net.named_parameters() if not parameter.requires_grad} == still - norms


@pytest.mark.parametrize(("make", "side"), [(small_poolnet.Net, 111), (poolnet_tiny.Net, 55)])
@torch.inference_mode()
def test_smallest_side_of_poolnet(make, side):
    net = make().eval()
    assert net.smallest_side == side
    assert net(photos(1, side, side + 9)).shape == (1, 1, side, side + 9)
    with pytest.raises(RuntimeError, match="too small"):
        net(photos(1, side - 1, side + 9))


def test_scales_of_deeplab():
    """In training each scale has logits, and so has their maximum; one scale alone has no maximum."""
    net, picture = small_deeplab.Net(num_labels=5), photos(1, 33, 49)
    net.scales = (1.5,)
    assert [tuple(map_.shape) for map_ in net.train()(picture)] == [(1, 5, 5, 7), (1, 5, 7, 10), (1, 5, 5, 7)]
    assert torch.equal(net.eval()(picture), net.train()(picture)[-1])
    net.scales = ()
    assert torch.equal(net.train()(picture)[0], net.eval()(picture)) and len(net.train()(picture)) == 1


def test_deeplab_on_edams_backbone():
    edam, net = resnet38_EDAM_tiny.Net().eval(), deeplab_v2_tiny.Net().eval()
    assert net.base.load_state_dict(edam.state_dict(), strict=False).missing_keys == [
        f"aspp.c{i}.{kind}" for i in range(4) for kind in ("weight", "bias")
    ]
    features = edam.features(photos(1, 40, 48)).relu()
    logits = sum(conv(features) for conv in net.base.aspp.children())
    torch.testing.assert_close(net(photos(1, 40, 48)), logits, rtol=1e-4, atol=1e-4 * logits.abs().max().item())
