"""Reads MXNet's `.params` (NDArray list) files without MXNet: ImageNet weights of ResNet-38 are published as one.

Little-endian. u64 0x112, u64 0, u64 number of arrays; each array; u64 number of names; each name: u64 length, bytes.
An array has one of three layouts, by its first u32 (`NDArray::Save` of MXNet 1.x, 1.0 and 0.x):
    0xF993FAC9: i32 storage type (0, dense), u32 ndim, i64 dims
    0xF993FAC8:                              u32 ndim, i64 dims
    otherwise:                it is itself the u32 ndim, u32 dims
and then i32 device type, i32 device id, i32 dtype, the values.
"""

import math
import mmap
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tool.cli import UserError
from tool.weight_file import MXNET, open_weights

_DTYPES = {code: np.dtype(name) for code, name in enumerate(("<f4", "<f8", "<f2", "u1", "<i4", "i1", "<i8"))}
_MAGIC_1_0, _MAGIC_1_X, _MAGIC_NUMPY_SHAPES = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
_MAX_NDIM = 32

_BLOCK = re.compile(r"(arg:res|arg:bn|aux:bn)([2-7])(a|b[1-5])_(branch1|branch2a|branch2b[12])_(\w+)")
_WEIGHTS = {"arg:res": {"weight": "weight"}, "arg:bn": {"gamma": "weight", "beta": "bias"}}
_WEIGHTS["aux:bn"] = {"moving_mean": "running_mean", "moving_var": "running_var"}
_SINGLE = {"arg:conv1a_weight": "conv1a.weight"}
for _kind in ("arg:bn", "aux:bn"):
    _SINGLE |= {f"{_kind}7_{theirs}": f"bn7.{ours}" for theirs, ours in _WEIGHTS[_kind].items()}
_DROPPED = {"arg:linear1000_weight", "arg:linear1000_bias"}  # the 1000-way ImageNet classifier


def read_params(path: str | Path) -> dict[str, np.ndarray]:
    """Arrays of a `.params` file by their names in it, such as "arg:conv1a_weight".

    The arrays are read-only and lie in the file, which is mapped, not read. Every length is held against the bytes that
    are left before it is used. Raises UserError: no such file, another kind of file, a truncated or a damaged one.
    """
    file, kind = open_weights(path)
    with file:
        if kind != MXNET:
            raise UserError(f"{path} is not an MXNet .params file: it is {kind}")
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        return _Reader(data).read()
    except ValueError as error:
        raise UserError(f"{path} is a truncated or damaged .params file: {error}") from None


def to_resnet38d(raw: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """Tensors of `ResNet38d` (float32, CPU, own memory) from the arrays of the ImageNet ResNet-38.

    "arg:res4b3_branch2b1_weight" becomes "b4_3.conv_branch2b1.weight", "aux:bn2a_branch2a_moving_var" becomes
    "b2.bn_branch2a.running_var"; the 1000-way classifier is dropped. Raises UserError on any other name.
    """
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, which `load_weights` refuses by name
        ours = {_our_name(name): array.astype(np.float32) for name, array in raw.items() if name not in _DROPPED}
    return {name: torch.from_numpy(array) for name, array in ours.items()}


def _our_name(name: str) -> str:
    if name in _SINGLE:
        return _SINGLE[name]
    match = _BLOCK.fullmatch(name)
    if match is None or match[5] not in _WEIGHTS[match[1]]:
        raise UserError(
            f"{name[:80]!r} is not a tensor of the ImageNet ResNet-38; --weights takes that network's .params"
        )
    kind, stage, block, branch, what = match.groups()
    block = f"b{stage}" if block == "a" else f"b{stage}_{block[1:]}"
    layer = "conv" if kind == "arg:res" else "bn"
    return f"{block}.{layer}_{branch}.{_WEIGHTS[kind][what]}"


class _Reader:
    """Goes through the file once. ValueError says what is wrong and where."""

    def __init__(self, data: mmap.mmap):
        self.data, self.at, self.what = data, 0, "its header"

    def read(self) -> dict[str, np.ndarray]:
        _, _, count = self.take("<QQQ")
        if count == 0:
            raise ValueError("it holds no arrays")
        arrays = []
        for index in range(count):
            self.what = f"array {index + 1} of {count}"
            arrays.append(self.array())
        self.what = "the list of names"
        if (names := self.take("<Q")[0]) != count:
            raise ValueError(f"it has {count} arrays but {names} names")
        named: dict[str, np.ndarray] = {}
        for array in arrays:
            name = self.name()
            if name in named:
                raise ValueError(f"the name {name[:80]!r} occurs twice")
            named[name] = array
        if self.at != len(self.data):
            raise ValueError(f"{len(self.data) - self.at} bytes follow its end")
        return named

    def need(self, count: int) -> None:
        if (left := len(self.data) - self.at) < count:
            raise ValueError(f"{self.what} needs {_short(count)} bytes at byte {self.at}, where {left} are left")

    def take(self, layout: str) -> tuple[Any, ...]:
        size = struct.calcsize(layout)
        self.need(size)
        self.at += size
        return struct.unpack_from(layout, self.data, self.at - size)

    def array(self) -> np.ndarray:
        dim = "q"
        (ndim,) = self.take("<I")
        if ndim == _MAGIC_1_X:
            storage, ndim = self.take("<iI")
            if storage != 0:
                raise ValueError(f"{self.what} is sparse (storage type {storage}); only dense ones are read")
        elif ndim == _MAGIC_1_0:
            (ndim,) = self.take("<I")
        elif ndim == _MAGIC_NUMPY_SHAPES:
            raise ValueError(f"{self.what} was saved under MXNet's numpy shapes, which are not read")
        else:
            dim = "I"
        if not 1 <= ndim <= _MAX_NDIM:
            raise ValueError(f"{self.what} claims {ndim} dimensions")
        shape = self.take(f"<{ndim}{dim}")
        if min(shape) < 1:
            raise ValueError(f"{self.what} claims the shape {shape}")
        _, _, code = self.take("<iii")
        if code not in _DTYPES:
            raise ValueError(f"{self.what} claims the value type {code}, where 0 to 6 are known")
        dtype, count = _DTYPES[code], math.prod(shape)
        self.need(count * dtype.itemsize)
        array = np.frombuffer(self.data, dtype, count, self.at).reshape(shape)
        self.at += array.nbytes
        return array

    def name(self) -> str:
        (length,) = self.take("<Q")
        self.need(length)
        self.at += length
        try:
            return self.data[self.at - length : self.at].decode("utf-8")
        except UnicodeDecodeError:
            raise ValueError("a name is not text") from None


def _short(count: int) -> str:
    return str(count) if count < 2**63 else "more than 2^63"
