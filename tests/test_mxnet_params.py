"""MXNet's .params files and the ImageNet ResNet-38 in them."""

import json
import struct
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from conftest import PARITY

from network import resnet38_EDAM_tiny
from network.mxnet_params import read_params, to_resnet38d
from network.resnet38d import ResNet38d
from network.weights import find_backbone, load_weights
from tool.cli import UserError

MINI = PARITY / "resnet38_mini_mxnet1.9.params"
DTYPES = ("float32", "float64", "float16", "uint8", "int32", "int8", "int64")  # by MXNet's number


def params_bytes(arrays: Mapping[str, np.ndarray], layout: str = "1.x") -> bytes:
    """Return a .params file in the layout of MXNet 0.x (no magic, u32 dims), 1.0 (magic, i64 dims) or 1.x (and a storage type)."""
    data = struct.pack("<QQQ", 0x112, 0, len(arrays))
    for array in arrays.values():
        data += {"0.x": b"", "1.0": struct.pack("<I", 0xF993FAC8), "1.x": struct.pack("<Ii", 0xF993FAC9, 0)}[layout]
        data += struct.pack(f"<I{array.ndim}{'I' if layout == '0.x' else 'q'}", array.ndim, *array.shape)
        data += struct.pack("<iii", 1, 0, DTYPES.index(array.dtype.name)) + array.tobytes()
    data += struct.pack("<Q", len(arrays))
    for name in arrays:
        data += struct.pack("<Q", len(name)) + name.encode()
    return data


def test_parity_files_convert_exactly():
    raw, new = read_params(PARITY / "resnet38_mini_mxnet0.9.5.params"), read_params(MINI)
    assert list(raw) == list(new) and all(np.array_equal(raw[name], new[name]) for name in raw)
    tensors = to_resnet38d(raw, "a.params")
    expected = json.loads((PARITY / "resnet38_mini_expected.json").read_text())
    assert len(raw) == 193 and list(tensors) == list(expected)
    for name, tensor in tensors.items():
        assert list(tensor.shape) == expected[name]["shape"], name
        assert tensor.dtype == torch.float32
        assert float(tensor.numpy().sum()) == expected[name]["sum"], name  # summed in float32, by numpy
        assert tensor.flatten()[0].item() == expected[name]["first"], name
    with torch.device("meta"):
        names = {name for name in ResNet38d().state_dict() if not name.endswith("num_batches_tracked")}
    assert names == set(expected)


@pytest.mark.parametrize("layout", ["0.x", "1.0", "1.x"])
def test_read_params_of_all_layouts_and_value_types(tmp_path, layout):
    arrays = {
        f"arg:{name}": np.arange(-3 if name[0] != "u" else 0, 21, dtype=name)[:12].reshape(3, 1, 4) for name in DTYPES
    }
    (tmp_path / "a.params").write_bytes(params_bytes(arrays, layout))
    read = read_params(tmp_path / "a.params")
    assert list(read) == list(arrays)
    for name, array in arrays.items():
        assert read[name].dtype == array.dtype and np.array_equal(read[name], array), name


def test_load_imagenet_params(tmp_path):
    net = resnet38_EDAM_tiny.Net()
    names = {ours: theirs for theirs in read_params(MINI) for ours in to_resnet38d({theirs: np.zeros(1)}, "a.params")}
    given = {name: torch.rand(net.state_dict()[name].shape) for name in find_backbone(net)[1] & names.keys()}
    arrays = {names[name]: tensor.numpy() for name, tensor in given.items()}
    (tmp_path / "a.params").write_bytes(params_bytes(arrays | {"arg:linear1000_bias": np.zeros(1000)}, "0.x"))
    assert load_weights(net, tmp_path / "a.params").loaded == len(given)
    assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in given.items())
    with pytest.raises(UserError, match=r"resnet38_mini_mxnet1\.9\.params.*b2_1\.bn_branch2a"):
        load_weights(net, MINI)  # it has more blocks


@pytest.mark.parametrize("name", ["res2a_branch1_weight", "arg:bn8a_branch2a_gamma", "arg:conv1a_weight\n"])
def test_to_resnet38d_rejects_other_names(name):
    with pytest.raises(UserError, match=r"a\.params.*ResNet-38") as error:
        to_resnet38d({name: np.zeros(1, np.float32)}, "a.params")
    assert repr(name) in str(error.value)


def test_read_params_rejects_damaged_files(tmp_path):
    data = params_bytes({"arg:conv1a_weight": np.zeros((1, 2, 3), np.float32)})
    damaged = [data[:length] for length in range(9, len(data))]
    for at, values in ((16, b"\xff" * 7), (28, b"\1"), (36, b"\xff" * 8), (68, b"\7"), (-1, b"\xff")):
        damaged.append(data[:at] + values + data[at:][len(values) :])  # count, storage type, a side, value type, name
    for content in (*damaged, data + b"x"):
        (tmp_path / "a.params").write_bytes(content)
        with pytest.raises(UserError, match=r"a\.params: truncated or damaged"):
            read_params(tmp_path / "a.params")
