"""Loading weights: PyTorch files in all their wrappings, whole networks and backbones, and files that do not fit."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from network import deeplab_v2, deeplab_v2_tiny, deeplab_v2_torchvision, poolnet, poolnet_tiny, resnet38_EDAM_tiny
from network.weights import find_backbone, load_weights, make_poolnet, read_checkpoint
from tool.cli import UserError

POSITIONS = "embedding.position.pe"
DEEPLAB = {"depths": (1, 1, 2, 1), "widths": (4, 8, 8, 8, 8), "num_labels": 3, "rates": (1, 2)}
POOLNET = {"depths": (1, 1, 2, 1), "widths": (4, 8, 8, 8, 8), "laterals": (4, 4, 4, 4, 4), "width": 4}
ASPP = [f"base.aspp.c{i}.{kind}" for i in (0, 1) for kind in ("weight", "bias")]
SMALL = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([3, 4])}


def torch_bytes(value: Any, legacy: bool = False) -> bytes:
    """Return a file of torch.save in the zip format or the legacy one."""
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def zip_bytes(records: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in records.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def with_record(data: bytes, name: str, content: bytes) -> bytes:
    """Return a PyTorch zip file with a record replaced or added, such as "data.pkl"."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    return zip_bytes(records | {f"archive/{name}": content})


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return resnet38_EDAM_tiny.Net()


@pytest.fixture
def deeplab() -> nn.Module:
    torch.manual_seed(0)
    return deeplab_v2.Net(**DEEPLAB)


