import io
import os
import pickle
import random
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from fuzz import limited_memory

from tool import npy_dict
from tool.cli import UserError
from tool.files import atomic_write, load_npy_dict, make_folder, save_npy_dict

HEADER = b"\x93NUMPY\x01\x00\x46\x00{'descr': '|O', 'fortran_order': False, 'shape': (), }               \n"


def write_pickle(path: Path, payload: bytes) -> Path:
    path.write_bytes(HEADER + payload)
    return path


def pickled_dict(mapping: dict, protocol: int) -> bytes:
    array = np.empty((), object)
    array[()] = mapping
    return pickle.dumps(array, protocol=protocol)


def assert_same(read: dict, expected: dict) -> None:
    assert list(read) == list(expected)
    for key, value in expected.items():
        assert read[key].dtype == value.dtype.newbyteorder("=")
        assert read[key].flags.c_contiguous
        np.testing.assert_array_equal(read[key], value)


def test_atomic_write_leaves_the_old_file_when_the_block_fails(tmp_path):
    path = tmp_path / "map.bin"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="half"), atomic_write(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
        raise RuntimeError("half way")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["map.bin"]
    with atomic_write(path, "w") as file:
        file.write("né\n")
    assert path.read_bytes() == "né\n".encode()


def test_atomic_write_names_what_cannot_be_written(tmp_path):
    with (
        pytest.raises(UserError, match=r"cannot write .*absent/map.bin: No such file"),
        atomic_write(tmp_path / "absent" / "map.bin"),
    ):
        pass
    with pytest.raises(UserError, match=r"cannot write .*: No space left"), atomic_write(tmp_path / "map.bin"):
        raise OSError(28, "No space left on device")
    assert os.listdir(tmp_path) == []


def test_make_folder(tmp_path):
    assert make_folder(tmp_path / "a" / "b").is_dir()
    make_folder(tmp_path / "a" / "b")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match=r"cannot create the folder .*file/sub: Not a directory"):
        make_folder(tmp_path / "file" / "sub")


def test_save_is_what_numpy_reads_and_load_reads_it_back(tmp_path):
    maps = {3: np.arange(12, dtype=np.float32).reshape(3, 4), 14: np.full((3, 4), 0.5, np.float32)}
    save_npy_dict(tmp_path / "a.npy", maps)
    assert os.listdir(tmp_path) == ["a.npy"]
    assert_same(np.load(tmp_path / "a.npy", allow_pickle=True).item(), maps)
    assert_same(load_npy_dict(tmp_path / "a.npy"), maps)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_type_order_and_key(tmp_path, protocol):
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
    named = {np.int64(3): np.ones(2), np.str_("2007_000033"): np.zeros(1)}
    read = load_npy_dict(write_pickle(path, pickled_dict(named, protocol)))
    assert [(type(key), key) for key in read] == [(int, 3), (str, "2007_000033")]


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_files_of_numpy_1_name_other_modules(tmp_path, protocol):
    # Both names have lengths in front of them in protocol 4 and 5; replacing needs those too.
    payload = pickled_dict({1: np.arange(3)}, protocol)
    if protocol >= 4:
        payload = payload[:2] + payload[11:]  # without the frame, whose length would be wrong
    for room in (b"multiarray", b"numeric"):
        new, old = b"numpy._core." + room, b"numpy.core." + room
        payload = payload.replace(bytes([len(new)]) + new, bytes([len(old)]) + old).replace(new, old)
    assert b"_core" not in payload
    assert_same(load_npy_dict(write_pickle(tmp_path / "a.npy", payload)), {1: np.arange(3)})


class Malicious:
    def __reduce__(self):
        return os.system, ("touch ran",)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_calls_is_refused_and_does_not_run(tmp_path, monkeypatch, protocol):
    monkeypatch.chdir(tmp_path)
    for mapping in ({1: Malicious()}, {Malicious(): np.zeros(1)}, Malicious()):
        path = write_pickle(tmp_path / "a.npy", pickled_dict(mapping, protocol))
        with pytest.raises(UserError, match=r"a\.npy is not a dict of arrays"):
            load_npy_dict(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "its header is not that of a saved dict"),
        (b"\x93NUMPY\x01\x00\x46", "its header"),
        (b"not numpy at all", "its header"),
        (HEADER, "truncated or damaged"),
        (HEADER + b"cos\nsystem\n.", "'os.system', which is refused because it could run code"),
        (HEADER + b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "'os.system', which is refused"),
        (HEADER + b"}.", "the pickle holds no dict"),
        (HEADER + b"\x80\x05\x96" + struct.pack("<Q", 2**60), "needs more memory|truncated"),
        (HEADER + b"\x80\x05\x8e" + struct.pack("<Q", 2**60), "needs more memory|truncated"),
        (HEADER + b"\x80\x04\x95" + struct.pack("<Q", 2**60) + b"N.", "needs more memory|truncated"),
        (HEADER + b"N0.", "truncated or damaged"),
        (HEADER + b"F" + b"1" * 5000 + b"\n.", "malformed"),
        (HEADER + b"I" + b"x" * 150 + b"\n.", "could not convert|invalid literal"),
        (HEADER + b"Fa\n.", "could not convert string to float"),
        (HEADER + b"](N\x85e}(u.", "malformed"),
        (HEADER + b"t.", "truncated or damaged"),
        (HEADER + b"NNu.", "truncated or damaged"),
    ],
)
def test_malformed_files_are_one_line_errors(tmp_path, content, message):
    path = tmp_path / "a.npy"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        load_npy_dict(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert len(str(error.value)) < len(str(path)) + 300


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({1: "text"}, "a value of the dict is not a numeric array"),
        ({1: 2.5}, "a value of the dict is not a numeric array"),
        ({1: np.array(["a"])}, "arrays of type '<U1' are not read"),
        ({1: np.array([None], object)}, "a value of the dict is not a numeric array"),
        ({1: np.zeros(2, "c8")}, "arrays of type '<c8'"),
        ({(1, 2): np.zeros(1)}, "no dict with integers or strings as keys"),
        ({2.5: np.zeros(1)}, "no dict with integers or strings as keys"),
        ({True: np.zeros(1)}, "no dict with integers or strings as keys"),
        (np.zeros(3), "the pickle holds no dict"),
        ([1, 2], "the pickle holds no dict"),
    ],
)
def test_only_dicts_of_numeric_arrays(tmp_path, mapping, message):
    with pytest.raises(UserError, match=message):
        load_npy_dict(write_pickle(tmp_path / "a.npy", pickled_dict(mapping, 4)))


