"""Loading weights: PyTorch files in all their wrappings, whole networks and backbones, and files that do not fit."""

import json

import numpy as np
import pytest
import torch
import torchvision
from conftest import PARITY
from torch import Tensor, nn
from weight_files import mxnet_name, params_bytes, small_tensors, torch_bytes, with_record, zip_bytes

from network import deeplab_v2, deeplab_v2_tiny, deeplab_v2_torchvision, poolnet, resnet38_EDAM_tiny
from network.weights import find_backbone, load_weights, make_poolnet, read_checkpoint
from tool.cli import UserError

POSITIONS = "embedding.position.pe"
DEEPLAB = {"depths": (1, 1, 2, 1), "widths": (4, 8, 8, 8, 8), "num_labels": 3, "rates": (1, 2)}
POOLNET = {"depths": (1, 1, 2, 1), "widths": (4, 8, 8, 8, 8), "laterals": (4, 4, 4, 4, 4), "width": 4}
ASPP = [f"base.aspp.c{i}.{kind}" for i in (0, 1) for kind in ("weight", "bias")]
both_formats = pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])


def write(path, value: object, legacy: bool = False):
    path.write_bytes(torch_bytes(value, legacy))
    return path


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return resnet38_EDAM_tiny.Net()


@pytest.fixture
def deeplab() -> nn.Module:
    torch.manual_seed(0)
    return deeplab_v2.Net(**DEEPLAB)


def copied(net: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def trained(net: nn.Module) -> dict[str, Tensor]:
    """Other weights of the same network, the batch norms' counters included."""
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.rand(t.shape, generator=generator) if t.is_floating_point() and name != POSITIONS else t + 5
        for name, t in net.state_dict().items()
    }


def backbone(net: nn.Module) -> dict[str, Tensor]:
    """Other weights of the backbone alone, with the names that files of it have."""
    prefix, names = find_backbone(net)
    return {name.removeprefix(prefix): tensor for name, tensor in trained(net).items() if name in names}


def check_equal(net: nn.Module, state: dict[str, Tensor]) -> None:
    for name, value in net.state_dict().items():
        assert torch.equal(value, state[name]) and value.dtype == state[name].dtype, name


