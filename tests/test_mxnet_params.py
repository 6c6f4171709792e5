import json
import struct

import numpy as np
import pytest
import torch
from conftest import PARITY
from weight_files import DTYPE_CODES, LAYOUTS, mxnet_name, params_bytes, torch_bytes, zip_bytes

from network.mxnet_params import read_params, to_resnet38d
from network.resnet38d import ResNet38d
from tool.cli import UserError

EXPECTED = json.loads((PARITY / "resnet38_mini_expected.json").read_text())
TWO = {"arg:conv1a_weight": np.arange(6, dtype=np.float32).reshape(1, 2, 3), "aux:bn7_moving_var": np.array([7.0, 8.0])}


def write(path, data: bytes):
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("version", ["0.9.5", "1.9"])
def test_parity_files_convert_exactly(version):
    raw = read_params(PARITY / f"resnet38_mini_mxnet{version}.params")
    tensors = to_resnet38d(raw)
    assert len(raw) == 193 and list(tensors) == list(EXPECTED)
    for name, tensor in tensors.items():
        assert list(tensor.shape) == EXPECTED[name]["shape"], name
        assert tensor.dtype == torch.float32
        assert float(tensor.numpy().sum()) == EXPECTED[name]["sum"], name  # summed in float32, by numpy
        assert tensor.flatten()[0].item() == EXPECTED[name]["first"], name


def test_the_two_parity_files_hold_the_same_arrays():
    old, new = (read_params(PARITY / f"resnet38_mini_mxnet{version}.params") for version in ("0.9.5", "1.9"))
    assert list(old) == list(new)
    assert all(np.array_equal(old[name], new[name]) for name in old)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_layouts_hold_all_value_types(tmp_path, layout):
    arrays = {
        f"arg:{name}": np.arange(-3 if name[0] != "u" else 0, 21, dtype=name)[:12].reshape(3, 1, 4)
        for name in DTYPE_CODES
    }
    read = read_params(write(tmp_path / "a.params", params_bytes(arrays, layout)))
    assert list(read) == list(arrays)
    for name, array in arrays.items():
        assert read[name].dtype == array.dtype and np.array_equal(read[name], array), name


def test_the_layout_of_mxnet_1_0_byte_by_byte(tmp_path):
    data = bytes.fromhex(
        "1201000000000000 0000000000000000 0100000000000000"  # list magic, reserved, one array
        "c8fa93f9 02000000 0200000000000000 0100000000000000"  # magic, 2 dimensions, 2 x 1
        "01000000 00000000 00000000 0000c03f 000000c0"  # CPU, 0, float32, 1.5, -2
        "0100000000000000 0100000000000000 78"  # one name of one byte: x
    )
    read = read_params(write(tmp_path / "a.params", data))
    assert list(read) == ["x"] and read["x"].tolist() == [[1.5], [-2.0]]


def test_every_backbone_tensor_has_its_mxnet_name():
    with torch.device("meta"):
        names = [name for name in ResNet38d().state_dict() if not name.endswith("num_batches_tracked")]
    assert len(names) == 191
    raw = {mxnet_name(name): np.full(1, index, np.float64) for index, name in enumerate(names)}
    assert {name: int(t) for name, t in to_resnet38d(raw).items()} == {name: index for index, name in enumerate(names)}
    assert mxnet_name("b4_3.bn_branch2b1.weight") == "arg:bn4b3_branch2b1_gamma"


@pytest.mark.parametrize(
    "name",
    [
        "res2a_branch1_weight",
        "aux:res2a_branch1_weight",
        "arg:res8a_branch1_weight",
        "arg:res4b3_branch2b1_gamma",
        "arg:bn4b3_branch2b1_moving_var",
        "arg:bn_data_gamma",
        "arg:fc1_weight",
        "arg:conv1a_weight\n",
    ],
)
def test_unknown_names_are_refused(name):
    with pytest.raises(UserError, match=r"is not a tensor of the ImageNet ResNet-38") as error:
        to_resnet38d({name: np.zeros(1, np.float32)})
    assert repr(name) in str(error.value)


def test_the_classifier_is_dropped():
    raw = {"arg:linear1000_weight": np.zeros(2), "arg:linear1000_bias": np.zeros(2), "arg:conv1a_weight": np.ones(1)}
    assert list(to_resnet38d(raw)) == ["conv1a.weight"]


