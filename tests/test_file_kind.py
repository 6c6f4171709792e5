"""tool/file_kind.py: the digest of a file of weights. What files are said to be is tested with their readers."""

import pytest

from tool.errors import UserError
from tool.file_kind import weights_digest


def test_digest(tmp_path):
    (tmp_path / "w").write_bytes(b"abc")
    assert weights_digest(tmp_path / "w") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(UserError, match=r"weights .*absent\.pth does not exist"):
        weights_digest(tmp_path / "absent.pth")
