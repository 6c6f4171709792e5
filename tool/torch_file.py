"""Reads what torch.save wrote (the zip format, and the legacy one of PyTorch 1.5 and before) from sources without trust.

`torch.load(weights_only=True)` runs no code either, but believes the lengths in a file: a storage of the legacy format is
allocated as long as it claims to be, a tensor that is longer than its storage makes it grow, and one of stride 0 may claim
2^60 values. Here every claim is held against the bytes that are there.
"""

import io
import math
import struct
import zipfile
from collections.abc import Callable
from enum import Enum, auto
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from tool.errors import UserError
from tool.file_kind import HEAD, TORCH_LEGACY, TORCH_ZIP, kind_of_file, open_weights
from tool.pickle_machine import MALFORMED, PickleMachine

_MAX_PICKLE_BYTES = 64 * 2**20  # the pickle of a training state with its optimiser takes 0.2 MB
_LEGACY_MAGIC, _LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_DAMAGED = (*MALFORMED, RuntimeError, EOFError, OSError, zipfile.BadZipFile, struct.error)


class _Known(Enum):
    """The callables that a file of tensors names. They are only recognised here, never called."""

    TENSOR = auto()
    PARAMETER = auto()
    ORDERED_DICT = auto()
    SIZE = auto()


_GLOBALS: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor"): _Known.TENSOR,  # PyTorch 0.3 and before
    ("torch._utils", "_rebuild_tensor_v2"): _Known.TENSOR,
    ("torch._utils", "_rebuild_parameter"): _Known.PARAMETER,
    ("collections", "OrderedDict"): _Known.ORDERED_DICT,
    ("torch", "Size"): _Known.SIZE,
}
_STORAGES = {"Float": torch.float32, "Double": torch.float64, "Half": torch.float16, "BFloat16": torch.bfloat16}
_STORAGES |= {"Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8}
_STORAGES |= {"Bool": torch.bool}
for _name, _dtype in _STORAGES.items():
    _GLOBALS["torch", f"{_name}Storage"] = _dtype


def read_torch_file(path: str | Path) -> Any:
    """What was saved: dicts, lists, tuples, strings, numbers, None and dense tensors (CPU; views where they share memory).

    No more memory is allocated for tensors than the file has bytes. Raises UserError: no such file, another kind of file,
    a truncated or damaged one, or one that holds objects of other types.
    """
    with open_weights(path) as file:
        kind = kind_of_file(file.read(HEAD))
        if kind not in (TORCH_ZIP, TORCH_LEGACY):
            raise UserError(f"{path} is not a PyTorch file: it is {kind}")
        size = file.seek(0, 2)
        file.seek(0)
        try:
            return _read_zip(file, size) if kind == TORCH_ZIP else _read_legacy(file, size)
        except ValueError as error:
            raise UserError(f"cannot load the PyTorch file {path}: {str(error)[:200]}") from error
        except _DAMAGED as error:
            raise UserError(f"cannot load the PyTorch file {path}: it is truncated or damaged") from error


class _TorchPickle(PickleMachine):
    """The vocabulary of state dicts and training states."""

    max_steps = 1_000_000

    def __init__(self, stream: IO[bytes], storage: Callable[[str, torch.dtype, int], Tensor]):
        super().__init__(stream)
        self.storage = storage

    def known(self, module: str, name: str) -> Any:
        if (module, name) not in _GLOBALS:
            return super().known(module, name)
        return _GLOBALS[module, name]

    def reduce(self, function: Any, arguments: tuple) -> Any:
        if function is _Known.TENSOR:
            return _tensor(*arguments[:4])
        if function is _Known.PARAMETER and isinstance(arguments[0], Tensor):
            return arguments[0]
        if function is _Known.ORDERED_DICT and arguments == ():
            return {}
        if function is _Known.SIZE and type(arguments[0]) is tuple:
            return arguments[0]
        return super().reduce(function, arguments)

    def build(self, target: Any, state: Any) -> None:
        """The one state is `_metadata` of a state dict, the versions of its layers, which ours have no need of."""
        if type(target) is not dict:
            super().build(target, state)

    def persistent(self, reference: Any) -> Tensor:
        word, dtype, key, _, count, *view = reference  # `view` is of PyTorch 0.3
        if word != "storage" or not isinstance(dtype, torch.dtype) or type(key) is not str or view not in ([], [None]):
            raise ValueError("it refers to something that is no ordinary storage")
        if type(count) is not int or count < 0:
            raise ValueError(f"storage {key[:40]} has no valid length")
        return self.storage(key, dtype, count)


class _Storages:
    """One-dimensional tensors by key, allocated only as far as the file has bytes for them."""

    def __init__(self, budget: int):
        self.budget = budget
        self.flat: dict[str, Tensor] = {}

    def __call__(self, key: str, dtype: torch.dtype, count: int) -> Tensor:
        if key in self.flat:
            if self.flat[key].dtype != dtype or len(self.flat[key]) != count:
                raise ValueError(f"storage {key[:40]} is claimed in two ways")
        else:
            self.budget -= count * dtype.itemsize
            if self.budget < 0:
                raise ValueError(f"storage {key[:40]} claims {count!s:.30} values, more than the file has bytes for")
            self.flat[key] = torch.empty(count, dtype=dtype)
            self.load(key, self.flat[key])
        return self.flat[key]

    def load(self, key: str, flat: Tensor) -> None:
        """Fill a new storage; where the values follow the pickle, later."""


class _ZipStorages(_Storages):
    def __init__(self, archive: zipfile.ZipFile, prefix: str, size: int):
        super().__init__(size)
        self.archive, self.prefix = archive, prefix

    def load(self, key: str, flat: Tensor) -> None:
        record = self.archive.getinfo(f"{self.prefix}data/{key}")
        if record.file_size != flat.nbytes:
            raise ValueError(f"storage {key[:40]} claims {flat.nbytes} bytes but has {record.file_size}")
        with self.archive.open(record) as file:
            _fill(flat, file)


def _read_zip(file: IO[bytes], size: int) -> Any:
    with zipfile.ZipFile(file) as archive:
        records = archive.infolist()
        if any(r.compress_type != zipfile.ZIP_STORED or r.file_size != r.compress_size for r in records):
            raise ValueError("it has compressed records, which torch.save does not write")
        if sum(r.file_size for r in records) > size:
            raise ValueError("its records claim more bytes than the file has")
        names = {r.filename for r in records}
        prefixes = [
            name.removesuffix("data.pkl") for name in names if name.count("/") == 1 and name.endswith("/data.pkl")
        ]
        if len(prefixes) != 1:
            raise ValueError("it is a zip archive without tensors; unpack it if weights are in it")
        (prefix,) = prefixes
        if f"{prefix}constants.pkl" in names:
            raise ValueError("it is a TorchScript archive; save the state_dict() of its network instead")
        if f"{prefix}byteorder" in names and archive.read(f"{prefix}byteorder") != b"little":
            raise ValueError("it was written on a big-endian machine")
        record = archive.getinfo(f"{prefix}data.pkl")
        if record.file_size > _MAX_PICKLE_BYTES:
            raise ValueError(f"its pickle has more than {_MAX_PICKLE_BYTES} bytes")
        return _TorchPickle(io.BytesIO(archive.read(record)), _ZipStorages(archive, prefix, size)).run()


def _read_legacy(file: IO[bytes], size: int) -> Any:
    """Pickles of a magic number, a version, the system, the object, and a list of storage keys; then the storages."""
    storages = _Storages(size)
    magic, protocol, system, result, keys = (_TorchPickle(file, storages).run() for _ in range(5))
    if (magic, protocol) != (_LEGACY_MAGIC, _LEGACY_PROTOCOL):
        raise ValueError("its legacy header is of an unknown version")
    if system["little_endian"] is not True:
        raise ValueError("it was written on a big-endian machine")
    if any(type(key) is not str for key in keys) or sorted(keys) != sorted(storages.flat):
        raise ValueError("its list of storages does not fit the tensors")
    for key in keys:
        flat = storages.flat[key]
        if struct.unpack("<q", file.read(8)) != (len(flat),):
            raise ValueError(f"storage {key[:40]} has not as many values as it claims")
        _fill(flat, file)
    return result


def _fill(flat: Tensor, file: IO[bytes]) -> None:
    """Read the values of `flat` from where the file is."""
    if flat.nbytes and file.readinto(flat.view(torch.uint8).numpy()) != flat.nbytes:
        raise ValueError("it ends early")


def _tensor(flat: Tensor, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> Tensor:
    """The tensor with that shape in a storage. No value may be claimed twice: 2^60 equal ones would need no memory here."""
    numbers = (offset, *shape, *strides)
    if len(shape) > 32 or len(shape) != len(strides) or any(type(n) is not int or not 0 <= n < 2**40 for n in numbers):
        raise ValueError("a tensor has no valid shape")
    count = math.prod(shape)
    last = offset + sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True))
    if count > len(flat) or (count and last >= len(flat)):
        raise ValueError(f"a tensor claims the shape {shape!s:.60}, but its storage has {len(flat)} values")
    return flat.as_strided(shape, strides, offset) if count else flat.new_empty(shape)
