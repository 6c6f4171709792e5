"""Which files DeepLab-v2 and PoolNet start from, and what they say of the others."""

import json

import pytest
import torch
import torchvision
from conftest import PARITY
from torch import Tensor

from network import deeplab_v2, deeplab_v2_torchvision, poolnet
from network.caffe_resnet import DEEPLAB, CaffeResNet, put
from network.caffe_weights import load_weights
from tool.cli import UserError

OPTIONS = {"depths": (1, 1, 2, 1), "widths": (4, 8, 8, 8, 8), "num_labels": 3, "rates": (1, 2)}
SMALL = {"depths": (1, 1, 2, 1), "widths": (4, 8, 8, 8, 8), "laterals": (4, 4, 4, 4, 4), "width": 4}
ASPP = [f"base.aspp.c{i}.{kind}" for i in (0, 1) for kind in ("weight", "bias")]


@pytest.fixture
def net() -> deeplab_v2.Net:
    torch.manual_seed(0)
    return deeplab_v2.Net(**OPTIONS)


def trained(net: torch.nn.Module) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.rand(t.shape, generator=generator) if t.dim() else torch.tensor(5)
        for name, t in net.state_dict().items()
    }


def initial(net: torch.nn.Module) -> dict[str, Tensor]:
    """As deeplabv1_resnet101-coco.pth: no "base.", no ASPP, a classifier, running statistics in float64."""
    given = {name.removeprefix("base."): t for name, t in trained(net).items() if "aspp" not in name}
    given = {name: t.double() if "running" in name else t for name, t in given.items()}
    return {**given, "fc.weight": torch.zeros(91, 8, 1, 1), "fc.bias": torch.zeros(91)}


def saved(path, state: dict[str, Tensor]):
    torch.save(state, path / "weights.pth")
    return path / "weights.pth"


def check_equal(net: torch.nn.Module, state: dict[str, Tensor]) -> None:
    for name, value in net.state_dict().items():
        assert torch.equal(value, state[name]) and value.dtype == state[name].dtype, name


def test_a_checkpoint_fills_everything(tmp_path, net):
    state = trained(net)
    report = load_weights(net, saved(tmp_path, state))
    check_equal(net, state)
    assert (report.loaded, report.missing, report.unexpected) == (len(state), [], [])
    assert str(report) == f"loaded {len(state)} tensors from {tmp_path / 'weights.pth'}"


def test_initial_weights_fill_all_but_the_aspp(tmp_path, net):
    random = {name: net.state_dict()[name].clone() for name in ASPP}
    report = load_weights(net, saved(tmp_path, initial(net)))
    check_equal(net, {**trained(net), **random})
    assert report.missing == ASPP and report.unexpected == ["fc.weight", "fc.bias"]
    assert str(report).endswith("; base.aspp not in it, so these start from random values; left out fc")


@pytest.mark.parametrize("names", ["module.{}", "module.base.{}", "base.{}", "model.module.{}", "net.base.{}"])
def test_initial_weights_under_names_of_strangers(tmp_path, net, names):
    random = {name: net.state_dict()[name].clone() for name in ASPP}
    report = load_weights(net, saved(tmp_path, {"state_dict": {names.format(n): t for n, t in initial(net).items()}}))
    check_equal(net, {**trained(net), **random})
    fc = "base.fc" if "base" in names else "fc"
    assert report.missing == ASPP and report.unexpected == [f"{fc}.weight", f"{fc}.bias"]
    assert str(report).endswith(f"; left out {fc}")


@pytest.mark.parametrize("name", ["model", "net.base.resnet"])
def test_a_resnet_whose_own_prefix_is_that_of_a_wrapper(tmp_path, net, name):
    """The network's own names are kept; files of the ResNet alone and of the wrapped network fill it too."""
    resnet = CaffeResNet(OPTIONS["depths"], OPTIONS["widths"], names=DEEPLAB)
    bare, whole = initial(net), torch.nn.Module()
    put(whole, name, resnet)
    put(whole, "head", torch.nn.Linear(2, 2))
    own = {f"{name}.{n}": t for n, t in bare.items() if not n.startswith("fc.")}
    head = {n: t.clone() for n, t in whole.head.state_dict(prefix="head.").items()}
    expected = {n: t.float() if t.is_floating_point() else t for n, t in own.items()} | head
    for given in (
        own,
        {n.removeprefix(f"{name}."): t for n, t in own.items()},
        {f"module.{n}": t for n, t in own.items()},
    ):
        torch.nn.init.zeros_(resnet.get_submodule("layer1.conv1.conv").weight)
        assert load_weights(whole, saved(tmp_path, given)).missing == list(head)
        check_equal(whole, expected)
    report = load_weights(resnet, saved(tmp_path, bare))
    assert not report.missing and report.unexpected == ["fc.weight", "fc.bias"]


def test_a_checkpoint_of_a_wrapped_network_fills_everything(tmp_path, net):
    state = trained(net)
    for saved_as in ({f"module.{n}": t for n, t in state.items()}, {"epoch": 1, "model": state}):
        net = deeplab_v2.Net(**OPTIONS)
        assert not load_weights(net, saved(tmp_path, saved_as)).missing
        check_equal(net, state)


def test_the_published_file_of_initial_weights_has_these_names():
    layout = json.loads((PARITY / "deeplab_v2" / "state_dict_layout.json").read_text())
    with torch.device("meta"):
        net = deeplab_v2.Net()
    names = {f"base.{name}" for name in initial(deeplab_v2.Net(**{**OPTIONS, "depths": (3, 4, 23, 3)}))}
    assert len(names) == 626
    assert set(layout) - names == {f"base.aspp.c{i}.{kind}" for i in range(4) for kind in ("weight", "bias")}
    assert {name: list(t.shape) for name, t in net.state_dict().items()} == layout