def test_converted_tensors_have_memory_of_their_own(tmp_path):
    path = write(tmp_path / "a.params", params_bytes(TWO))
    tensors = to_resnet38d(read_params(path))
    tensors["conv1a.weight"].add_(1)
    assert read_params(path)["arg:conv1a_weight"].flatten().tolist() == [0, 1, 2, 3, 4, 5]


def changed(at: int, layout: str, value: int, original: bytes = params_bytes(TWO)) -> bytes:
    data = bytearray(original)
    struct.pack_into(layout, data, at, value)
    return bytes(data)


OLD = params_bytes(TWO, "0.x")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"weights .*a\.params is empty"),
        (b"\x89PNG\r\n\x1a\n" + bytes(99), "is not an MXNet .params file: it is a PNG image"),
        (b"hello\n", "it is a text file"),
        (b"\n <!DOCTYPE html><html>", "it is a web page, so the download went wrong"),
        (b"version https://git-lfs.github.com/spec/v1\n", "it is a Git LFS pointer"),
        (zip_bytes({"a": b"b"}), "it is a zip archive"),
        (torch_bytes({"a": torch.zeros(1)}, legacy=True), "it is a PyTorch file"),
        (b"\x12\x01", "it is of an unknown kind"),
        (params_bytes(TWO)[:20], "its header needs 24 bytes at byte 0, where 20 are left"),
        (params_bytes(TWO)[:40], "array 1 of 2 needs 24 bytes at byte 36, where 4 are left"),
        (params_bytes(TWO)[:90], r"array 1 of 2 needs 24 bytes at byte 72, where 18 are left"),
        (params_bytes(TWO)[:-1], "the list of names needs 18 bytes at byte 185, where 17 are left"),
        (params_bytes(TWO) + b"xy", "2 bytes follow its end"),
        (params_bytes({}), "no arrays"),
        (changed(16, "<Q", 2**60), f"array 3 of {2**60} claims the shape"),
        (changed(24, "<I", 0xF993FACA), "numpy shapes"),
        (changed(28, "<i", 1), r"array 1 of 2 is sparse \(storage type 1\)"),
        (changed(32, "<I", 0), "array 1 of 2 claims 0 dimensions"),
        (changed(32, "<I", 2**32 - 1), "array 1 of 2 claims 4294967295 dimensions"),
        (changed(36, "<q", -1), r"array 1 of 2 claims the shape \(-1, 2, 3\)"),
        (changed(36, "<q", 0), r"array 1 of 2 claims the shape \(0, 2, 3\)"),
        (changed(36, "<q", 2**60), r"array 1 of 2 needs more than 2\^63 bytes at byte 72, where 131 are left"),
        (changed(24, "<I", 2**31, OLD), "array 1 of 2 claims 2147483648 dimensions"),
        (changed(28, "<I", 2**32 - 1, OLD), "array 1 of 2 needs 103079215080 bytes at byte 52"),
        (changed(68, "<i", 7), "array 1 of 2 claims the value type 7"),
        (changed(144, "<Q", 3), "it has 2 arrays but 3 names"),
        (changed(152, "<Q", 2**60), f"the list of names needs {2**60} bytes"),
        (changed(160, "B", 0xFF), "a name is not text"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_with_a_file_is_said_in_one_line(tmp_path, data, message):
    with pytest.raises(UserError, match=message) as error:
        read_params(write(tmp_path / "a.params", data))
    assert "a.params" in str(error.value) and "\n" not in str(error.value)


def test_names_that_occur_twice_are_refused(tmp_path):
    data = params_bytes({"x": np.zeros(1), "y": np.zeros(1)})
    with pytest.raises(UserError, match="the name 'x' occurs twice"):
        read_params(write(tmp_path / "a.params", data[:-1] + b"x"))


def test_paths_that_are_no_files(tmp_path):
    with pytest.raises(UserError, match=r"weights .*absent\.params does not exist"):
        read_params(tmp_path / "absent.params")
    with pytest.raises(UserError, match="is a folder"):
        read_params(tmp_path)
    with pytest.raises(UserError, match="is not an ordinary file"):
        read_params("/dev/zero")
