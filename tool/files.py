"""Atomic writing of files, backups, and `.npy` dicts."""

import contextlib
import itertools
import os
import pickle
import re
import select
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from tool.cli import UserError

# Part of a temporary file's name: on a shared disk a process number says nothing about other machines.
HOST = re.sub(r"[^A-Za-z0-9]", "-", socket.gethostname())[:30] or "host"


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Raise UserError naming `path` in place of an OSError: no folder, no permission, disk full."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


@contextlib.contextmanager
def atomic_write(path: str | Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a hidden temporary file that replaces `path` when the block ends without an error, else is removed.

    mode: "wb" or "w" (UTF-8). UserError: the file cannot be written.
    """
    temporary = _temporary(path)
    encoding, newline = (None, None) if "b" in mode else ("utf-8", "\n")
    try:
        with writing(path):
            with open(temporary, mode, encoding=encoding, newline=newline) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())  # or the new name could reach the disk before the contents do
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):  # it has replaced `path`, or could not be made
            temporary.unlink()


def check_writable(path: str | Path) -> None:
    """Raise UserError if `atomic_write` would fail now. The contents of `path` do not change."""
    with writing(path):
        if Path(path).is_dir():
            raise IsADirectoryError("it is a folder")
        _temporary(path).touch()
        _temporary(path).unlink()


def _temporary(path: str | Path) -> Path:
    return Path(path).with_name(f".{Path(path).name}.{HOST}.{os.getpid()}.tmp")


def remove_leftovers(folder: str | Path) -> None:
    """Remove temporary files in `folder` that killed processes of this machine left; keep those of running ones."""
    for path in Path(folder).glob(f".*.{HOST}.[0-9]*.tmp"):
        # Another user's file, or a name that does not end in a process's number.
        with contextlib.suppress(OSError, ValueError, OverflowError):
            if not _is_running(int(path.name.split(".")[-2])):
                path.unlink()


def _is_running(process: int) -> bool:
    """Return whether a process exists and is not a zombie, which a container may never reap."""
    try:
        with open(os.pidfd_open(process), "rb", buffering=0) as descriptor:
            return not select.select([descriptor], [], [], 0)[0]
    except ProcessLookupError:
        return False


def make_folder(path: str | Path) -> Path:
    """Create the folder `path` and its parents if missing and return it; raise UserError if that is impossible."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot create the folder {path}: {error.strerror or error}. Name another.") from error
    return Path(path)


def back_up(path: str | Path, copy: bool = False) -> Path | None:
    """Rename a file or folder to the first free `<path>.1`, `<path>.2`, ... and return the new path.

    If it is missing or an empty folder, return None. `copy` copies a file instead; an older backup with the same bytes
    is enough. OSError, UserError: it cannot be renamed or copied.
    """
    path = Path(path)
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return None
    for number in itertools.count(1):
        backup = path.with_name(f"{path.name}.{number}")
        if not backup.exists() or (copy and backup.is_file() and backup.read_bytes() == path.read_bytes()):
            break
    if not copy:
        return path.rename(backup)
    if not backup.exists():
        with atomic_write(backup) as file:
            file.write(path.read_bytes())
    return backup


def save_npy_dict(path: str | Path, mapping: Mapping[int, np.ndarray] | Mapping[str, np.ndarray]) -> None:
    """Write a dict of arrays that `np.load(path, allow_pickle=True).item()` reads, the format of PSA, SEAM and IRN."""
    with atomic_write(path) as file:
        np.save(file, np.array(dict(mapping), dtype=object), allow_pickle=True)


def load_npy_dict(path: str | Path) -> dict[int | str, np.ndarray]:
    """Load a dict of numeric arrays saved with np.save. No code in the file can run. UserError: it is another file.

    Keys are int or str; arrays are C-ordered, in native byte order, possibly read-only.
    """
    try:
        with open(path, "rb") as file:
            version = np.lib.format.read_magic(file)
            if version != (1, 0) or np.lib.format.read_array_header_1_0(file) != ((), False, np.dtype(object)):
                raise ValueError("its header is that of another kind of array")
            mapping = getattr(_ArrayUnpickler(file).load(), "value", None)
        if not isinstance(mapping, dict) or any(type(key) not in (int, str) for key in mapping):
            raise ValueError("it holds no dict with integers or strings as keys")
        arrays: dict[int | str, Any] = {key: getattr(stored, "value", None) for key, stored in mapping.items()}
        if not all(isinstance(array, np.ndarray) for array in arrays.values()):
            raise ValueError("a value of the dict is not a numeric array")
        return arrays
    except Exception as error:  # a damaged pickle may raise anything
        raise UserError(f"{path}: not a dict of arrays saved with np.save ({str(error)[:200]})") from error


class _StoredDtype:
    """Stand-in for numpy.dtype: a real one could get flags that turn bytes of the file into object pointers."""

    def __init__(self, code: str) -> None:
        self.dtype = np.dtype("" + code)  # text only

    def __setstate__(self, state: tuple) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _StoredArray:
    """Stand-in for numpy.ndarray: a numeric array, or the dict in the 0-d object array that np.save makes of it."""

    value: Any = None

    def __setstate__(self, state: tuple) -> None:
        shape, stored, fortran, data = state[-4:]
        if isinstance(data, list):
            self.value = data[0]
        elif stored.dtype.kind in "biuf":
            array = np.ndarray(shape, stored.dtype, data, order="F" if fortran else "C")
            self.value = np.asarray(array, stored.dtype.newbyteorder("="), order="C")


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Return a harmless stand-in for each name in such a pickle, made afresh so that the file can change none."""
        stand_ins = {
            "numpy.ndarray": None,  # an argument of _reconstruct
            "numpy.dtype": lambda code, *_: _StoredDtype(code),
            "numpy.core.multiarray._reconstruct": lambda *_: _StoredArray(),
            "numpy.core.multiarray.scalar": lambda stored, data: np.frombuffer(data, stored.dtype)[0].item(),
            "_codecs.encode": lambda text, _: text.encode("latin1"),  # bytes in protocol 2
            "__builtin__.bytes": lambda: b"",  # empty bytes in protocol 2
        }
        full_name = f"{module}.{name}".replace("numpy._core.", "numpy.core.")  # numpy 2 -> 1
        if full_name not in stand_ins:
            raise ValueError(f"it asks for {full_name[:80]!r}, which could run code")
        return stand_ins[full_name]
