"""Unpickles a dict of numpy arrays. No dtype of numpy is let be built by the pickle: it could be made to follow pointers."""

import pickle
from collections.abc import Callable
from typing import IO, Any

import numpy as np


class _Dtype:
    def __init__(self, code: str, *_: bool):
        self.kind = np.dtype("" + code)  # nothing but text

    def __setstate__(self, state: tuple) -> None:
        self.kind = self.kind.newbyteorder(state[1])


class _Array:
    def __init__(self, data: bytes, dtype: _Dtype, shape: tuple, order: str):
        if dtype.kind.kind not in "biuf":
            raise ValueError(f"arrays of type {dtype.kind.str[:20]!r} are not read, numeric ones only")
        array = np.ndarray(shape, dtype.kind, data, order=order)  # type: ignore[arg-type]
        self.value: Any = np.asarray(array, dtype.kind.newbyteorder("="), order="C")

    def __setstate__(self, state: tuple) -> None:
        shape, dtype, fortran, data = state[-4:]
        if type(data) is list:  # the outer array of a saved dict: one object
            self.value = data[0]
        else:
            _Array.__init__(self, data, dtype, shape, "F" if fortran else "C")


class _Call:
    """Stands for a function or class. A pickle may set attributes of whatever it names (BUILD); this has none to set."""

    __slots__ = ("_call",)
    _call: Callable[..., Any]

    def __init__(self, call: Callable[..., Any]):
        object.__setattr__(self, "_call", call)

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def __setattr__(self, name: str, value: Any) -> None:
        raise ValueError(f"it sets {name[:40]!r} of a function")


# The names in such a pickle, and what stands for each. Protocol 2 writes bytes as text to encode, b"" as a call.
_NAMES: dict[str, Any] = {"numpy.ndarray": None, "numpy.dtype": _Call(_Dtype), "__builtin__.bytes": _Call(lambda: b"")}
_NAMES["_codecs.encode"] = _Call(lambda text, _: text.encode("latin1"))
for _core in ("numpy.core.", "numpy._core."):  # numpy 1 and numpy 2
    _NAMES[f"{_core}multiarray._reconstruct"] = _Call(lambda *_: _Array.__new__(_Array))
    _NAMES[f"{_core}multiarray.scalar"] = _Call(lambda dtype, data: np.frombuffer(data, dtype.kind)[0].item())
    _NAMES[f"{_core}numeric._frombuffer"] = _Call(_Array)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (full := f"{module}.{name}") not in _NAMES:
            raise ValueError(f"it asks for {full[:80]!r}, which is refused because it could run code")
        return _NAMES[full]


def read_pickled_dict(file: IO[bytes]) -> dict[int | str, np.ndarray]:
    """The dict in the pickle of a 0-d object array, as np.save writes it (protocols 2 to 5), from where `file` is.

    Keys are int or str, values numeric arrays, C-ordered, in native byte order, most of them read-only. Anything else
    raises ValueError, which says why, or some other Exception.
    """
    found = getattr(_Unpickler(file).load(), "value", None)
    if not isinstance(found, dict) or any(type(key) not in (int, str) for key in found):
        raise ValueError("the pickle holds no dict with integers or strings as keys")
    if not all(isinstance(getattr(value, "value", None), np.ndarray) for value in found.values()):
        raise ValueError("a value of the dict is not a numeric array")
    return {key: value.value for key, value in found.items()}
