"""Files of weights made by hand, for the tests: MXNet's three layouts, PyTorch's two formats, and changes to them."""

import io
import pickle
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
    """A .params file in the layout of MXNet 0.x (no magic, u32 dims), 1.0 (magic, i64 dims) or 1.x (and a storage type)."""
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
    """The ImageNet ResNet-38's name of one of our backbone's tensors."""
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
    """What torch.save writes: the zip format, or the legacy one."""
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=not legacy)
    if not legacy:
        return buffer.getvalue()
    # The legacy format names storages by their addresses. Made the same in every run, so that mutations are as well.
    keys: dict[bytes, bytes] = {}

    def numbered(match: re.Match[bytes]) -> bytes:
        key = keys.setdefault(match[1], f"{len(keys):03}".encode())
        return b"X\x03\0\0\0" + key

    return re.sub(rb"X[\x08-\x14]\0\0\0([0-9]{8,20})(?=[qr])", numbered, buffer.getvalue())


class _Call:
    """Pickled as a call of `function`."""

    def __init__(self, function: Any, *arguments: Any):
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, tuple]:
        return self.call


class _Storage03(pickle.Pickler):
    def persistent_id(self, value: Any) -> Any:
        return value.call[1] if isinstance(value, _Call) and value.call[0] is None else None


def torch_03_bytes() -> bytes:
    """A file as PyTorch 0.3 wrote it: {"a": 0..5 as (2, 3), "b": the values 2 and 3 of it, by a view of its storage}."""
    storage = [_Call(None, "storage", torch.FloatStorage, "7", "cpu", 6, view) for view in (None, ("8", 2, 2))]
    rebuild = torch._utils._rebuild_tensor
    state = {"a": _Call(rebuild, storage[0], 0, (2, 3), (3, 1)), "b": _Call(rebuild, storage[1], 0, (2,), (1,))}
    buffer = io.BytesIO()
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    for part in (0x1950A86A20F9469CFC6C, 1001, system, state, ["7"]):
        _Storage03(buffer, 2).dump(part)
    return buffer.getvalue() + struct.pack("<q6f", 6, *range(6))


def zip_records(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zip_bytes(records: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in records.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def with_pickle(data: bytes, pickled: bytes) -> bytes:
    """A PyTorch zip file with another pickle in it."""
    records = zip_records(data)
    (name,) = (name for name in records if name.endswith("/data.pkl"))
    return zip_bytes({**records, name: pickled})


def pickle_of(data: bytes) -> bytes:
    """The pickle in a PyTorch zip file."""
    return next(content for name, content in zip_records(data).items() if name.endswith("/data.pkl"))


def small_tensors() -> dict[str, Tensor]:
    return {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([3, 4])}
