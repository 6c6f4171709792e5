import numpy as np
import pytest
import torch
from conftest import PARITY
from torch import nn
from weight_files import (
    mxnet_name,
    params_bytes,
    pickle_of,
    small_tensors,
    torch_03_bytes,
    torch_bytes,
    with_pickle,
    zip_bytes,
    zip_records,
)

from network import resnet38_EDAM_tiny
from network.state_dict import read_state_dict
from network.weights import load_weights
from tool.cli import UserError
from tool.weight_file import read_torch_file

POSITIONS = "embedding.position.pe"
both_formats = pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])


def write(path, data: bytes):
    path.write_bytes(data)
    return path


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return resnet38_EDAM_tiny.Net()


def trained(net: nn.Module, seed: int = 1) -> dict[str, torch.Tensor]:
    """Other weights of the same network, the batch norms' counters included."""
    generator = torch.Generator().manual_seed(seed)
    state = net.state_dict()
    return {
        name: torch.rand(t.shape, generator=generator) if t.is_floating_point() and name != POSITIONS else t + 5
        for name, t in state.items()
    }


def backbone(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: t for name, t in state.items() if name.split(".")[0].split("_")[0] in BACKBONE}


BACKBONE = {"conv1a", "b2", "b3", "b4", "b5", "b6", "b7", "bn7"}
NEW = ["mask_layer", "embedding", "trans_list", "d_d", "fc_list"]


@both_formats
def test_reads_just_what_torch_reads(tmp_path, legacy):
    base = torch.arange(24.0)
    dtypes = (
        torch.float64,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
    )
    value = {
        "dtypes": [base.to(dtype) for dtype in (*dtypes, torch.bool)],
        "views": (base[3:9], base.view(4, 6).T, base.view(2, 3, 4)[:, 1, ::2]),
        "sizes": [torch.tensor(7.0), torch.empty(0), torch.empty(3, 0), base.view(2, 3, 4).shape],
        "parameter": nn.Parameter(base.clone()),
        5: {"plain": [None, True, -3, 2**80, 0.25, "text"], "layer": nn.BatchNorm2d(3).state_dict()},
    }
    path = write(tmp_path / "a.pth", torch_bytes(value, legacy))
    ours, theirs = read_torch_file(path), torch.load(path, weights_only=True)

    def same(a: object, b: object) -> bool:
        if isinstance(b, torch.Tensor):
            return a.dtype == b.dtype and a.shape == b.shape and a.stride() == b.stride() and torch.equal(a, b)
        if isinstance(b, dict):
            return list(a) == list(b) and all(same(a[key], b[key]) for key in b)
        if isinstance(b, list | tuple):
            return len(a) == len(b) and all(map(same, a, b))
        return a == b

    assert same(ours, theirs)
    ours["views"][0].zero_()
    assert ours["views"][1][3, 0] == 0  # they share memory, as they did when saved


def test_reads_files_of_pytorch_0_3(tmp_path):
    read = read_state_dict(write(tmp_path / "a.pth", torch_03_bytes()))
    assert read["a"].tolist() == [[0, 1, 2], [3, 4, 5]] and read["b"].tolist() == [2, 3]
    read["b"].zero_()
    assert read["a"].tolist() == [[0, 1, 0], [0, 4, 5]]


def test_warnings_of_pytorch_are_not_shown(tmp_path, recwarn):
    path = write(tmp_path / "a.pth", with_pickle(GOOD, pickle_of(GOOD).replace(b"\x80\x02", b"\x80\x03", 1)))
    assert set(read_state_dict(path)) == {"a.weight", "b"} and not recwarn
    torch.load(path, weights_only=True)
    assert len(recwarn) == 1  # there was something to show


