"""Read MXNet's `.params` (NDArray list) files without MXNet: ImageNet weights of ResNet-38 are published as one.

Little-endian. u64 0x112, u64 0, u64 number of arrays; each array; u64 number of names; each name: u64 length, bytes.
An array has one of three layouts, by its first u32 (`NDArray::Save` of MXNet 1.x, 1.0 and 0.x):
    0xF993FAC9: i32 storage type (0, dense), u32 ndim, i64 dims
    0xF993FAC8:                              u32 ndim, i64 dims
    otherwise:                it is itself the u32 ndim, u32 dims
and then i32 device type, i32 device id, i32 dtype, the values.
"""

import math
import re
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from tool.cli import UserError

_DTYPES = [np.dtype(name) for name in ("<f4", "<f8", "<f2", "u1", "<i4", "i1", "<i8")]  # by MXNet's number
_MAGIC_1_0, _MAGIC_1_X = 0xF993FAC8, 0xF993FAC9

_TENSOR = re.compile(
    r"(?:arg|aux):(?:(conv1a|bn7)|(res|bn)([2-7])(a|b[1-5])_(branch1|branch2a|branch2b[12]))"
    r"_(weight|gamma|beta|moving_mean|moving_var)"
)
_KINDS = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_var": "running_var"}


def read_params(path: str | Path) -> dict[str, np.ndarray]:
    """Return the arrays of a `.params` file by their names in it, such as "arg:conv1a_weight". UserError: damaged."""
    try:
        with open(path, "rb") as file:
            _, _, count = _take(file, "<QQQ")
            arrays = [_read_array(file) for _ in range(count)]
            (count,) = _take(file, "<Q")
            names = [_take(file, f"<{_take(file, '<Q')[0]}s")[0].decode() for _ in range(count)]
            if file.read(1):
                raise ValueError("bytes follow its end")
        return dict(zip(names, arrays, strict=True))
    except (struct.error, ValueError, OverflowError, MemoryError) as error:
        raise UserError(f"{path}: truncated or damaged .params file ({error}). Copy or download it again.") from None


def _take(file: BinaryIO, layout: str) -> tuple[Any, ...]:
    return struct.unpack(layout, file.read(struct.calcsize(layout)))


def _read_array(file: BinaryIO) -> np.ndarray:
    side = "I"
    (ndim,) = _take(file, "<I")
    if ndim in (_MAGIC_1_0, _MAGIC_1_X):
        if ndim == _MAGIC_1_X and _take(file, "<i") != (0,):
            raise ValueError("sparse arrays are not supported")
        side = "q"
        (ndim,) = _take(file, "<I")
    *shape, _, _, code = _take(file, f"<{ndim}{side}iii")
    if min(shape, default=0) < 1 or not 0 <= code < len(_DTYPES):
        raise ValueError(f"array of shape {shape} and type {code}")
    return np.fromfile(file, _DTYPES[code], math.prod(shape)).reshape(shape)


def to_resnet38d(arrays: dict[str, np.ndarray], path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of `ResNet38d` (float32) from the ImageNet ResNet-38's, without its classifier.

    "arg:res4b3_branch2b1_weight" becomes "b4_3.conv_branch2b1.weight". UserError, naming the file `path`: any other name.
    """
    tensors = {}
    for name, array in arrays.items():
        if name.startswith("arg:linear1000_"):  # the classifier
            continue
        match = _TENSOR.fullmatch(name)
        if match is None:
            raise UserError(f"{path}: {name!r} is not a tensor of the ImageNet ResNet-38. Give that network's .params.")
        layer, kind, stage, block, branch, tensor = match.groups()
        if layer is None:
            block = "" if block == "a" else f"_{block[1:]}"
            layer = f"b{stage}{block}.{'conv' if kind == 'res' else 'bn'}_{branch}"
        tensors[f"{layer}.{_KINDS.get(tensor, tensor)}"] = torch.from_numpy(array.astype(np.float32, copy=False))
    return tensors
