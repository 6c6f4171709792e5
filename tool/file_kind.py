"""Opening a file of weights; and what a file is by its first bytes, so that an error can say more than "invalid"."""

import hashlib
from pathlib import Path
from typing import IO

from tool.errors import UserError

HEAD = 64  # bytes that `kind_of_file` looks at
MXNET = "an MXNet .params file"
TORCH_ZIP = "a zip archive"
TORCH_LEGACY = "a PyTorch file"

_SIGNATURES = {
    b"\x12\x01\0\0\0\0\0\0": MXNET,
    b"PK\x03\x04": TORCH_ZIP,
    b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.": TORCH_LEGACY,
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"\x1f\x8b": "a gzip archive, to be unpacked first",
    b"7z\xbc\xaf": "a 7z archive, to be unpacked first",
    b"Rar!": "a RAR archive, to be unpacked first",
    b"\x93NUMPY": "a numpy array",
    b"\x89HDF": "an HDF5 file",
    b"\x80": "a bare Python pickle, which could run code",
    b"version https://git-lfs": "a Git LFS pointer instead of the file itself, to be fetched with `git lfs pull`",
    b"<": "a web page, so the download went wrong",
}


def open_weights(path: str | Path) -> IO[bytes]:
    """Open a file of weights. UserError: it is missing, unreadable, empty, or no ordinary file."""
    path = Path(path)
    try:
        if path.is_dir():
            raise UserError(f"weights {path} is a folder; name the .params or .pth file in it")
        if path.exists() and not path.is_file():
            raise UserError(f"weights {path} is not an ordinary file")
        file = open(path, "rb")  # noqa: SIM115, the callers close it
        if path.stat().st_size == 0:
            file.close()
            raise UserError(f"weights {path} is empty; the download or copy may have failed")
    except FileNotFoundError:
        raise UserError(f"weights {path} does not exist") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        raise UserError(f"cannot read weights {path}: {getattr(error, 'strerror', None) or error}") from None
    return file


def weights_digest(path: str | Path) -> str:
    """SHA-256 of a file of weights, in hexadecimal. UserError: as `open_weights`, or it can't be read to its end."""
    with open_weights(path) as file:
        try:
            return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise UserError(f"cannot read weights {path}: {error.strerror}") from error


def kind_of_file(head: bytes) -> str:
    """Words for a file that begins with `head`, such as "a PNG image"."""
    for signature, kind in _SIGNATURES.items():
        if head.lstrip().startswith(signature) if signature == b"<" else head.startswith(signature):
            return kind
    if head and all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head):
        return "a text file"
    return "of an unknown kind"