@both_formats
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "net", "network"])
def test_finds_the_network_in_a_training_state(tmp_path, legacy, wrapper):
    model = nn.DataParallel(nn.Linear(3, 2))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model.module(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = model.state_dict()
    assert list(state) == ["module.weight", "module.bias"]
    saved = state if wrapper is None else {"step": 3, "optimizer": optimizer.state_dict(), wrapper: state}
    read = read_state_dict(write(tmp_path / "a.pth", torch_bytes(saved, legacy)))
    assert list(read) == ["weight", "bias"]
    assert torch.equal(read["weight"], model.module.weight) and torch.equal(read["bias"], model.module.bias)


@both_formats
def test_loads_a_whole_network(tmp_path, net, legacy):
    state = trained(net)
    path = write(tmp_path / "a.pth", torch_bytes(state, legacy))
    report = load_weights(net, path)
    assert all(torch.equal(t, state[name]) for name, t in net.state_dict().items())
    assert (report.loaded, report.missing, report.unexpected) == (len(state), [], [])
    assert str(report) == f"loaded {len(state)} tensors from {path}"


def test_loads_a_network_of_another_crop_and_without_counters(tmp_path, net):
    positions = net.state_dict()[POSITIONS].clone()
    state = {name: t for name, t in trained(net).items() if not name.endswith("num_batches_tracked")}
    state[POSITIONS] = torch.zeros(1, 2116, 64)
    report = load_weights(net, write(tmp_path / "a.pth", torch_bytes(state)))
    assert report.loaded == len(state) - 1 and not report.missing and not report.unexpected
    del state[POSITIONS]
    own = net.state_dict()
    assert all(torch.equal(own[name], t) for name, t in state.items())
    assert torch.equal(own[POSITIONS], positions)


@both_formats
@pytest.mark.parametrize("heads", [[], ["fc8.weight", "f8_3.weight", "f9.weight"]], ids=["alone", "with SEAM's heads"])
def test_loads_a_backbone_and_keeps_the_new_layers(tmp_path, net, legacy, heads):
    before = {name: t.clone() for name, t in net.state_dict().items()}
    given = backbone(trained(net))
    path = write(tmp_path / "a.pth", torch_bytes(given | {head: torch.ones(2, 2) for head in heads}, legacy))
    report = load_weights(net, path)
    after = net.state_dict()
    assert all(torch.equal(after[name], given.get(name, before[name])) for name in after)
    assert report.loaded == len(given) and report.unexpected == heads
    assert report.missing == [name for name in before if name not in given and name != POSITIONS]
    assert list(dict.fromkeys(name.split(".")[0] for name in report.missing)) == NEW
    tail = "; left out fc8, f8_3, f9" if heads else ""
    assert str(report) == (
        f"loaded {len(given)} tensors from {path}; mask_layer, embedding, trans_list, d_d, fc_list not in it, "
        f"so these start from random values{tail}"
    )


def test_loads_the_imagenet_backbone(tmp_path, net):
    given = {name: t for name, t in backbone(trained(net)).items() if not name.endswith("num_batches_tracked")}
    raw = {mxnet_name(name): t.numpy() for name, t in given.items()} | {
        "arg:linear1000_bias": np.zeros(1000, np.float32)
    }
    report = load_weights(net, write(tmp_path / "a.params", params_bytes(raw, "0.x")))
    assert all(torch.equal(net.state_dict()[name], t) for name, t in given.items())
    assert report.loaded == len(given) and {name.split(".")[0] for name in report.missing} == set(NEW)


def test_a_float64_file_is_rounded_to_the_networks_type(tmp_path, net):
    state = {name: t.double() if t.is_floating_point() else t for name, t in trained(net).items()}
    load_weights(net, write(tmp_path / "a.pth", torch_bytes(state)))
    assert net.conv1a.weight.dtype == torch.float32
    assert torch.equal(net.conv1a.weight, state["conv1a.weight"].float())


def without(*names: str):
    return lambda state: {name: t for name, t in state.items() if name not in names}


def replaced(name: str, value: torch.Tensor):
    return lambda state: state | {name: value}


RESNET = {f"layer{i}.0.conv{j}.weight": torch.zeros(1) for i in range(1, 5) for j in (1, 2)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state: RESNET,
            r"holds an ordinary ResNet, which is another network than ResNet38d, not weights of this network: "
            r"layer1\.0\.conv1\.weight, layer1\.0\.conv2\.weight, layer2\.0\.conv1\.weight and 5 more unknown to it",
        ),
        (lambda state: {"w": torch.zeros(1)}, r"holds 1 tensor \(w\), not weights of this network: w unknown to it"),
        (lambda state: {"fc8.weight": torch.zeros(1)}, "not weights of this network: fc8.weight unknown to it"),
        (
            replaced("extra.weight", torch.zeros(1)),
            "an EDAM network, not weights of this network: extra.weight unknown",
        ),
        (replaced("fc8.weight", torch.zeros(1)), "an EDAM network, not weights of this network: fc8.weight unknown"),
        (
            without("mask_layer.weight", "d_d.weight"),
            "holds an? .* but lacks mask_layer.weight, d_d.weight of this network",
        ),
        (without("b4.conv_branch2a.weight"), "holds an EDAM network but lacks b4.conv_branch2a.weight of this network"),
        (
            lambda state: without("bn7.bias")(backbone(state)),
            "a ResNet38d but lacks .*bn7.bias|and .* more of this network",
        ),
        (
            replaced("b2.conv_branch1.weight", torch.zeros(128, 64, 1, 1)),
            r"of other sizes than this network: b2\.conv_branch1\.weight is \(128, 64, 1, 1\) in the file, "
            r"\(32, 16, 1, 1\) in the network \(1 tensor of another shape\)",
        ),
        (replaced("bn7.bias", torch.full((256,), torch.nan)), "bn7.bias holds values that are not finite"),
        (
            replaced("bn7.bias", torch.full((256,), 1e300, dtype=torch.float64)),
            "bn7.bias holds values that are not finite",
        ),
        (replaced("bn7.bias", 3), "holds no state_dict: 'bn7.bias' is a int; save"),
        (lambda state: {}, "holds no state_dict but an empty dict"),
        (lambda state: [state], "holds no state_dict but a list"),
        (lambda state: {"epoch": 3, "model": {}}, "holds no state_dict but an empty dict"),
        (lambda state: {1: torch.zeros(1)}, "holds no state_dict: 1 is a tensor"),
        (lambda state: torch.zeros(3), "holds no state_dict but a tensor"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_what_does_not_fit_is_named_and_changes_nothing(tmp_path, net, change, message):
    before = {name: t.clone() for name, t in net.state_dict().items()}
    path = write(tmp_path / "a.pth", torch_bytes(change(trained(net))))
    with pytest.raises(UserError, match=message) as error:
        load_weights(net, path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())


def test_params_of_another_network_are_named(tmp_path, net):
    path = write(tmp_path / "a.params", params_bytes({"arg:bn_data_gamma": np.zeros(3, np.float32)}))
    with pytest.raises(UserError, match=r"a\.params: 'arg:bn_data_gamma' is not a tensor of the ImageNet ResNet-38"):
        load_weights(net, path)
    with pytest.raises(UserError, match=r"holds a ResNet38d, not weights of this network: b2_1\.bn_branch2a"):
        load_weights(net, PARITY / "resnet38_mini_mxnet1.9.params")


GOOD = torch_bytes(small_tensors())
LEGACY = torch_bytes(small_tensors(), legacy=True)


def archive(name: str, content: bytes) -> bytes:
    """GOOD with one more record."""
    return zip_bytes({**zip_records(GOOD), name: content})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty; the download or copy may have failed"),
        (b"\x89PNG\r\n\x1a\n" + bytes(99), r"holds no weights: it is a PNG image; MXNet \.params and PyTorch \.pth"),
        (b"<html>", "it is a web page, so the download went wrong"),
        (b"{}", "it is a text file"),
        (bytes(100), "it is of an unknown kind"),
        (zip_bytes({"EDAM.pth": GOOD}), "it is a zip archive without tensors; unpack it"),
        (archive("archive/constants.pkl", b""), "it is a TorchScript archive; save the state_dict"),
        (GOOD[:-30], "it is truncated$"),
        (GOOD.replace(torch.arange(6.0).numpy().tobytes(), bytes(24)), "it is damaged"),
        (with_pickle(GOOD, b""), "it is truncated$"),
        (with_pickle(GOOD, pickle_of(GOOD).replace(b"K\x06", b"K\x07", 1)), "it is damaged"),
        (with_pickle(GOOD, pickle_of(GOOD).replace(b"K\x03\x86", b"K\x04\x86")), "it is damaged"),
        (LEGACY[:-1], "it is truncated$"),
        (LEGACY[:60], "it is truncated$"),
        (LEGACY[: LEGACY.index(b"_rebuild_tensor") + 5], "it is truncated$"),
        (LEGACY.replace(b"\x80\x02M\xe9\x03.", b"\x80\x02M\xe8\x03."), "it is damaged"),
        (torch_bytes({"a": np.float64(1)}), r"holds no state_dict: 'a' is a scalar; save `net\.state_dict\(\)`"),
        (torch_bytes({"a": torch.zeros(2).to_sparse()}), "holds no state_dict: 'a' is no dense tensor"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_what_is_wrong_with_a_file_is_said_in_one_line(tmp_path, data, message):
    with pytest.raises(UserError, match=message) as error:
        read_state_dict(write(tmp_path / "a.pth", data))
    assert "a.pth" in str(error.value) and "\n" not in str(error.value)


def test_paths_that_are_no_files(tmp_path):
    with pytest.raises(UserError, match=r"weights .*absent\.pth does not exist"):
        read_state_dict(tmp_path / "absent.pth")
    with pytest.raises(UserError, match=r"is a folder; name the \.params or \.pth file in it"):
        read_state_dict(tmp_path)
    with pytest.raises(UserError, match="cannot read weights"):
        read_state_dict("a\0b")
