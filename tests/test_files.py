"""Atomic writing, backups, and .npy dicts from which no code runs."""

import os
import pickle
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from conftest import SHARED, needs_shared

from tool.cli import UserError
from tool.files import (
    HOST,
    atomic_write,
    back_up,
    check_writable,
    load_npy_dict,
    make_folder,
    remove_leftovers,
    save_npy_dict,
)

HEADER = b"\x93NUMPY\x01\x00\x46\x00{'descr': '|O', 'fortran_order': False, 'shape': (), }               \n"


def write_pickle(path: Path, payload: bytes) -> Path:
    path.write_bytes(HEADER + payload)
    return path


def pickled_dict(mapping: object, protocol: int) -> bytes:
    array = np.empty((), object)
    array[()] = mapping
    return pickle.dumps(array, protocol=protocol)


def assert_same(read: dict, expected: dict) -> None:
    assert list(read) == list(expected)
    for key, value in expected.items():
        assert read[key].dtype == value.dtype.newbyteorder("=")
        assert read[key].flags.c_contiguous
        np.testing.assert_array_equal(read[key], value)


def test_atomic_write_keeps_the_old_file_after_an_error(tmp_path):
    path = tmp_path / "map.bin"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="half"), atomic_write(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
        raise RuntimeError("half way")
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["map.bin"]
    with atomic_write(path, "w") as file:
        file.write("né\n")
    assert path.read_bytes() == "né\n".encode()


def test_atomic_write_and_make_folder_errors(tmp_path):
    for write in (check_writable, lambda path: atomic_write(path).__enter__()):
        with pytest.raises(UserError, match=r"absent/map\.bin: No such file"):
            write(tmp_path / "absent/map.bin")
    with pytest.raises(UserError, match=r"map\.bin: No space left"), atomic_write(tmp_path / "map.bin"):
        raise OSError(28, "No space left on device")
    assert os.listdir(tmp_path) == []
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match=r"file/sub: Not a directory"):
        make_folder(tmp_path / "file/sub")
    assert make_folder(tmp_path / "a/b") == make_folder(tmp_path / "a/b") == tmp_path / "a/b"


def test_remove_leftovers_of_killed_processes_only(tmp_path):
    zombie = subprocess.Popen(["true"])
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)  # ended, not reaped
    for host, process in ((HOST, 999_999_999), (HOST, zombie.pid), (HOST, os.getpid()), ("elsewhere", 999_999_999)):
        (tmp_path / f".a.b.png.{host}.{process}.tmp").touch()
    others = {f".a.{HOST}.1st.tmp", f".a.{HOST}.{10**30}.tmp"}  # no numbers of processes
    for name in others:
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    zombie.wait()
    kept = {f".a.b.png.{HOST}.{os.getpid()}.tmp", ".a.b.png.elsewhere.999999999.tmp", *others}
    assert set(os.listdir(tmp_path)) == kept


def test_back_up_takes_the_first_free_name(tmp_path):
    run, empty = tmp_path / "run", tmp_path / "empty"
    empty.mkdir()
    assert back_up(run) is None and back_up(empty) is None
    for number in (1, 2):
        run.mkdir()
        (run / "weights").write_text(str(number))
        assert back_up(run) == tmp_path / f"run.{number}" and not run.exists()
        assert (tmp_path / f"run.{number}/weights").read_text() == str(number)


def test_back_up_copies_each_content_once(tmp_path):
    path = tmp_path / "a.txt"
    for text, name in (("one", "a.txt.1"), ("two", "a.txt.2"), ("one", "a.txt.1")):
        path.write_text(text)
        assert back_up(path, copy=True) == tmp_path / name
        assert path.read_text() == (tmp_path / name).read_text() == text


