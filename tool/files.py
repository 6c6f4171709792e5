"""Files written whole or not at all, and .npy dicts."""

import contextlib
import os
import pickle
import re
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from tool.cli import UserError
from tool.npy_dict import read_pickled_dict

# Part of a temporary file's name: on a shared disk a process number says nothing about other machines.
HOST = re.sub(r"[^A-Za-z0-9]", "-", socket.gethostname())[:30] or "host"
_DICT_HEADER = b"{'descr':'|O','fortran_order':False,'shape':(),}"  # in every numpy; compared rather than evaluated


@contextlib.contextmanager
def atomic_write(path: str | Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a hidden temporary file beside `path`, which becomes `path` when the block ends without an error.

    `mode` is "wb" or "w" (UTF-8). On any error the temporary file is removed and what `path` held before stays.
    Raises UserError where the file cannot be written (no folder, no permission, disk full).
    """
    path = Path(path)
    temporary = _temporary(path)
    encoding, newline = (None, None) if "b" in mode else ("utf-8", "\n")
    try:
        try:
            with open(temporary, mode, encoding=encoding, newline=newline) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())  # or the new name could reach the disk before the contents do
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def check_writable(path: str | Path) -> None:
    """UserError where `atomic_write` would fail now. Nothing is left behind, and what `path` holds stays."""
    path = Path(path)
    try:
        if path.is_dir():
            raise UserError(f"cannot write {path}: it is a folder")
        temporary = _temporary(path)
        temporary.touch()
        temporary.unlink()
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def _temporary(path: Path) -> Path:
    """Where the contents of `path` are written before it gets them."""
    return path.with_name(f".{path.name}.{HOST}.{os.getpid()}.tmp")


def remove_leftovers(folder: str | Path) -> None:
    """Remove the temporary files in `folder` whose writers, on this machine, were killed; those of running ones stay."""
    for path in Path(folder).glob(f".*.{HOST}.*.tmp"):
        match = re.fullmatch(rf"\..+\.{HOST}\.([0-9]{{1,9}})\.tmp", path.name)
        if match and not _runs(int(match[1])):
            with contextlib.suppress(OSError):  # it does no harm, and who may not remove it may not write either
                path.unlink()


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def make_folder(path: str | Path) -> Path:
    """Create the folder `path` with its parents where it is missing; raise UserError where that is impossible."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot create the folder {path}: {error.strerror or error}") from error
    return path


def save_npy_dict(path: str | Path, mapping: Mapping[int, np.ndarray] | Mapping[str, np.ndarray]) -> None:
    """Write a dict of arrays as this family of repositories does: `np.load(path, allow_pickle=True).item()` reads it."""
    with atomic_write(path) as file:
        np.save(file, np.array(dict(mapping), dtype=object), allow_pickle=True)


def load_npy_dict(path: str | Path) -> dict[int | str, np.ndarray]:
    """Read a dict of arrays saved with np.save (numpy 1 or 2, pickle protocols 2 to 5). Nothing in the file can run.

    Keys are int or str, values numeric arrays, C-ordered, in native byte order, most of them read-only. Raises UserError
    naming the file where it is missing or anything but such a dict.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(10)
            header = file.read(int.from_bytes(head[8:], "little"))
            if head[:8] != b"\x93NUMPY\x01\x00" or b"".join(header.split()) != _DICT_HEADER:
                raise ValueError("its header is not that of a saved dict")
            return read_pickled_dict(file)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is not a dict of arrays saved with np.save: {reason}") from error
    except (EOFError, pickle.UnpicklingError) as error:
        raise UserError(f"{path} is truncated or damaged: its pickle ends early or is malformed") from error
    except MemoryError as error:
        raise UserError(f"{path} is damaged, or needs more memory than there is") from error
    except Exception as error:  # whatever else foreign contents raise
        raise UserError(f"{path} is not a dict of arrays saved with np.save: its pickle is malformed") from error
