"""Reads a pickled dict of numpy arrays as data: no unpickler, so nothing in the file can run."""

import io
import math
import pickletools
from dataclasses import dataclass
from enum import Enum, auto
from typing import IO, Any

import numpy as np

MAX_STEPS = 4_000_000  # opcodes, each good for about 150 bytes; the labels of 12031 images take 0.4 million
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

_MARK = object()
_CONSTANTS = {"MARK": _MARK, "NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS = {"BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
_LITERALS |= {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


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


class _Stream(io.BytesIO):
    """A stream of short lines: only opcodes of protocol 0 and the names of globals are read by the line."""

    def readline(self, size: int | None = -1) -> bytes:
        return super().readline(200)


def read_pickled_dict(data: bytes, start: int) -> dict[int | str, np.ndarray]:
    """Return the dict in the pickle, from `start` on, of a 0-d object array, as np.save writes it (protocols 2 to 5).

    Keys are int or str, values numeric arrays, C-ordered, in native byte order. Raises ValueError, TypeError, KeyError,
    IndexError, AttributeError or OverflowError on anything else; the first says why. `pickletools.genops` does the
    parsing and reads no more bytes than there are. The arrays take no more memory than the file has bytes.
    """
    stream = _Stream(data)
    stream.seek(start)
    return _Reader(stream, budget=2 * len(data)).read()  # twice: protocol 2 stores bytes as text, converted first


class _Reader:
    """A pickle machine without calls: the opcodes that make a dict of arrays, and no other."""

    def __init__(self, stream: IO[bytes], budget: int):
        self.stream, self.budget = stream, budget
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def read(self) -> dict[int | str, np.ndarray]:
        for step, (opcode, argument, _) in enumerate(pickletools.genops(self.stream)):
            if step == MAX_STEPS:
                raise ValueError(f"more than {MAX_STEPS} pickle steps")
            self.step(opcode.name, argument)
        array = self.stack[-1]
        if len(self.stack) != 1 or not isinstance(array, _Array) or not isinstance(array.value, dict):
            raise ValueError("the pickle holds no dict")
        for value in array.value.values():
            if not isinstance(value, _Array) or not isinstance(value.value, np.ndarray):
                raise ValueError("a value of the dict is not a numeric array")
        return {key: value.value for key, value in array.value.items()}

    def step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _LITERALS:
            stack.append(argument)
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name in _TUPLES:
            stack[-_TUPLES[name] :] = [tuple(stack[-_TUPLES[name] :])]
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "TUPLE":
            stack.append(tuple(self.pop_to_mark()))
        elif name == "BUILD":
            state = stack.pop()
            self.build(stack[-1], state)
        elif name == "REDUCE":
            arguments = stack.pop()
            stack[-1] = self.reduce(stack[-1], arguments)
        elif name == "SETITEM":
            self.set_items([stack.pop(-2), stack.pop()])
        elif name == "SETITEMS":
            self.set_items(self.pop_to_mark())
        elif name == "APPEND":
            self.append([stack.pop()])
        elif name == "APPENDS":
            self.append(self.pop_to_mark())
        elif name == "GLOBAL":
            stack.append(self.known(*argument.split(" ")))
        elif name == "STACK_GLOBAL":
            stack[-2:] = [self.known(stack[-2], stack[-1])]
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise ValueError(f"its pickle uses {name}, which no dict of arrays needs")

    def pop_to_mark(self) -> list[Any]:
        at = len(self.stack) - 1
        while self.stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise ValueError("a mark is missing")
        items = self.stack[at + 1 :]
        del self.stack[at:]
        return items

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict or len(items) % 2:
            raise ValueError("items set on something that is not a dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Checked before it is hashed: nested tuples and chosen large integers make hashing take for ever.
            if type(key) is not str and not (type(key) is int and abs(key) < 2**31):
                raise ValueError("a key of the dict is neither an integer nor a string")
            target[key] = value

    def append(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise ValueError("items appended to something that is not a list")
        self.stack[-1].extend(items)

    def known(self, module: Any, name: Any) -> _Known:
        if type(module) is not str or type(name) is not str:
            raise ValueError("it asks for something without a name")
        if (module, name) not in _GLOBALS:
            raise ValueError(f"it asks for {module[:40]!r} {name[:40]!r}, which is refused because it could run code")
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
        raise ValueError("a call that no dict of arrays needs")

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
            raise ValueError("a state for something that has none")

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
