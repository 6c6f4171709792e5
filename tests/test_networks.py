"""All networks: published tensors, initial weights, options, frozen and folded batch norms, sizes."""

import json

import pytest
import torch
from conftest import PARITY
from test_weights import trained
from torch import Tensor, nn

from network import deeplab_v2, deeplab_v2_tiny, make_net, poolnet_tiny, resnet38_EDAM_tiny
from network.frozen_norm import FrozenBatchNorm2d, unfreeze_batch_norms
from network.losses import multi_scale_loss, saliency_loss
from network.poolnet import is_joint
from network.weights import find_backbone, load_weights
from tests import small_deeplab, small_net, small_poolnet
from tool.cli import UserError

PUBLISHED = [
    ("resnet38_EDAM_cls", "Net", "state_dict_layout.json"),
    ("deeplab_v2", "Net", "deeplab_v2/state_dict_layout.json"),
    ("poolnet", "Net", "poolnet/state_dict_layout.json"),
    ("poolnet", "JointNet", "poolnet/joint_state_dict_layout.json"),
]


@pytest.mark.parametrize(("module", "kind", "layout"), PUBLISHED)
def test_state_dict_is_the_published_one(module, kind, layout):
    with torch.device("meta"):
        net = make_net(f"network.{module}", kind=kind)
    expected = json.loads((PARITY / layout).read_text())
    assert [(name, list(tensor.shape)) for name, tensor in net.state_dict().items()] == list(expected.items())
    assert is_joint(expected) == (kind == "JointNet")


def test_dilations_of_aspp():
    """The published figures' maps are smaller than the last one reaches."""
    with torch.device("meta"):
        convs = list(deeplab_v2.Net().base.aspp.children())
    assert [(conv.dilation, conv.padding) for conv in convs] == [((rate, rate),) * 2 for rate in (6, 12, 18, 24)]


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("network.nothing", "no such module"),
        ("no_such_package.net", "no such module"),
        ("tool.cli", "no attribute 'Net'"),
    ],
)
def test_unknown_network(module, message):
    with pytest.raises(UserError, match=message) as caught:
        make_net(module)
    assert module in str(caught.value)


@pytest.mark.parametrize(
    ("module", "option", "unknown"),
    [("network.resnet38_EDAM_tiny", "num_classes", "num_labels"), ("tests.small_deeplab", "num_labels", "num_classes")],
)
def test_options_reach_the_network(module, option, unknown):
    assert getattr(make_net(module, **{option: 3}), option) == 3
    with pytest.raises(UserError, match=f"^--network {module}: .*{unknown}"):
        make_net(module, **{unknown: 3})


@pytest.mark.parametrize("network", ["resnet38_EDAM_tiny", "deeplab_v2_tiny", "poolnet_tiny"])
def test_init_weights_false_draws_nothing(network):
    module = f"network.{network}"
    saved = make_net(module).state_dict()
    state = torch.get_rng_state()
    net = make_net(module, init_weights=False)
    assert torch.equal(torch.get_rng_state(), state)
    net.load_state_dict(saved, strict=True)
    assert all(torch.equal(tensor, saved[name]) for name, tensor in net.state_dict().items())


def photos(count: int, height: int, width: int) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(0)) * 60


def norms_of(net: nn.Module) -> list[nn.Module]:
    return [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]


def drawn(net: nn.Module) -> nn.Module:
    """Return the network with every tensor drawn at random, in float64; variances positive."""
    torch.manual_seed(0)
    for name, tensor in net.double().state_dict().items():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 2) if name.endswith("var") else tensor.normal_(std=0.2)
    return net


@pytest.mark.parametrize(
    ("make", "left"),  # the first batch norm of each block of ResNet38d
    [(small_net.Net, 6), (deeplab_v2_tiny.Net, 7), (small_deeplab.Net, 0), (small_poolnet.Net, 0)],
)
@torch.inference_mode()
def test_folded_batch_norms_compute_the_same(make, left):
    net = drawn(make()).eval()
    compute = getattr(net, "forward_cam", net)
    expected = compute(photos(1, 113, 121).double())
    net.fold_batch_norms()
    assert len(norms_of(net)) == left
    torch.testing.assert_close(compute(photos(1, 113, 121).double()), expected, rtol=1e-9, atol=1e-9)


def gradients(net: nn.Module) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Return the logits of photos, and the gradient of every convolution's parameters."""
    torch.manual_seed(1)
    logits = net(torch.randn(2, 3, 49, 65, dtype=torch.float64))
    sum((map_ * torch.randn_like(map_)).sum() for map_ in logits).backward()
    convs = ((name, module) for name, module in net.named_modules() if isinstance(module, nn.Conv2d))
    return logits, {f"{name}.{key}": p.grad for name, module in convs for key, p in module.named_parameters()}


