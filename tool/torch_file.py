"""Tell formats of files of weights and read what torch.save wrote. No file can run code."""

import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

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


def file_kind(path: str | Path) -> str:
    """Return words for the format of a file of weights. UserError: it is missing or a folder."""
    try:
        with open(path, "rb") as file:
            head = file.read(64).lstrip()
    except OSError as error:
        problem = f"{error.strerror}{nearest_path(path)}"
        raise UserError(f"weights {path}: {problem}. Correct the path, or download the file.") from None
    other = "an unknown file" if head else "an empty file; copy or download it again"
    return next((kind for start, kind in _SIGNATURES.items() if head.startswith(start)), other)


def read_torch_file(path: str | Path) -> Any:
    """Return what was saved: dicts, lists, numbers, strings and tensors, on the CPU. UserError: any other file."""
    kind = file_kind(path)
    if kind not in (TORCH_ZIP, TORCH_LEGACY):
        raise UserError(f"{path}: no PyTorch file, but {kind}")
    try:
        if kind == TORCH_ZIP and zipfile.ZipFile(path).testzip():
            raise ValueError("wrong checksum, which torch.load does not notice")
        with warnings.catch_warnings(action="ignore"):  # PyTorch's, about older files
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise errors of many types
        pattern, found = next((p, m) for p in _REASONS if (m := re.search(p, f"{type(error).__name__} {error}")))
        raise UserError(f"{path}: {found.expand(_REASONS[pattern])}") from error