@both_formats
@pytest.mark.parametrize(
    "wrappers",
    [(), ("state_dict",), ("model_state_dict",), ("net", "model", "params"), ("a_name_of_their_own",)],
    ids=str,
)
def test_read_checkpoint_unwraps_training_states(tmp_path, legacy, wrappers):
    model = nn.DataParallel(nn.Linear(3, 2))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model.module(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    saved = model.state_dict()
    for name in reversed(wrappers):
        saved = {"epoch": 3, "optimizer": optimizer.state_dict(), "params": {"lr": 0.1}, name: saved}
    read, classes = read_checkpoint(write(tmp_path / "a.pth", saved, legacy))
    assert list(read) == ["weight", "bias"] and classes == ()
    assert torch.equal(read["weight"], model.module.weight) and torch.equal(read["bias"], model.module.bias)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.module.", "net.", "model._orig_mod.module.net."])
def test_read_checkpoint_strips_prefixes_of_all_names(tmp_path, prefix):
    state = {f"{prefix}{name}": tensor for name, tensor in small_tensors().items()}
    assert list(read_checkpoint(write(tmp_path / "a.pth", state))[0]) == ["a.weight", "b"]
    state["c"] = torch.ones(1)
    assert list(read_checkpoint(write(tmp_path / "a.pth", state))[0]) == list(state)


def test_prefix_of_the_networks_own_names_is_kept(tmp_path):
    net = nn.Module()
    net.model = nn.Linear(2, 2)
    for saved in (net.state_dict(), nn.DataParallel(net).state_dict()):
        assert load_weights(net, write(tmp_path / "a.pth", saved)).loaded == 2


GOOD, LEGACY = torch_bytes(small_tensors()), torch_bytes(small_tensors(), legacy=True)
VALUES = torch.arange(6.0).numpy().tobytes()


@pytest.mark.parametrize(
    ("data", "keyword"),
    [
        (b"", "empty"),
        (b"<html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"7z\xbc\xaf'\x1c", "7z"),
        (b"\x89PNG\r\n\x1a\n", "unknown"),
        (zip_bytes({"EDAM.pth": GOOD}), "Unpack"),
        (with_record(GOOD, "constants.pkl", b""), "TorchScript"),
        (torch_bytes(nn.Linear(2, 2)), "Linear.*state_dict"),
        (torch_bytes(nn.Linear(2, 2), legacy=True), "state_dict"),
        (GOOD[:-30], "truncated"),
        (LEGACY[:-1], "truncated"),
        (GOOD.replace(VALUES, bytes(24)), "damaged"),
        (torch_bytes([small_tensors()]), "no dict of tensors"),
        (torch_bytes({}), "no dict of tensors"),
        (torch_bytes({"generator": small_tensors(), "discriminator": small_tensors()}), "no dict of tensors"),
        (torch_bytes({"a": torch.zeros(2), "b": 3}), "no dict of tensors"),
        (torch_bytes({1: torch.zeros(2)}), "no dict of tensors"),
        (torch_bytes({"a": torch.zeros(2).to_sparse()}), "no dict of tensors"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_read_checkpoint_rejects(tmp_path, data, keyword):
    (tmp_path / "a.pth").write_bytes(data)
    with pytest.raises(UserError, match=keyword) as error:
        read_checkpoint(tmp_path / "a.pth")
    assert "a.pth" in str(error.value) and "\n" not in str(error.value)


def test_read_checkpoint_rejects_other_paths(tmp_path):
    with pytest.raises(UserError, match=r"absent\.pth does not exist\. Correct the path"):
        read_checkpoint(tmp_path / "absent.pth")
    with pytest.raises(UserError, match=f"{tmp_path}: it is a folder. Name a file in it"):
        read_checkpoint(tmp_path)


@both_formats
def test_load_whole_network(tmp_path, net, legacy):
    state = trained(net)
    path = write(tmp_path / "a.pth", state, legacy)
    report = load_weights(net, path)
    check_equal(net, state)
    assert (report.loaded, report.missing, report.unexpected) == (len(state), [], [])
    assert str(report) == f"loaded {len(state)} tensors from {path}"


def test_load_network_of_another_crop_without_counters_in_float64(tmp_path, net):
    before = copied(net)
    given = {name: t for name, t in trained(net).items() if not name.endswith("num_batches_tracked")}
    given[POSITIONS] = torch.zeros(1, 2116, 64)
    given = {name: t.double() if t.is_floating_point() else t for name, t in given.items()}
    report = load_weights(net, write(tmp_path / "a.pth", given))
    assert report.loaded == len(given) - 1 and not report.missing and not report.unexpected
    del given[POSITIONS]
    check_equal(net, before | {name: t.float() for name, t in given.items()})


@pytest.mark.parametrize("heads", [[], ["fc8.weight", "f8_3.weight", "f9.weight"]], ids=["alone", "with SEAM's heads"])
def test_load_backbone_keeps_new_layers(tmp_path, net, heads):
    before, given = copied(net), backbone(net)
    report = load_weights(net, write(tmp_path / "a.pth", given | {head: torch.ones(2, 2) for head in heads}))
    check_equal(net, before | given)
    assert report.loaded == len(given) and report.unexpected == heads
    assert report.missing == [name for name in before if name not in given and name != POSITIONS]
    assert "newly initialised: mask_layer, embedding.segment" in str(report)
    assert str(report).endswith("left out: fc8, f8_3, f9") == bool(heads)


def test_load_imagenet_params(tmp_path, net):
    given = {name: t for name, t in backbone(net).items() if not name.endswith("num_batches_tracked")}
    arrays = {mxnet_name(name): t.numpy() for name, t in given.items()}
    (tmp_path / "a.params").write_bytes(params_bytes(arrays | {"arg:linear1000_bias": np.zeros(1000)}, "0.x"))
    before = copied(net)
    assert load_weights(net, tmp_path / "a.params").loaded == len(given)
    check_equal(net, before | given)
    with pytest.raises(UserError, match=r"resnet38_mini_mxnet1\.9\.params.*b2_1\.bn_branch2a"):
        load_weights(net, PARITY / "resnet38_mini_mxnet1.9.params")  # it has more blocks


def without(*names: str):
    return lambda state: {name: t for name, t in state.items() if name not in names}


def replaced(name: str, value: Tensor):
    return lambda state: state | {name: value}


@pytest.mark.parametrize(
    ("change", "keyword"),
    [
        (lambda state: {"layer1.0.conv1.weight": torch.zeros(1)}, r"layer1\.0\.conv1\.weight unknown"),
        (lambda state: {"fc8.weight": torch.zeros(1)}, "fc8.weight unknown"),
        (replaced("extra.weight", torch.zeros(1)), "extra.weight unknown"),
        (without("mask_layer.weight", "d_d.weight"), "lacks mask_layer.weight, d_d.weight"),
        (without("b4.conv_branch2a.weight"), "lacks b4.conv_branch2a.weight"),
        (lambda state: {"conv1a.weight": state["conv1a.weight"]}, r"lacks b2\."),
        (
            replaced("b2.conv_branch1.weight", torch.zeros(128, 64, 1, 1)),
            r"b2\.conv_branch1\.weight .*\(128, 64, 1, 1\) in the file, \(32, 16, 1, 1\) in the network",
        ),
        (replaced("bn7.bias", torch.full((256,), torch.nan)), "bn7.bias .*NaN.* Give an earlier checkpoint"),
        (replaced("bn7.bias", torch.full((256,), 1e300, dtype=torch.float64)), "bn7.bias .*infinity"),
        (lambda state: {"state_dict": state, "classes": ["cat", "dog"]}, "2 classes cat, dog.*VOC 2012"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_load_weights_rejects_files_of_other_networks(tmp_path, net, change, keyword):
    before = copied(net)
    path = write(tmp_path / "a.pth", change(trained(net)))
    with pytest.raises(UserError, match=keyword) as error:
        load_weights(net, path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    check_equal(net, before)


def test_files_do_not_fit_other_networks(tmp_path, net, deeplab):
    tiny = deeplab_v2_tiny.Net()
    for into, state, keyword in (
        (tiny, net.state_dict(), "mask_layer.weight, .* unknown"),
        (tiny, deeplab.state_dict(), "unknown to this network"),
        (tiny, without("base.aspp.c0.bias")(tiny.state_dict()), "lacks base.aspp.c0.bias"),
        (net, tiny.state_dict(), "base.conv1a.weight, .* unknown"),
        (deeplab, backbone(net), "conv1a.weight, .* unknown"),
        (deeplab, trained(poolnet.Net(**POOLNET)), "Check --network"),
        (deeplab, trained(deeplab_v2_tiny.Net(num_labels=4)), "Try --network network.deeplab_v2_tiny"),
    ):
        before = copied(into)
        with pytest.raises(UserError, match=keyword):
            load_weights(into, write(tmp_path / "a.pth", state))
        check_equal(into, before)


@pytest.mark.parametrize("name", ["{}", "module.{}", "base.{}", "module.base.{}", "model.module.{}", "net.base.{}"])
def test_load_deeplab_initial_weights(tmp_path, deeplab, name):
    """As deeplabv1_resnet101-coco.pth: no "base.", no ASPP, a classifier, running statistics in float64."""
    expected = trained(deeplab) | {name: copied(deeplab)[name] for name in ASPP}
    given = {name: t.double() if "running" in name else t for name, t in backbone(deeplab).items()}
    given |= {"fc.weight": torch.zeros(91, 8, 1, 1), "fc.bias": torch.zeros(91)}
    report = load_weights(deeplab, write(tmp_path / "a.pth", {name.format(n): t for n, t in given.items()}))
    check_equal(deeplab, expected)
    fc = "base.fc" if "base" in name else "fc"
    assert report.missing == ASPP and report.unexpected == [f"{fc}.weight", f"{fc}.bias"]
    assert str(report).endswith(f"; newly initialised: base.aspp; left out: {fc}")


def test_deeplab_initial_weights_have_the_published_names():
    layout = json.loads((PARITY / "deeplab_v2" / "state_dict_layout.json").read_text())
    with torch.device("meta"):
        net = deeplab_v2.Net()
    names = {f"base.{name}" for name in backbone(net)}
    assert len(names) == 624
    assert set(layout) - names == {f"base.aspp.c{i}.{kind}" for i in range(4) for kind in ("weight", "bias")}
    assert {name: list(t.shape) for name, t in net.state_dict().items()} == layout


def test_torchvision_weights_fit_the_variant_only(tmp_path, deeplab):
    theirs = torchvision.models.resnet101()
    path = write(tmp_path / "a.pth", theirs.state_dict())
    with pytest.raises(UserError, match=r"a\.pth.*Check --network"):
        load_weights(deeplab, path)
    variant = deeplab_v2_torchvision.Net()
    report = load_weights(variant, path)
    assert (report.loaded, len(report.missing), report.unexpected) == (624, 8, ["fc.weight", "fc.bias"])
    # Layers 1 and 2 are the same network; layers 3 and 4 are dilated here.
    image = torch.rand(1, 3, 65, 65)
    with torch.inference_mode():
        stages = list(variant.eval().base.stages(image))
        x = theirs.eval().relu(theirs.bn1(theirs.conv1(image)))
        torch.testing.assert_close(stages[0], x)
        x = theirs.layer1(torch.nn.functional.max_pool2d(x, 3, 2, 1, ceil_mode=True))
        torch.testing.assert_close(stages[2], theirs.layer2(x))


@pytest.mark.parametrize("kind", ["Net", "JointNet"])
def test_poolnet_with_and_without_its_edge_branch(tmp_path, kind):
    tiny = make_poolnet("network.poolnet_tiny", None, ())
    assert type(tiny).__name__ == "Net"
    state = trained(getattr(poolnet, kind)(**POOLNET))
    path = write(tmp_path / "a.pth", state)
    net, other = getattr(poolnet, kind)(**POOLNET), ({"Net", "JointNet"} - {kind}).pop()
    assert not load_weights(net, path).missing
    check_equal(net, state)
    with pytest.raises(UserError, match=r"a\.pth"):
        load_weights(getattr(poolnet, other)(**POOLNET), path)
    made = make_poolnet("network.poolnet", path, ("smallest_side",), init_weights=False)
    assert type(made).__name__ == kind


def test_poolnet_starts_from_resnet50_caffe(tmp_path):
    """Names without a prefix, perhaps a classifier."""
    net = poolnet.Net(**POOLNET)
    before, given = copied(net), backbone(net)
    report = load_weights(net, write(tmp_path / "a.pth", {**given, "fc.bias": torch.zeros(1000)}))
    check_equal(net, before | {f"base.resnet.{name}": tensor for name, tensor in given.items()})
    assert report.missing == [name for name in before if ".resnet." not in name]
    assert report.unexpected == ["fc.bias"]