def write(folder: Path, value: Any, legacy: bool = False) -> Path:
    (folder / "a.pth").write_bytes(torch_bytes(value, legacy))
    return folder / "a.pth"


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


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("wrappers", [(), ("state_dict",), ("net", "model", "params")], ids=str)
def test_read_checkpoint_unwraps_training_states(tmp_path, legacy, wrappers):
    model = nn.DataParallel(nn.Linear(3, 2))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model.module(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    saved = model.state_dict()
    for name in reversed(wrappers):
        saved = {"epoch": 3, "optimizer": optimizer.state_dict(), "params": {"lr": 0.1}, name: saved}
    read, classes = read_checkpoint(write(tmp_path, saved, legacy))
    assert list(read) == ["weight", "bias"] and classes == ()
    assert torch.equal(read["weight"], model.module.weight) and torch.equal(read["bias"], model.module.bias)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.module.", "net.", "model._orig_mod.module.net."])
def test_read_checkpoint_strips_prefixes_of_all_names(tmp_path, prefix):
    state = {f"{prefix}{name}": tensor for name, tensor in SMALL.items()}
    assert list(read_checkpoint(write(tmp_path, state))[0]) == ["a.weight", "b"]
    state["c"] = torch.ones(1)
    assert list(read_checkpoint(write(tmp_path, state))[0]) == list(state)


def test_prefix_of_the_networks_own_names_is_kept(tmp_path):
    net = nn.Module()
    net.model = nn.Linear(2, 2)
    for saved in (net.state_dict(), nn.DataParallel(net).state_dict()):
        assert load_weights(net, write(tmp_path, saved)).loaded == 2


GOOD = torch_bytes(SMALL)


@pytest.mark.parametrize(
    ("data", "keyword"),
    [
        (None, "No such file"),
        (b"", "empty"),
        (b"<html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"7z\xbc\xaf'\x1c", "7z"),
        (zip_bytes({"EDAM.pth": GOOD}), "Unpack"),
        (with_record(GOOD, "constants.pkl", b""), "TorchScript"),
        (torch_bytes(nn.Linear(2, 2)), "Linear.*state_dict"),
        (torch_bytes(nn.Linear(2, 2), legacy=True), "state_dict"),
        (GOOD[:-30], "truncated"),
        (torch_bytes(SMALL, legacy=True)[:-1], "truncated"),
        (GOOD.replace(SMALL["a.weight"].numpy().tobytes(), bytes(24)), "damaged"),
        (torch_bytes({"generator": SMALL, "discriminator": SMALL}), "no dict of tensors"),
        (torch_bytes({"a": torch.zeros(2), "b": 3}), "no dict of tensors"),
        (torch_bytes({"a": torch.eye(2).to_sparse()}), "no dict of tensors"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_read_checkpoint_rejects(tmp_path, data, keyword, recwarn):
    if data is not None:
        (tmp_path / "a.pth").write_bytes(data)
    with pytest.raises(UserError, match=rf"a\.pth.*{keyword}") as error:
        read_checkpoint(tmp_path / "a.pth")
    assert "\n" not in str(error.value) and not recwarn.list


def test_load_network_of_another_crop_without_counters_in_float64(tmp_path, net):
    before = copied(net)
    given = {name: t for name, t in trained(net).items() if not name.endswith("num_batches_tracked")}
    given[POSITIONS] = torch.zeros(1, 2116, 64)
    saved = {name: t.double() if t.is_floating_point() else t for name, t in given.items()}
    report = load_weights(net, write(tmp_path, saved))
    assert report.loaded == len(given) - 1 and not report.missing and not report.unexpected
    del given[POSITIONS]
    check_equal(net, before | given)


def test_load_backbone_keeps_new_layers(tmp_path, net):
    before, given, heads = copied(net), backbone(net), ["fc8.weight", "f8_3.weight", "f9.weight"]  # SEAM's
    report = load_weights(net, write(tmp_path, given | {head: torch.ones(2, 2) for head in heads}))
    check_equal(net, before | given)
    assert report.loaded == len(given) and report.unexpected == heads
    assert report.missing == [name for name in before if name not in given and name != POSITIONS]
    assert "newly initialised: mask_layer, embedding.segment" in str(report)
    assert str(report).endswith("left out: fc8, f8_3, f9")


@pytest.mark.parametrize(
    ("change", "keyword"),
    [
        (lambda state: deeplab_v2_tiny.Net().state_dict(), "base.conv1a.weight, .* unknown"),
        (lambda state: state | {"extra.weight": torch.zeros(1)}, "extra.weight unknown"),
        (lambda state: dict(list(state.items())[1:]), "lacks conv1a.weight"),
        (lambda state: {"conv1a.weight": state["conv1a.weight"]}, r"lacks b2\."),
        (
            lambda state: state | {"b2.conv_branch1.weight": torch.zeros(128, 64, 1, 1)},
            r"b2\.conv_branch1\.weight .*\(128, 64, 1, 1\) in the file, \(32, 16, 1, 1\) in the network",
        ),
        (lambda state: state | {"bn7.bias": torch.full((256,), torch.nan)}, "bn7.bias .*NaN"),
        (lambda state: state | {"bn7.bias": torch.full((256,), 1e300, dtype=torch.float64)}, "bn7.bias .*infinity"),
        (lambda state: {"state_dict": state, "classes": ["cat", "dog"]}, "cat, dog.*VOC 2012"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_load_weights_rejects_files_of_other_networks(tmp_path, net, change, keyword):
    before = copied(net)
    with pytest.raises(UserError, match=rf"a\.pth: .*{keyword}") as error:
        load_weights(net, write(tmp_path, change(trained(net))))
    assert "\n" not in str(error.value)
    check_equal(net, before)


def test_fitting_networks_are_named(tmp_path, deeplab):
    """For whole networks and backbones; classes may differ."""
    for state, remedy in (
        (trained(poolnet.Net(**POOLNET)), "Check --network"),
        (trained(poolnet_tiny.Net()), "Check --network"),  # it fits, but is no DeepLab-v2
        (trained(deeplab_v2_tiny.Net(num_labels=4)), r"Try --network network\.deeplab_v2_tiny\."),
        (backbone(deeplab_v2_tiny.Net()), r"Try --network network\.deeplab_v2_tiny\."),
        (torchvision.models.resnet101().state_dict(), r"Try --network network\.deeplab_v2_torchvision\."),
    ):
        with pytest.raises(UserError, match=remedy):
            load_weights(deeplab, write(tmp_path, state))


@pytest.mark.parametrize("name", ["{}", "module.{}", "base.{}", "module.base.{}", "model.module.{}"])
def test_load_deeplab_initial_weights(tmp_path, deeplab, name):
    """As deeplabv1_resnet101-coco.pth: no "base.", no ASPP, a classifier, running statistics in float64."""
    expected = trained(deeplab) | {name: copied(deeplab)[name] for name in ASPP}
    given = {name: t.double() if "running" in name else t for name, t in backbone(deeplab).items()}
    given |= {"fc.weight": torch.zeros(91, 8, 1, 1), "fc.bias": torch.zeros(91)}
    report = load_weights(deeplab, write(tmp_path, {name.format(n): t for n, t in given.items()}))
    check_equal(deeplab, expected)
    fc = "base.fc" if "base" in name else "fc"
    assert report.missing == ASPP and report.unexpected == [f"{fc}.weight", f"{fc}.bias"]
    assert str(report).endswith(f"; newly initialised: base.aspp; left out: {fc}")


def test_torchvision_weights_fit_the_variant(tmp_path):
    theirs, variant = torchvision.models.resnet101(), deeplab_v2_torchvision.Net()
    report = load_weights(variant, write(tmp_path, theirs.state_dict()))
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
    state = trained(getattr(poolnet, kind)(**POOLNET))
    path = write(tmp_path, state)
    net, other = getattr(poolnet, kind)(**POOLNET), ({"Net", "JointNet"} - {kind}).pop()
    assert not load_weights(net, path).missing
    check_equal(net, state)
    with pytest.raises(UserError, match=r"a\.pth"):
        load_weights(getattr(poolnet, other)(**POOLNET), path)
    assert type(make_poolnet("network.poolnet", path, ("smallest_side",), init_weights=False)).__name__ == kind
