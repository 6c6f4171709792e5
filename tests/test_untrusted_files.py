"""No file that strangers may send runs code, leads out of a folder, or ends the process by a length it claims."""

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
import zlib

import numpy as np
import pytest
import torch
from conftest import REPO
from fuzz import limited_memory, mutations
from weight_files import (
    LAYOUTS,
    params_bytes,
    pickle_of,
    small_tensors,
    torch_bytes,
    with_pickle,
    zip_bytes,
    zip_records,
)

from network.state_dict import read_state_dict
from tool.cli import UserError
from tool.files import load_npy_dict
from voc12.lists import photo_path, read_image_list, read_pairs

HUGE = 2**60
ZIP, LEGACY = torch_bytes(small_tensors()), torch_bytes(small_tensors(), legacy=True)
PARAMS = {
    "arg:conv1a_weight": np.arange(6, dtype=np.float32).reshape(1, 2, 3),
    "arg:res2a_branch1_weight": np.arange(3, dtype=np.float16),
    "aux:bn7_moving_var": np.array([7.0, 8.0]),
}


def long(value: int) -> bytes:
    """Opcode of an integer of any size."""
    return b"\x8a\x09" + value.to_bytes(9, "little")


def npy(pickled: bytes) -> bytes:
    """A saved dict with another pickle in it."""
    file = io.BytesIO()
    np.save(file, {}, allow_pickle=True)
    data = file.getvalue()
    return data[: data.index(b"\n") + 1] + pickled


def png_chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


class Attack:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("protocol", range(6))
def test_malicious_pickles_do_not_run(tmp_path, protocol):
    sentinel = tmp_path / "attacked"
    attack = pickle.dumps({"weight": Attack(sentinel)}, protocol)
    parts = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, {}, [])]
    files = {
        "bare.pth": attack,
        "bare.npy": attack,
        "zip.pth": with_pickle(ZIP, attack),
        "dict.npy": npy(attack),
        "behind_header.params": params_bytes(PARAMS)[:24] + attack,
    }
    for index in range(len(parts)):
        files[f"legacy{index}.pth"] = b"".join([*parts[:index], attack, *parts[index + 1 :]])
    # A first part in the place of the magic number would be told apart by its first bytes; this one comes behind them.
    files["legacy_behind_magic.pth"] = parts[0] + attack
    for name, data in files.items():
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(UserError, match=name) as error:
            load_npy_dict(path) if name.endswith(".npy") else read_state_dict(path)
        assert "\n" not in str(error.value)
        assert not sentinel.exists(), name
    pickle.loads(attack)
    assert sentinel.exists()  # it would have worked


