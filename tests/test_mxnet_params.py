"""MXNet's .params files and the ImageNet ResNet-38 in them."""

import json
import struct

import numpy as np
import pytest
import torch
from conftest import PARITY
from weight_files import DTYPE_CODES, LAYOUTS, mxnet_name, params_bytes, zip_bytes

from network.mxnet_params import read_params, to_resnet38d
from network.resnet38d import ResNet38d
from tool.cli import UserError

EXPECTED = json.loads((PARITY / "resnet38_mini_expected.json").read_text())
TWO = {"arg:conv1a_weight": np.arange(6, dtype=np.float32).reshape(1, 2, 3), "aux:bn7_moving_var": np.array([7.0, 8.0])}


def write(path, data: bytes):
    path.write_bytes(data)
    return path


def test_parity_files_convert_exactly():
    raw, new = (read_params(PARITY / f"resnet38_mini_mxnet{version}.params") for version in ("0.9.5", "1.9"))
    assert list(raw) == list(new) and all(np.array_equal(raw[name], new[name]) for name in raw)
    tensors = to_resnet38d(raw, "a.params")
    assert len(raw) == 193 and list(tensors) == list(EXPECTED)
    for name, tensor in tensors.items():
        assert list(tensor.shape) == EXPECTED[name]["shape"], name
        assert tensor.dtype == torch.float32
        assert float(tensor.numpy().sum()) == EXPECTED[name]["sum"], name  # summed in float32, by numpy
        assert tensor.flatten()[0].item() == EXPECTED[name]["first"], name


@pytest.mark.parametrize("layout", LAYOUTS)
def test_read_params_of_all_layouts_and_value_types(tmp_path, layout):
    arrays = {
        f"arg:{name}": np.arange(-3 if name[0] != "u" else 0, 21, dtype=name)[:12].reshape(3, 1, 4)
        for name in DTYPE_CODES
    }
    read = read_params(write(tmp_path / "a.params", params_bytes(arrays, layout)))
    assert list(read) == list(arrays)
    for name, array in arrays.items():
        assert read[name].dtype == array.dtype and np.array_equal(read[name], array), name


def test_read_params_of_mxnet_1_0_byte_by_byte(tmp_path):
    data = bytes.fromhex(
        "1201000000000000 0000000000000000 0100000000000000"  # list magic, reserved, one array
        "c8fa93f9 02000000 0200000000000000 0100000000000000"  # magic, 2 dimensions, 2 x 1
        "01000000 00000000 00000000 0000c03f 000000c0"  # CPU, 0, float32, 1.5, -2
        "0100000000000000 0100000000000000 78"  # one name of one byte: x
    )
    read = read_params(write(tmp_path / "a.params", data))
    assert list(read) == ["x"] and read["x"].tolist() == [[1.5], [-2.0]]


def test_to_resnet38d_names_every_tensor():
    with torch.device("meta"):
        names = [name for name in ResNet38d().state_dict() if not name.endswith("num_batches_tracked")]
    assert len(names) == 191
    raw = {mxnet_name(name): np.full(1, index, np.float64) for index, name in enumerate(names)}
    converted = to_resnet38d(raw, "a.params")
    assert {name: int(t) for name, t in converted.items()} == {name: index for index, name in enumerate(names)}
    assert mxnet_name("b4_3.bn_branch2b1.weight") == "arg:bn4b3_branch2b1_gamma"


@pytest.mark.parametrize("name", ["res2a_branch1_weight", "arg:bn8a_branch2a_gamma", "arg:conv1a_weight\n"])
def test_to_resnet38d_rejects_other_names(name):
    with pytest.raises(UserError, match=r"a\.params.*ResNet-38") as error:
        to_resnet38d({name: np.zeros(1, np.float32)}, "a.params")
    assert repr(name) in str(error.value)


def test_to_resnet38d_drops_the_classifier_and_copies(tmp_path):
    path = write(tmp_path / "a.params", params_bytes(TWO | {"arg:linear1000_bias": np.zeros(2)}))
    tensors = to_resnet38d(read_params(path), path)
    assert list(tensors) == ["conv1a.weight", "bn7.running_var"]
    tensors["conv1a.weight"].add_(1)
    assert read_params(path)["arg:conv1a_weight"].flatten().tolist() == [0, 1, 2, 3, 4, 5]


def changed(at: int, layout: str, value: int) -> bytes:
    data = bytearray(params_bytes(TWO))
    struct.pack_into(layout, data, at, value)
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "keyword"),
    [
        (b"", "empty"),
        (zip_bytes({"a": b"b"}), "zip archive"),
        (params_bytes(TWO)[:-1], "truncated"),
        (params_bytes(TWO) + b"xy", "bytes follow its end"),
        (changed(16, "<Q", 2**60), "damaged"),  # number of arrays
        (changed(28, "<i", 1), "sparse"),
        (changed(32, "<I", 2**32 - 1), "damaged"),  # dimensions
        (changed(36, "<q", -1), "damaged"),  # a side
        (changed(68, "<i", 7), "damaged"),  # value type
        (changed(144, "<Q", 3), "damaged"),  # number of names
        (changed(152, "<Q", 2**60), "damaged"),  # length of a name
        (changed(160, "B", 0xFF), "damaged"),  # a name that is no text
    ],
)
def test_read_params_rejects(tmp_path, data, keyword):
    with pytest.raises(UserError, match=keyword) as error:
        read_params(write(tmp_path / "a.params", data))
    assert "a.params" in str(error.value) and "\n" not in str(error.value)