def test_plain_arrays_and_missing_files(tmp_path):
    np.save(tmp_path / "plain.npy", np.zeros(3))
    with pytest.raises(UserError, match=r"plain\.npy is not a dict of arrays saved with np\.save"):
        load_npy_dict(tmp_path / "plain.npy")
    with pytest.raises(UserError, match=r"cannot read .*absent\.npy: No such file"):
        load_npy_dict(tmp_path / "absent.npy")


def test_files_of_large_photos_are_read_without_a_copy(tmp_path):
    maps = {label: np.full((4000, 5000), label, np.float32) for label in (0, 7)}  # 160 MB
    save_npy_dict(tmp_path / "a.npy", maps)
    tracemalloc.start()
    read = load_npy_dict(tmp_path / "a.npy")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert_same(read, maps)
    assert peak < 200e6


def test_a_shape_that_lies_is_refused(tmp_path):
    payload = pickled_dict({1: np.zeros(16, np.uint8)}, 3).replace(b"K\x10\x85", b"\x8a\x081234567\x12\x85")
    with pytest.raises(UserError, match="its pickle is malformed"):
        load_npy_dict(write_pickle(tmp_path / "a.npy", payload))


def test_a_dtype_is_never_made_to_follow_pointers(tmp_path):
    """numpy's own object dtype takes flags from a pickle that let bytes of the file stand for addresses of objects."""
    dtype = b"cnumpy\ndtype\n(X\x02\0\0\0O8K\x00K\x01tR(K\x03X\x01\0\0\0|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    address = b"C\x08" + struct.pack("<Q", 0x123456789ABC)
    values = {
        "array": b"cnumpy._core.numeric\n_frombuffer\n(" + address + dtype + b"K\x01\x85X\x01\0\0\0CtR",
        "state": b"cnumpy._core.multiarray\n_reconstruct\n)R(K\x01K\x01\x85" + dtype + b"\x89" + address + b"tb",
        "scalar": b"cnumpy._core.multiarray\nscalar\n(" + dtype + address + b"tR",
    }
    outer = b"cnumpy._core.multiarray\n_reconstruct\n)R(K\x01)cnumpy\ndtype\nX\x02\0\0\0O8\x85R\x89]"
    sound = b"cnumpy._core.numeric\n_frombuffer\n(C\x01ccnumpy\ndtype\nX\x02\0\0\0u1\x85RK\x01\x85X\x01\0\0\0CtR"
    path = write_pickle(tmp_path / "a.npy", outer + b"}K\x01" + sound + b"satb.")
    assert load_npy_dict(path)[1].tolist() == [ord("c")]
    for name, value in values.items():
        path = write_pickle(tmp_path / f"{name}.npy", outer + b"}K\x01" + value + b"satb.")
        with pytest.raises(UserError, match=r"arrays of type '\|O' are not read|OBJECT array"):
            load_npy_dict(path)


@pytest.mark.parametrize("state", [b"}X\x01\0\0\0xK\x01s", b"N}X\x05\0\0\0_callK\x01s\x86"], ids=["attribute", "slot"])
@pytest.mark.parametrize("name", sorted(npy_dict._NAMES))
def test_a_pickle_cannot_leave_anything_on_what_stands_for_numpy(tmp_path, name, state):
    module, _, attribute = name.rpartition(".")
    path = write_pickle(
        tmp_path / "a.npy", b"\x80\x02c%s\n%s\n" % (module.encode(), attribute.encode()) + state + b"b."
    )
    with pytest.raises(UserError):
        load_npy_dict(path)
    assert not hasattr(npy_dict._NAMES[name], "x") and getattr(npy_dict._NAMES[name], "_call", None) != 1


def test_truncations_and_mutations_are_errors_or_dicts(tmp_path):
    generator = random.Random(0)
    path = tmp_path / "a.npy"
    for protocol in (2, 3, 4, 5):
        whole = pickled_dict({0: np.ones((2, 2), np.float32), "a": np.arange(3)}, protocol)
        damaged = [whole[:length] for length in range(len(whole))]
        for _ in range(200):
            copy = bytearray(whole)
            for _ in range(generator.choice([1, 2, 5])):
                copy[generator.randrange(len(copy))] = generator.randrange(256)
            damaged.append(bytes(copy))
        with limited_memory():
            for payload in damaged:
                try:
                    assert isinstance(load_npy_dict(write_pickle(path, payload)), dict)
                except UserError as error:
                    assert str(path) in str(error)


def test_public_label_file():
    path = Path(__file__).resolve().parents[2] / "shared" / "voc12_lists" / "cls_labels.npy"
    if not path.exists():
        pytest.skip("the public label file is not beside this checkout")
    labels = load_npy_dict(path)
    assert len(labels) == 12031
    with open(path, "rb") as file:
        assert_same(labels, np.load(io.BytesIO(file.read()), allow_pickle=True).item())