def lies() -> dict[str, bytes]:
    """Small files that claim to be huge."""
    pickled = pickle_of(ZIP)
    shape, count = b"K\x02K\x03\x86", b"K\x06"  # of the first tensor, (2, 3), and of its storage
    assert pickled.count(shape) == LEGACY.count(shape) == 1
    strides, broadcast = b"K\x03K\x01\x86", b"K\x00K\x01\x86"
    assert pickled.count(strides) == LEGACY.count(strides) == 1
    long_shape, longer_shape = (long(side) + b"K\x01\x86" for side in (2**32, HUGE))

    def huge(data: bytes) -> dict[str, bytes]:
        return {
            "storage": data.replace(count, long(HUGE), 1),
            "16 GB storage": data.replace(count, long(2**32), 1),
            "tensor": data.replace(shape, longer_shape),
            "16 GB tensor": data.replace(shape, long_shape),
            "expanded": data.replace(shape, longer_shape).replace(strides, broadcast),
            "16 GB expanded": data.replace(shape, long_shape).replace(strides, broadcast),
            "offset": data.replace(b"QK\x00" + shape, b"Q" + long(HUGE) + shape),
        }

    records = zip_records(ZIP)
    bomb = zip_bytes({**records, "archive/data/0": bytes(50_000_000)}, zipfile.ZIP_DEFLATED)
    claimed = bytearray(ZIP)
    at = ZIP.rindex(b"PK\x01\x02", 0, ZIP.rindex(b"archive/data/0"))  # in the central directory
    claimed[at + 20 : at + 28] = b"\xf0\xff\xff\xff" * 2
    overlong = b"X\xff\xff\xff\xff"  # a string of 4 GB
    old = params_bytes(PARAMS, "0.x")
    side = struct.pack("<qiii", 3, 1, 0, 0)  # last dimension of the first array, device and type
    picture = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 0, 0, 0, 0)) + png_chunk(b"IDAT", b"")
    declared = b'<!DOCTYPE a [<!ENTITY b "' + b"b" * 1000 + b'">]>'
    files = {f"zip {name}.pth": with_pickle(ZIP, data) for name, data in huge(pickled).items()}
    files |= {f"legacy {name}.pth": data for name, data in huge(LEGACY).items()}
    files |= {
        "bomb.pth": bomb,
        "directory.pth": bytes(claimed),
        "string.pth": with_pickle(ZIP, b"\x80\x02" + overlong + b"a."),
        "string legacy.pth": LEGACY[: LEGACY.index(b".") + 1] + b"\x80\x02" + overlong + b"a.",
        "bytearray.pth": with_pickle(ZIP, b"\x80\x02c__builtin__\nbytearray\n" + long(2**36) + b"\x85R."),
        "memo.pth": with_pickle(ZIP, b"\x80\x02}r\xff\xff\xff\x7f."),
        "steps.pth": with_pickle(ZIP, b"\x80\x02" + b"]" * 2_000_000 + b"."),
        "arrays.params": old[:16] + HUGE.to_bytes(8, "little") + old[24:],
        "dims.params": old[:24] + b"\xff\xff\xff\xff" + old[28:],
        "side.params": old[:28] + b"\xff\xff\xff\xff" + old[32:],
        "names.params": old[:-26] + HUGE.to_bytes(8, "little") + old[-18:],
        "side 1.0.params": params_bytes(PARAMS, "1.0").replace(side, struct.pack("<qiii", HUGE, 1, 0, 0)),
        "side 1.x.params": params_bytes(PARAMS, "1.x").replace(side, struct.pack("<qiii", HUGE, 1, 0, 0)),
        "array.npy": npy(pickle.dumps(np.zeros(6), 4).replace(b"K\x06\x85", long(HUGE) + b"\x85")),
        "string.npy": npy(b"\x80\x04\x8d" + HUGE.to_bytes(8, "little") + b"a."),
        "header.npy": b"\x93NUMPY\x01\x00\x46\x00"
        + f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({HUGE},), }}\n".encode(),
        "entities.xml": declared + b"<annotation>" + b"&b;" * 1000 + b"</annotation>",
        "nest.xml": b"<a>" * 300_000,
        "bomb.png": b"\x89PNG\r\n\x1a\n" + picture,
    }
    return files


# Imports first, then a limit of 512 MB on what may be allocated on top.
CHILD = """
import json, resource, sys
from pathlib import Path
import torch
from network.weights import load_weights
from tool.cli import UserError
from tool.files import load_npy_dict
from voc12.images import load_grey
from voc12.labels import read_annotation
from voc12.lists import read_image_list

net = torch.nn.Module()
net.a = torch.nn.Linear(3, 2, bias=False)
net.register_buffer("b", torch.zeros(2, dtype=torch.int64))
readers = {".npy": load_npy_dict, ".xml": read_annotation, ".png": load_grey, ".txt": read_image_list}
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + 512 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
resource.setrlimit(resource.RLIMIT_CPU, (120, 120))
messages = {}
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        readers.get(path.suffix, lambda path: load_weights(net, path))(path)
        messages[path.name] = ""
    except UserError as error:
        messages[path.name] = str(error)
print(json.dumps(messages))
"""


