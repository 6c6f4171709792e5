"""Opens files of weights, says what they are, and reads what torch.save wrote. Nothing in a file can run."""

import re
import warnings
import zipfile
from collections.abc import Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any

from tool.cli import UserError, nearest_path

MXNET = "an MXNet .params file"
TORCH_ZIP = "a zip archive"
TORCH_LEGACY = "a PyTorch file"  # of PyTorch 1.5 and before
_SIGNATURES = {  # the first bytes of a file
    b"\x12\x01\0\0\0\0\0\0": MXNET,
    b"PK\x03\x04": TORCH_ZIP,
    b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.": TORCH_LEGACY,
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"\x1f\x8b": "a gzip archive, to be unpacked first",
    b"7z\xbc\xaf": "a 7z archive, to be unpacked first",
    b"Rar!": "a RAR archive, to be unpacked first",
    b"\x80": "a bare Python pickle, which could run code",
    b"version https://git-lfs": "a Git LFS pointer instead of the file itself, to be fetched with `git lfs pull`",
    b"<": "a web page, so the download went wrong",
}
_REASONS = {  # what the errors of PyTorch and zipfile mean, the first that fits
    r"GLOBAL ([\w.]{1,200})": r"it asks for \1, which is refused because it could run code",
    r"TorchScript": "it is a TorchScript archive; save the state_dict() of its network instead",
    r"subdirectory|data\.pkl": "it is a zip archive without tensors; unpack it if weights are in it",
    r"MemoryError|allocate": "it is damaged, or needs more memory than there is",
    r"not a zip file|EOF": "it is truncated",
    r"UnpicklingError": "it holds objects of classes that are not known here",
    r"": "it is damaged",
}


def open_weights(path: str | Path) -> tuple[BufferedReader, str]:
    """Open a file of weights, and words for what it is. UserError: it is missing, unreadable, empty, or no ordinary file."""
    path = Path(path)
    try:
        if path.is_dir():
            raise UserError(f"weights {path} is a folder; name the .params or .pth file in it")
        if path.exists() and not path.is_file():
            raise UserError(f"weights {path} is not an ordinary file")
        if path.stat().st_size == 0:
            raise UserError(f"weights {path} is empty; the download or copy may have failed")
        file = open(path, "rb")  # noqa: SIM115, the callers close it
        head = file.read(64)
    except FileNotFoundError:
        raise UserError(f"weights {path} does not exist{nearest_path(path)}") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        raise UserError(f"cannot read weights {path}: {getattr(error, 'strerror', None) or error}") from None
    file.seek(0)
    kinds = (kind for signature, kind in _SIGNATURES.items() if head.lstrip().startswith(signature))
    text = not head.translate(None, bytes(range(32, 127)) + b"\t\r\n")
    return file, next(kinds, "a text file" if text else "of an unknown kind")


def read_torch_file(path: str | Path, stand_ins: Mapping[str, type] | None = None) -> Any:
    """What was saved: dicts, lists, tuples, strings, numbers, None and tensors (CPU; views where they share memory).

    `stand_ins` are made, by full name, in the place of objects of other classes. Raises UserError: no such file, another
    kind of file, a truncated or damaged one, or one that holds other objects (an UnpicklingError is the cause then).
    """
    import torch  # takes seconds, and digests of files do without

    file, kind = open_weights(path)
    with file:
        if kind not in (TORCH_ZIP, TORCH_LEGACY):
            raise UserError(f"{path} is not a PyTorch file: it is {kind}")
        try:
            if kind == TORCH_ZIP and zipfile.ZipFile(file).testzip():
                raise ValueError("a checksum is wrong, which torch.load would not notice")
            file.seek(0)
            known: list[Any] = [(kind, name) for name, kind in (stand_ins or {}).items()]
            with warnings.catch_warnings(), torch.serialization.safe_globals(known):
                warnings.simplefilter("ignore")  # PyTorch's, about older files
                return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as raised:  # whatever foreign contents raise
            error = EOFError() if kind == TORCH_LEGACY and not file.read(1) else raised
            text = f"{type(error).__name__} {error}"
            pattern, match = next((p, m) for p in _REASONS if (m := re.search(p, text)))
            raise UserError(f"cannot load the PyTorch file {path}: {match.expand(_REASONS[pattern])}") from error
