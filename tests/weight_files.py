"""Files of weights made by hand, for the tests."""

import io
import re
import struct
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

DTYPE_CODES = {"float32": 0, "float64": 1, "float16": 2, "uint8": 3, "int32": 4, "int8": 5, "int64": 6}
LAYOUTS = ("0.x", "1.0", "1.x")


def params_bytes(arrays: Mapping[str, np.ndarray], layout: str = "1.x") -> bytes:
    """Return a .params file in the layout of MXNet 0.x (no magic, u32 dims), 1.0 (magic, i64 dims) or 1.x (and a storage type)."""
    data = struct.pack("<QQQ", 0x112, 0, len(arrays))
    for array in arrays.values():
        data += {"0.x": b"", "1.0": struct.pack("<I", 0xF993FAC8), "1.x": struct.pack("<Ii", 0xF993FAC9, 0)}[layout]
        data += struct.pack(f"<I{array.ndim}{'I' if layout == '0.x' else 'q'}", array.ndim, *array.shape)
        data += struct.pack("<iii", 1, 0, DTYPE_CODES[array.dtype.name]) + array.tobytes()
    data += struct.pack("<Q", len(arrays))
    for name in arrays:
        data += struct.pack("<Q", len(name)) + name.encode()
    return data


def mxnet_name(name: str) -> str:
    """Return the ImageNet ResNet-38's name of a tensor of our backbone."""
    kinds = {"weight": "arg:{}_gamma", "bias": "arg:{}_beta", "running_mean": "aux:{}_moving_mean"}
    kinds["running_var"] = "aux:{}_moving_var"
    if name == "conv1a.weight":
        return "arg:conv1a_weight"
    if name.startswith("bn7."):
        return kinds[name.removeprefix("bn7.")].format("bn7")
    stage, later, layer, branch, what = re.fullmatch(r"b(\d)(?:_(\d))?\.(conv|bn)_(\w+)\.(\w+)", name).groups()
    block = f"{stage}b{later}_{branch}" if later else f"{stage}a_{branch}"
    return f"arg:res{block}_weight" if layer == "conv" else kinds[what].format(f"bn{block}")


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


def small_tensors() -> dict[str, Tensor]:
    return {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([3, 4])}