def test_saved_dict_is_what_numpy_reads(tmp_path):
    maps = {3: np.arange(12, dtype=np.float32).reshape(3, 4), 14: np.full((3, 4), 0.5, np.float32)}
    save_npy_dict(tmp_path / "a.npy", maps)
    assert os.listdir(tmp_path) == ["a.npy"]
    assert_same(np.load(tmp_path / "a.npy", allow_pickle=True).item(), maps)
    assert_same(load_npy_dict(tmp_path / "a.npy"), maps)


@pytest.mark.parametrize("protocol", [2, 3, 4])  # of np.save in numpy up to 1.16, 1.x and 2
def test_load_npy_dict_of_each_protocol_dtype_and_key(tmp_path, protocol):
    generator = np.random.default_rng(0)
    arrays = {
        "2007_000032": generator.random((2, 3)).astype(np.float32),
        7: np.asfortranarray(generator.random((2, 3, 4))),
        "big-endian": generator.random(5).astype(">f4"),
        "bytes": generator.integers(0, 255, 300).astype(np.uint8),
        "half": generator.random(3).astype(np.float16),
        "truth": np.array([True, False]),
        "nothing": np.zeros((0, 4), np.int64),
        "number": np.array(2.5),
        "view": generator.random((6, 6)).astype(np.float32)[::2, 1::3],
    }
    path = write_pickle(tmp_path / "a.npy", pickled_dict(arrays, protocol))
    assert_same(load_npy_dict(path), arrays)
    keys = {np.int64(3): np.ones(2), np.str_("2007_000033"): np.zeros(1)}
    payload = pickled_dict(keys, protocol)
    if protocol < 4:  # numpy 1's name of the module; texts of protocol 4 have their length before them
        payload = payload.replace(b"numpy._core.", b"numpy.core.")
    read = load_npy_dict(write_pickle(path, payload))
    assert [(type(key), key) for key in read] == [(int, 3), (str, "2007_000033")]


@pytest.mark.parametrize(
    ("content", "keyword"),
    [
        (b"not numpy at all", "not a dict"),
        (HEADER + pickled_dict({1: np.zeros(9)}, 3)[:-30], "truncated"),
        (HEADER + pickled_dict({1: np.array(["a"])}, 3), "numeric"),
        (HEADER + pickled_dict({(1, 2): np.zeros(1)}, 3), "keys"),
        (HEADER + pickled_dict(np.zeros(3), 3), "no dict"),
        (None, "No such file"),
    ],
)
def test_load_npy_dict_rejects_damaged_and_other_files(tmp_path, content, keyword):
    if content is not None:
        (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(UserError, match=rf"a\.npy.*{keyword}"):
        load_npy_dict(tmp_path / "a.npy")


def test_load_npy_dict_follows_no_pointers(tmp_path):
    """numpy's object dtype takes flags from a pickle with which bytes of the file count as addresses of objects."""
    dtype = b"cnumpy\ndtype\n(X\x02\0\0\0O8K\x00K\x01tR(K\x03X\x01\0\0\0|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    address = b"C\x08" + struct.pack("<Q", 0x123456789ABC)
    array = b"cnumpy._core.multiarray\n_reconstruct\n)R(K\x01K\x01\x85" + dtype + b"\x89" + address + b"tb"
    scalar = b"cnumpy._core.multiarray\nscalar\n(" + dtype + address + b"tR"
    outer = b"cnumpy._core.multiarray\n_reconstruct\n)R(K\x01)cnumpy\ndtype\nX\x02\0\0\0O8\x85R\x89]"
    for value in (array, scalar):
        with pytest.raises(UserError, match=r"a\.npy: not a dict"):
            load_npy_dict(write_pickle(tmp_path / "a.npy", outer + b"}K\x01" + value + b"satb."))


@needs_shared
def test_load_npy_dict_of_the_public_labels():
    path = SHARED / "voc12_lists/cls_labels.npy"
    labels = load_npy_dict(path)
    assert len(labels) == 12031
    assert_same(labels, np.load(path, allow_pickle=True).item())
