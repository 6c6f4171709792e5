"""No file that is read can run code."""

import io
import os
import pickle
from functools import partial

import numpy as np
import pytest
from test_mxnet_params import params_bytes
from test_weights import SMALL, torch_bytes, with_record

from network.weights import read_checkpoint
from pseudo_label.evaluate import read_scores
from tool.cli import UserError
from tool.files import load_npy_dict
from tool.torch_file import read_torch_file
from voc12.classes import VOC
from voc12.labels import read_label_table

NPY_READERS = (
    load_npy_dict,
    partial(read_label_table, classes=VOC),
    partial(read_scores, shape=(1, 1), labels=21, crf=False),
)


class Attack:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("protocol", range(6))
def test_no_reader_runs_code(tmp_path, protocol):
    sentinel = tmp_path / "attacked"
    attack = pickle.dumps({"weight": Attack(sentinel)}, protocol)
    saved_dict = io.BytesIO()
    np.save(saved_dict, {}, allow_pickle=True)
    header = saved_dict.getvalue().partition(b"\n")[0] + b"\n"
    files = {
        "bare.pth": attack,
        "bare.npy": attack,
        "zip.pth": with_record(torch_bytes(SMALL), "data.pkl", attack),
        "dict.npy": header + attack,
        "after_header.params": params_bytes({"arg:conv1a_weight": np.zeros(1)})[:24] + attack,
    }
    parts = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, {}, [])]
    for index in range(1, len(parts)):
        files[f"legacy{index}.pth"] = b"".join([*parts[:index], attack, *parts[index + 1 :]])
    for name, data in files.items():
        path = tmp_path / name
        path.write_bytes(data)
        for read in NPY_READERS if path.suffix == ".npy" else (read_checkpoint, read_torch_file):
            with pytest.raises(UserError, match=name):
                read(path)
            assert not sentinel.exists(), name
    pickle.loads(attack)
    assert sentinel.exists()  # it would have worked