def test_torchvisions_weights_are_for_the_variant(tmp_path, net):
    theirs = torchvision.models.resnet101()
    path = saved(tmp_path, theirs.state_dict())
    before = {name: t.clone() for name, t in net.state_dict().items()}
    with pytest.raises(UserError, match=r"--network network\.deeplab_v2_torchvision takes it$"):
        load_weights(net, path)
    check_equal(net, before)
    variant = deeplab_v2_torchvision.Net()
    report = load_weights(variant, path)
    assert (report.loaded, len(report.missing), report.unexpected) == (624, 8, ["fc.weight", "fc.bias"])
    # Of layers 1 and 2 alone it is the same network; layers 3 and 4 are dilated here.
    image = torch.rand(1, 3, 65, 65)
    with torch.inference_mode():
        stages = list(variant.eval().base.stages(image))
        x = theirs.eval().relu(theirs.bn1(theirs.conv1(image)))
        torch.testing.assert_close(stages[0], x)
        x = theirs.layer1(torch.nn.functional.max_pool2d(x, 3, 2, 1, ceil_mode=True))
        torch.testing.assert_close(stages[2], theirs.layer2(x))
    with pytest.raises(UserError, match=r"--network network\.deeplab_v2 takes it$"):
        load_weights(deeplab_v2_torchvision.Net(**OPTIONS), saved(tmp_path, initial(net)))


def change(name: str, value: Tensor | None = None):
    def changed(state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {**{n: t for n, t in state.items() if n != name}, **({} if value is None else {name: value})}

    return changed


LOST = "base.layer4.block2.reduce.bn.running_mean"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (lambda state: {"conv1a.weight": torch.zeros(1)}, "holds a ResNet38d, not weights of this network"),
        (lambda state: {"a": torch.zeros(1)}, r"holds 1 tensor \(a\), not weights of this network: a unknown"),
        (lambda state: {"fc.weight": torch.zeros(1)}, "not weights of this network: fc.weight unknown to it"),
        (
            lambda state: {n: t for n, t in state.items() if n.endswith("tracked")},
            "but lacks base.layer1.conv1.conv.weight, base.layer1.conv1.bn.weight, ",
        ),
        (change(LOST), f"but lacks {LOST} of this network; is --network the one"),
        (change("base.aspp.c1.bias"), "but lacks base.aspp.c1.bias of this network"),
        (
            change("base.aspp.c1.bias", torch.zeros(4)),
            r"base.aspp.c1.bias is \(4,\) in the file, \(3,\) in the network",
        ),
        (
            change("base.aspp.c1.bias", torch.tensor([0, torch.nan, 0])),
            "base.aspp.c1.bias holds values that are not fin",
        ),
        (change("base.more", torch.zeros(1)), "base.more unknown to it"),
        (lambda state: {"base.ppms_pre.weight": torch.zeros(1)}, "holds PoolNet.* unknown to it$"),
    ],
)
def test_weights_that_do_not_fit_change_nothing(tmp_path, net, changed, message):
    before = {name: t.clone() for name, t in net.state_dict().items()}
    with pytest.raises(UserError, match=message) as caught:
        load_weights(net, saved(tmp_path, changed(trained(net))))
    assert "weights.pth" in str(caught.value) and "\n" not in str(caught.value)
    check_equal(net, before)


def test_caffe_files_are_not_read(tmp_path, net):
    with pytest.raises(UserError, match=r"init\.caffemodel is a Caffe file; convert\.py of github\.com/kazuto1011"):
        load_weights(net, tmp_path / "init.caffemodel")


@pytest.mark.parametrize("network", [poolnet.Net, poolnet.JointNet])
def test_poolnet_is_told_by_its_names_and_loads(tmp_path, network):
    net = network(**SMALL)
    state = trained(net)
    assert poolnet.is_joint(state) == (network is poolnet.JointNet)
    report = load_weights(net, saved(tmp_path, state))
    check_equal(net, state)
    assert report.loaded == len(state) and not report.missing and not report.unexpected
    with pytest.raises(UserError, match="holds PoolNet"):
        load_weights((poolnet.JointNet if network is poolnet.Net else poolnet.Net)(**SMALL), tmp_path / "weights.pth")


def test_poolnet_starts_from_a_resnet_with_torchvisions_names(tmp_path):
    """As resnet50_caffe.pth: nothing before the names, perhaps a classifier."""
    net = poolnet.Net(**SMALL)
    random = {name: t.clone() for name, t in net.state_dict().items() if ".resnet." not in name}
    state = {name: t for name, t in trained(net).items() if ".resnet." in name}
    given = {name.removeprefix("base.resnet."): t for name, t in state.items()}
    report = load_weights(net, saved(tmp_path, {**given, "fc.bias": torch.zeros(1000)}))
    check_equal(net, {**state, **random})
    assert report.missing == list(random) and report.unexpected == ["fc.bias"]


def test_deeplabs_weights_are_not_poolnets(tmp_path, net):
    other = poolnet.Net(**SMALL)
    before = {name: t.clone() for name, t in other.state_dict().items()}
    for state in (trained(net), initial(net)):
        with pytest.raises(UserError, match=r"DeepLab's names, not weights of this.* unknown to it$"):
            load_weights(other, saved(tmp_path, state))
    check_equal(other, before)
