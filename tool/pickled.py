"""Reads a pickled dict of numpy arrays as data: no unpickler, so nothing in the file can run."""

import io
import math
from dataclasses import dataclass
from enum import Enum, auto
from typing import IO, Any

import numpy as np

from tool.pickle_machine import PickleMachine

_NUMERIC = {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"}


class _Known(Enum):
    """The callables that a pickled array names. They are only recognised here, never called."""

    RECONSTRUCT = auto()
    FROMBUFFER = auto()
    SCALAR = auto()
    NDARRAY = auto()
    DTYPE = auto()
    ENCODE = auto()
    BYTES = auto()


_GLOBALS = {
    ("numpy", "ndarray"): _Known.NDARRAY,
    ("numpy", "dtype"): _Known.DTYPE,
    ("_codecs", "encode"): _Known.ENCODE,
}
_GLOBALS["__builtin__", "bytes"] = _Known.BYTES  # protocol 2's way to say b""
for _core in ("numpy.core", "numpy._core"):  # numpy 1 and numpy 2
    _GLOBALS[f"{_core}.multiarray", "_reconstruct"] = _Known.RECONSTRUCT
    _GLOBALS[f"{_core}.multiarray", "scalar"] = _Known.SCALAR
    _GLOBALS[f"{_core}.numeric", "_frombuffer"] = _Known.FROMBUFFER


@dataclass
class _Dtype:
    code: str  # "f4", "U11", "O8"
    order: str = "="

    def numpy(self) -> np.dtype:
        if self.code not in _NUMERIC:
            raise ValueError(f"arrays of type {self.code[:20]!r} are not read, numeric ones only")
        return np.dtype(self.order + self.code)


@dataclass
class _Array:
    value: Any = None


def read_pickled_dict(data: bytes, start: int) -> dict[int | str, np.ndarray]:
    """Return the dict in the pickle, from `start` on, of a 0-d object array, as np.save writes it (protocols 2 to 5).

    Keys are int or str, values numeric arrays, C-ordered, in native byte order. Raises ValueError, TypeError, KeyError,
    IndexError, AttributeError or OverflowError on anything else; the first says why. The arrays take no more memory than
    the file has bytes.
    """
    stream = io.BytesIO(data)
    stream.seek(start)
    return _Reader(stream, budget=2 * len(data)).read()  # twice: protocol 2 stores bytes as text, converted first


class _Reader(PickleMachine):
    """The vocabulary of a dict of arrays, and no other."""

    def __init__(self, stream: IO[bytes], budget: int):
        super().__init__(stream)
        self.budget = budget

    def read(self) -> dict[int | str, np.ndarray]:
        array = self.run()
        if not isinstance(array, _Array) or not isinstance(array.value, dict):
            raise ValueError("the pickle holds no dict")
        for value in array.value.values():
            if not isinstance(value, _Array) or not isinstance(value.value, np.ndarray):
                raise ValueError("a value of the dict is not a numeric array")
        return {key: value.value for key, value in array.value.items()}

    def known(self, module: str, name: str) -> Any:
        if (module, name) not in _GLOBALS:
            return super().known(module, name)
        return _GLOBALS[module, name]

    def reduce(self, function: Any, arguments: tuple) -> Any:
        if function is _Known.RECONSTRUCT:
            return _Array()
        if function is _Known.DTYPE:
            if type(arguments[0]) is not str:  # looked up by hash later
                raise ValueError("an array type without a name")
            return _Dtype(arguments[0])
        if function is _Known.ENCODE:
            text, encoding = arguments
            if encoding != "latin1" or type(text) is not str:
                raise ValueError("bytes in an encoding that is not latin1")
            self.spend(len(text))
            return text.encode("latin1")
        if function is _Known.BYTES and arguments == ():
            return b""
        if function is _Known.FROMBUFFER:
            data, dtype, shape, order = arguments
            return _Array(self.array(data, dtype, shape, order))
        if function is _Known.SCALAR:
            return self.scalar(*arguments)
        return super().reduce(function, arguments)

    def build(self, target: Any, state: tuple) -> None:
        if type(target) is _Dtype:
            if state[1] not in ("<", ">", "|", "="):
                raise ValueError("an unknown byte order")
            target.order = state[1]
        elif type(target) is _Array:
            shape, dtype, fortran, data = state[-4:]
            if type(data) is list:  # the outer array: one object
                if shape != () or len(data) != 1:
                    raise ValueError("an array of several objects")
                target.value = data[0]
            else:
                target.value = self.array(data, dtype, shape, "F" if fortran is True else "C")
        else:
            super().build(target, state)

    def array(self, data: bytes | bytearray, dtype: _Dtype, shape: tuple, order: str) -> np.ndarray:
        """The claimed shape is held against the bytes that are there before anything is allocated."""
        kind = dtype.numpy()
        if type(data) not in (bytes, bytearray) or order not in ("C", "F"):
            raise ValueError("an array without bytes")
        if len(shape) > 32 or any(type(side) is not int or side < 0 for side in shape):
            raise ValueError("an array of no valid shape")
        if math.prod(shape) * kind.itemsize != len(data):
            raise ValueError(f"an array claims shape {shape!s:.60} and type {kind} but has {len(data)} bytes")
        self.spend(len(data))
        flat = np.frombuffer(data, kind) if data else np.empty(0, kind)
        return np.array(flat.reshape(shape, order=order), dtype=kind.newbyteorder("="), order="C")

    def scalar(self, dtype: _Dtype, data: bytes) -> int | str:
        """A numpy integer or string, as keys taken from an array are."""
        if type(data) is not bytes or len(data) > 4096:
            raise ValueError("a scalar that is neither an integer nor a short string")
        if dtype.code.startswith("U"):
            return data.decode("utf-32-be" if dtype.order == ">" else "utf-32-le").rstrip("\0")
        value = self.array(data, dtype, (), "C").item()
        if type(value) is not int:
            raise ValueError("a scalar that is neither an integer nor a string")
        return value

    def spend(self, count: int) -> None:
        """One long string in the file may be named many times; copies of it are counted."""
        self.budget -= count
        if self.budget < 0:
            raise ValueError("its arrays take more bytes than the file has")