def test_frozen_norms_compute_by_their_stored_statistics():
    options = {"depths": (1, 2, 1, 1), "widths": (8, 16, 16, 24, 16), "rates": (1, 2)}
    net, plain = (drawn(deeplab_v2.Net(**options, **norm).train()) for norm in ({}, {"norm": nn.BatchNorm2d}))
    for norm in norms_of(plain):
        norm.eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    (logits, grads), (expected_logits, expected) = gradients(net), gradients(plain)
    torch.testing.assert_close(logits, expected_logits, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(grads, expected, rtol=1e-9, atol=1e-9)
    assert all(gradient.abs().max() > 0 for gradient in grads.values()) and len(grads) == 24
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)
    assert len(norms_of(net)) == 20 and all(p.grad is None for norm in norms_of(net) for p in norm.parameters())


def test_unfrozen_batch_norms_leave_the_stem_frozen():
    net = deeplab_v2_tiny.Net(freeze_stem=True).train()
    still = {name for name, parameter in net.named_parameters() if not parameter.requires_grad}
    norms = {name for name in still if ".bn" in name}
    assert norms and {name.split(".")[1] for name in still - norms} == {"conv1a", "b2"}
    unfreeze_batch_norms(net)
    assert all(module.training for module in net.modules())
    assert {name for name, parameter in net.named_parameters() if not parameter.requires_grad} == still - norms


def deeplab_loss(net: nn.Module, labels: Tensor) -> Tensor:
    return multi_scale_loss(net(photos(2, 96, 128)), labels % 21)


def poolnet_loss(net: nn.Module, labels: Tensor) -> Tensor:
    return saliency_loss(net(photos(2, 96, 128)), (labels[:, None] % 2).float(), 10)


@pytest.mark.parametrize(
    ("network", "loss_of"), [(deeplab_v2_tiny.Net, deeplab_loss), (poolnet_tiny.Net, poolnet_loss)]
)
def test_everything_of_the_miniatures_is_trained(network, loss_of):
    """DeepLab's batch norms are the exception: they stay as in its initial weights."""
    torch.manual_seed(0)
    net = network().train()
    frozen = {id(p) for norm in norms_of(net) for p in norm.parameters() if isinstance(norm, FrozenBatchNorm2d)}
    assert bool(frozen) == (network is deeplab_v2_tiny.Net)
    before = {name: tensor.clone() for name, tensor in net.named_buffers() if "running" in name}
    loss_of(net, torch.arange(2 * 96 * 128).reshape(2, 96, 128) // 600).backward()
    trained_ones = [parameter for parameter in net.parameters() if id(parameter) not in frozen]
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in trained_ones)
    assert all(torch.equal(tensor, net.get_buffer(name)) == bool(frozen) for name, tensor in before.items())
    grouped = {id(parameter) for group in net.get_parameter_groups() for parameter in group}
    assert grouped == {id(parameter) for parameter in trained_ones}


@pytest.mark.parametrize(("make", "side"), [(small_poolnet.Net, 111), (poolnet_tiny.Net, 55)])
@torch.inference_mode()
def test_smallest_side_of_poolnet(make, side):
    net = make().eval()
    assert net.smallest_side == side
    assert net(photos(1, side, side + 9)).shape == (1, 1, side, side + 9)
    with pytest.raises(RuntimeError, match="too small"):
        net(photos(1, side - 1, side + 9))


@pytest.mark.parametrize(
    ("make", "scale", "sizes"),
    [(small_deeplab.Net, 1.5, [(5, 7), (7, 10)]), (deeplab_v2_tiny.Net, 0.5, [(5, 7), (2, 3)])],
)
def test_scales_of_deeplab(make, scale, sizes):
    """In training each scale has logits, and so has their maximum; one scale alone has no maximum."""
    net, picture = make(), torch.randn(1, 3, 33, 49)
    net.scales = (scale,)
    assert [tuple(map_.shape) for map_ in net.train()(picture)] == [(1, 21, *size) for size in (*sizes, sizes[0])]
    assert net.eval()(picture).shape == (1, 21, *sizes[0])
    net.scales = ()
    assert torch.equal(net.train()(picture)[0], net.eval()(picture)) and len(net.train()(picture)) == 1


def test_deeplab_loads_the_backbone_of_the_demo(tmp_path):
    torch.manual_seed(0)
    net, edam = deeplab_v2_tiny.Net(), resnet38_EDAM_tiny.Net()
    edam.load_state_dict(trained(edam))
    given = {name: tensor for name, tensor in edam.state_dict().items() if name in find_backbone(edam)[1]}
    torch.save(given | {"fc8.weight": torch.ones(2, 2)}, tmp_path / "b.pth")
    report = load_weights(net, tmp_path / "b.pth")
    aspp = [f"base.aspp.c{i}.{kind}" for i in range(4) for kind in ("weight", "bias")]
    assert (report.loaded, report.missing, report.unexpected) == (len(given), aspp, ["fc8.weight"])
    assert str(report).endswith("newly initialised: base.aspp; left out: fc8")
    theirs, ours = (backbone.eval().features(photos(1, 40, 48)) for backbone in (edam, net.base))
    torch.testing.assert_close(ours, theirs.relu())
    logits = sum(conv(ours) for conv in net.base.aspp.children())
    close = {"rtol": 1.3e-6, "atol": 2e-6 * logits.abs().max().item()}  # they are about 1e33
    torch.testing.assert_close(net.eval()(photos(1, 40, 48)), logits, **close)
