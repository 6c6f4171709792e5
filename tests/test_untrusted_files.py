"""No file can run code; a truncated one is a one-line error."""

import io
import os
import pickle

import numpy as np
import pytest
from weight_files import LAYOUTS, params_bytes, small_tensors, torch_bytes, with_record

from network.weights import read_checkpoint
from tool.cli import UserError
from tool.files import load_npy_dict
from tool.torch_file import read_torch_file

ZIP, LEGACY = torch_bytes(small_tensors()), torch_bytes(small_tensors(), legacy=True)
PARAMS = {"arg:conv1a_weight": np.arange(6, dtype=np.float32).reshape(1, 2, 3), "aux:bn7_moving_var": np.array([7.0])}


class Attack:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def npy(pickled: bytes) -> bytes:
    """A saved dict with another pickle in it."""
    file = io.BytesIO()
    np.save(file, {}, allow_pickle=True)
    data = file.getvalue()
    return data[: data.index(b"\n") + 1] + pickled


@pytest.mark.parametrize("protocol", range(6))
def test_no_reader_runs_code(tmp_path, protocol):
    sentinel = tmp_path / "attacked"
    attack = pickle.dumps({"weight": Attack(sentinel)}, protocol)
    parts = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, {}, [])]
    files = {
        "bare.pth": attack,
        "bare.npy": attack,
        "zip.pth": with_record(ZIP, "data.pkl", attack),
        "dict.npy": npy(attack),
        "after_header.params": params_bytes(PARAMS)[:24] + attack,
    }
    for index in range(1, len(parts)):
        files[f"legacy{index}.pth"] = b"".join([*parts[:index], attack, *parts[index + 1 :]])
    for name, data in files.items():
        path = tmp_path / name
        path.write_bytes(data)
        for read in (load_npy_dict,) if path.suffix == ".npy" else (read_checkpoint, read_torch_file):
            with pytest.raises(UserError, match=name) as error:
                read(path)
            assert "\n" not in str(error.value)
            assert not sentinel.exists(), name
    pickle.loads(attack)
    assert sentinel.exists()  # it would have worked


@pytest.mark.parametrize("kind", [*LAYOUTS, "zip", "legacy"])
def test_truncated_weights_are_rejected(tmp_path, kind):
    whole = {"zip": ZIP, "legacy": LEGACY}.get(kind) or params_bytes(PARAMS, kind)
    path = tmp_path / "cut.weights"
    path.write_bytes(whole)
    assert read_checkpoint(path)[0]
    for length in reversed(range(0, len(whole), 7)):
        os.truncate(path, length)
        with pytest.raises(UserError, match=r"cut\.weights"):
            read_checkpoint(path)
