"""Atomic writing, backups, and .npy dicts from which no code runs."""

import os
import pickle
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tool.cli import UserError
from tool.files import HOST, atomic_write, back_up, check_writable, load_npy_dict, make_folder, remove_leftovers

HEADER = b"\x93NUMPY\x01\x00\x46\x00{'descr': '|O', 'fortran_order': False, 'shape': (), }               \n"


def pickled_dict(mapping: object, protocol: int = 3) -> bytes:
    array = np.empty((), object)
    array[()] = mapping
    return HEADER + pickle.dumps(array, protocol=protocol)


def read(path: Path, content: bytes) -> dict:
    path.write_bytes(content)
    return load_npy_dict(path)


def assert_same(found: dict, expected: dict) -> None:
    assert list(found) == list(expected)
    for key, value in expected.items():
        assert found[key].dtype == value.dtype.newbyteorder("=") and found[key].flags.c_contiguous
        np.testing.assert_array_equal(found[key], value)


def test_atomic_write_keeps_the_old_file_after_an_error(tmp_path):
    path = tmp_path / "map.bin"
    path.write_bytes(b"old")
    with pytest.raises(UserError, match=r"map\.bin: No space left"), atomic_write(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
        raise OSError(28, "No space left on device")
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["map.bin"]
    with atomic_write(path, "w") as file:
        file.write("né\n")
    assert path.read_bytes() == "né\n".encode()


def test_errors_of_writing(tmp_path):
    for write in (check_writable, lambda path: atomic_write(path).__enter__()):
        with pytest.raises(UserError, match=r"absent/map\.bin: No such file"):
            write(tmp_path / "absent/map.bin")
    with pytest.raises(UserError, match=f"{tmp_path}: it is a folder"):
        check_writable(tmp_path)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match=r"file/sub: Not a directory"):
        make_folder(tmp_path / "file/sub")


def test_remove_leftovers_of_killed_processes_only(tmp_path):
    zombie = subprocess.Popen(["true"])
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)  # ended, not reaped
    for process in (999_999_999, zombie.pid):
        (tmp_path / f".a.b.png.{HOST}.{process}.tmp").touch()
    kept = {
        f".a.{HOST}.{os.getpid()}.tmp",
        ".a.elsewhere.999999999.tmp",
        f".a.{HOST}.1st.tmp",
        f".a.{HOST}.{10**30}.tmp",
    }
    for name in kept:
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    zombie.wait()
    assert set(os.listdir(tmp_path)) == kept


def test_back_up_takes_the_first_free_name(tmp_path):
    run = tmp_path / "run"
    assert back_up(run) is None
    for number in (1, 2):
        run.mkdir()
        assert back_up(run) is None  # empty
        (run / "weights").write_text(str(number))
        assert back_up(run) == tmp_path / f"run.{number}" and not run.exists()
        assert (tmp_path / f"run.{number}/weights").read_text() == str(number)


def test_back_up_copies_each_content_once(tmp_path):
    path = tmp_path / "a.txt"
    for text, name in (("one", "a.txt.1"), ("two", "a.txt.2"), ("one", "a.txt.1")):
        path.write_text(text)
        assert back_up(path, copy=True) == tmp_path / name and (tmp_path / name).read_text() == text


@pytest.mark.parametrize("protocol", [2, 3, 4])  # of np.save in numpy up to 1.16, 1.x and 2
def test_load_npy_dict_of_each_protocol_dtype_and_key(tmp_path, protocol):
    generator = np.random.default_rng(0)
    kinds = {"2007_000032": np.float32, 7: np.float64, "big-endian": ">f4", "bytes": np.uint8, "truth": bool}
    arrays = {key: np.asfortranarray(300 * generator.random((20, 30))).astype(kind) for key, kind in kinds.items()}
    arrays |= {"empty": np.zeros((0, 4), np.int64), "number": np.array(2.5)}
    assert_same(read(tmp_path / "a.npy", pickled_dict(arrays, protocol)), arrays)
    content = pickled_dict({np.int64(3): np.ones(2), np.str_("2007_000033"): np.zeros(1)}, protocol)
    if protocol < 4:  # numpy 1's name of the module; texts of protocol 4 have their length before them
        content = content.replace(b"numpy._core.", b"numpy.core.")
    assert [(type(key), key) for key in read(tmp_path / "a.npy", content)] == [(int, 3), (str, "2007_000033")]


@pytest.mark.parametrize(
    ("content", "keyword"),
    [
        (b"not numpy at all", "not a dict"),
        (pickled_dict({1: np.zeros(9)})[:-30], "truncated"),
        (pickled_dict({1: np.array(["a"])}), "numeric"),
        (pickled_dict({(1, 2): np.zeros(1)}), "keys"),
    ],
)
def test_load_npy_dict_rejects_damaged_and_other_files(tmp_path, content, keyword):
    with pytest.raises(UserError, match=rf"a\.npy.*{keyword}"):
        read(tmp_path / "a.npy", content)


def test_load_npy_dict_follows_no_pointers(tmp_path):
    """numpy's object dtype takes flags from a pickle with which bytes of the file count as addresses of objects."""
    dtype = b"cnumpy\ndtype\n(X\x02\0\0\0O8K\x00K\x01tR(K\x03X\x01\0\0\0|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    address = b"C\x08" + struct.pack("<Q", 0x123456789ABC)
    array = b"cnumpy._core.multiarray\n_reconstruct\n)R(K\x01K\x01\x85" + dtype + b"\x89" + address + b"tb"
    outer = b"cnumpy._core.multiarray\n_reconstruct\n)R(K\x01)cnumpy\ndtype\nX\x02\0\0\0O8\x85R\x89]"
    with pytest.raises(UserError, match=r"a\.npy: not a dict"):
        read(tmp_path / "a.npy", HEADER + outer + b"}K\x01" + array + b"satb.")
