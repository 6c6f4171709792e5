"""Open files of weights and read what torch.save wrote. No file can run code."""

import re
import warnings
import zipfile
from io import BufferedReader
from pathlib import Path
from typing import Any

from tool.cli import UserError, nearest_path

MXNET = "an MXNet .params file"
TORCH_ZIP = "a zip archive"
TORCH_LEGACY = "a PyTorch file"  # of PyTorch 1.5 and earlier
_SIGNATURES = {  # first bytes of a file
    b"\x12\x01\0\0\0\0\0\0": MXNET,
    b"PK\x03\x04": TORCH_ZIP,
    b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.": TORCH_LEGACY,
    b"\x80": "a bare Python pickle, which could run code",
    b"7z\xbc\xaf": "a 7z archive; unpack it first",
    b"\x1f\x8b": "a gzip archive; unpack it first",
    b"version https://git-lfs": "a Git LFS pointer; fetch the file with `git lfs pull`",
    b"<": "a web page, so the download went wrong",
}
_REASONS = {  # errors of torch.load, in words; the first that fits
    r"GLOBAL ([\w.]+)": r"it holds a \1, which could run code. If you trust its author, save only its state_dict()",
    r"TorchScript": "it is a TorchScript archive. Save the state_dict() of its network",
    r"UnpicklingError": "it holds more than tensors. If you trust its author, save only its state_dict()",
    r"subdirectory|data\.pkl": "it is a zip archive without tensors. Unpack it",
    r"": "it is truncated or damaged. Copy or download it again",
}


def open_weights(path: str | Path) -> tuple[BufferedReader, str]:
    """Open a file of weights and return it with words for its format. UserError: missing, a folder, empty."""
    try:
        file = open(path, "rb")  # noqa: SIM115, the callers close it
        head = file.read(64).lstrip()
    except FileNotFoundError:
        raise UserError(
            f"weights {path} does not exist{nearest_path(path)}. Correct the path, or download it."
        ) from None
    except IsADirectoryError:
        raise UserError(f"weights {path}: it is a folder. Name a file in it.") from None
    except OSError as error:
        raise UserError(f"weights {path}: {error.strerror}") from None
    file.seek(0)
    if not head:
        raise UserError(f"weights {path}: the file is empty. Copy or download it again.")
    return file, next((kind for start, kind in _SIGNATURES.items() if head.startswith(start)), "an unknown file")


def read_torch_file(path: str | Path) -> Any:
    """Return what was saved: dicts, lists, numbers, strings and tensors, on the CPU. UserError: any other file."""
    import torch  # takes seconds, and digests of files do without

    file, kind = open_weights(path)
    with file:
        if kind not in (TORCH_ZIP, TORCH_LEGACY):
            raise UserError(f"{path}: no PyTorch file, but {kind}")
        try:
            if kind == TORCH_ZIP and zipfile.ZipFile(file).testzip():
                raise ValueError("wrong checksum, which torch.load does not notice")
            file.seek(0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # PyTorch's, about older files
                return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # damaged files raise errors of many types
            pattern, found = next((p, m) for p in _REASONS if (m := re.search(p, f"{type(error).__name__} {error}")))
            raise UserError(f"{path}: {found.expand(_REASONS[pattern])}") from error