def test_lengths_that_are_claimed_are_one_line_errors(tmp_path):
    files = lies()
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with open(tmp_path / "sparse.txt", "wb") as sparse:  # 64 GB of zeros without a line end
        sparse.truncate(2**36)
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path)],
        cwd=REPO,
        env=os.environ | {"PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no warnings either
    messages = json.loads(done.stdout)
    assert set(messages) == {*files, "sparse.txt"}
    for name, message in messages.items():
        assert name in message and "\n" not in message, name


@pytest.mark.parametrize("kind", [*LAYOUTS, "zip", "legacy"])
def test_files_cut_at_every_byte_are_refused(tmp_path, kind):
    whole = {"zip": ZIP, "legacy": LEGACY}.get(kind) or params_bytes(PARAMS, kind)
    path = tmp_path / "cut.weights"
    path.write_bytes(whole)
    assert read_state_dict(path)
    for length in reversed(range(len(whole))):
        os.truncate(path, length)
        with pytest.raises(UserError, match=r"cut\.weights"):
            read_state_dict(path)


def outcomes(path, read, originals: list[bytes], count: int) -> list[object]:
    """What was read from each mutation; None where it was refused. Anything but a one-line UserError fails the test."""
    results = []
    with open(path, "wb", buffering=0) as file:  # overwritten in place, which is faster than 10000 new files
        for data in mutations(originals, count):
            file.seek(0)
            file.write(data)
            file.truncate()
            try:
                with limited_memory():
                    results.append(read(path))
            except UserError as error:
                assert "\n" not in str(error) and len(str(error)) < 1000 + len(str(path))
                results.append(None)
    return results


def test_mutated_params_are_read_or_refused(tmp_path):
    originals = [params_bytes(PARAMS, layout) for layout in LAYOUTS]
    results = outcomes(tmp_path / "m.params", read_state_dict, originals, 10_000)
    read = [result for result in results if result]
    assert 500 < len(read) < 9500
    names = {"conv1a.weight", "b2.conv_branch1.weight", "bn7.running_var"}
    assert all(len(state) == 3 and all(t.dtype == torch.float32 for t in state.values()) for state in read)
    assert sum(state.keys() == names for state in read) > 100


def test_mutated_torch_files_are_read_or_refused(tmp_path):
    pickles = [with_pickle(ZIP, pickled) for pickled in mutations([pickle_of(ZIP)], 2000)]
    for originals, count in (([ZIP, LEGACY], 4000), (pickles, 2000)):
        results = outcomes(tmp_path / "m.pth", read_state_dict, originals, count)
        assert 0 < sum(result is None for result in results) < count


def test_mutated_lists_are_read_or_refused(tmp_path):
    lists = [
        b"/JPEGImages/2007_000032.jpg /SegmentationClassAug/2007_000032.png\r\n/JPEGImages/2007_000039.jpg\n\n2007_000063\n",
        b"\xef\xbb\xbf2007_000032\n2007_000039",
    ]
    results = outcomes(tmp_path / "images.txt", read_image_list, lists, 10_000)
    assert 100 < sum(result is None for result in results) < 9900
    root = tmp_path / "VOC2012"
    for image_id in {image_id for ids in results if ids for image_id in ids}:
        assert photo_path(root, image_id).resolve().parent == root / "JPEGImages"

    pairs = [b"/JPEGImages/2007_000032.jpg /JPEGImages/2007_000039.jpg 14\n/JPEGImages/a.jpg /JPEGImages/b.jpg 0\r\n"]
    results = outcomes(tmp_path / "pairs.txt", read_pairs, pairs, 10_000)
    assert 100 < sum(result is None for result in results) < 9900
    for first, second, label in {pair for read in results if read for pair in read}:
        assert photo_path(root, first).resolve().parent == photo_path(root, second).resolve().parent
        assert 0 <= label < 20
