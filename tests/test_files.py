import io
import os
import pickle
import random
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from tool import files
from tool.errors import UserError
from tool.files import atomic_write, load_npy_dict, make_folder, save_npy_dict
from tool.pickle_machine import PickleMachine

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
        assert read[key].flags.c_contiguous and read[key].flags.writeable
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
        (HEADER, "pickle exhausted"),
        (HEADER + b"cos\nsystem\n.", "'os' 'system', which is refused because it could run code"),
        (HEADER + b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "'os' 'system', which is refused"),
        (HEADER + b"}.", "the pickle holds no dict"),
        (HEADER + b"\x80\x05\x96" + struct.pack("<Q", 2**60), "bytearray8"),
        (HEADER + b"\x80\x05\x8e" + struct.pack("<Q", 2**60), "bytes8"),
        (HEADER + b"\x80\x04\x95" + struct.pack("<Q", 2**60) + b"N.", "the pickle holds no dict"),
        (HEADER + b"Nr\xff\xff\xff\xff.", "the pickle holds no dict"),
        (HEADER + b"N0.", "uses POP"),
        (HEADER + b"F" + b"1" * 5000 + b"\n.", "no newline found"),
        (HEADER + b"I" + b"x" * 150 + b"\n.", "invalid literal for int"),
        (HEADER + b"](N\x85e}(u.", "malformed"),
        (HEADER + b"t.", "malformed"),
        (HEADER + b"NNu.", "a mark is missing"),
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
        ({1: np.array(["a"])}, "arrays of type 'U1' are not read"),
        ({1: np.array([None], object)}, "an array of several objects"),
        ({1: np.zeros(2, "c8")}, "arrays of type 'c8'"),
        ({(1, 2): np.zeros(1)}, "a key of the dict"),
        ({2.5: np.zeros(1)}, "a key of the dict"),
        ({True: np.zeros(1)}, "a key of the dict"),
        ({2**61 - 1: np.zeros(1)}, "a key of the dict"),
        (np.zeros(3), "the pickle holds no dict"),
        ([1, 2], "the pickle holds no dict"),
    ],
)
def test_only_dicts_of_numeric_arrays(tmp_path, mapping, message):
    with pytest.raises(UserError, match=message):
        load_npy_dict(write_pickle(tmp_path / "a.npy", pickled_dict(mapping, 4)))


def test_plain_arrays_missing_and_large_files(tmp_path, monkeypatch):
    np.save(tmp_path / "plain.npy", np.zeros(3))
    with pytest.raises(UserError, match=r"plain\.npy is not a dict of arrays saved with np\.save"):
        load_npy_dict(tmp_path / "plain.npy")
    with pytest.raises(UserError, match=r"cannot read .*absent\.npy: No such file"):
        load_npy_dict(tmp_path / "absent.npy")
    save_npy_dict(tmp_path / "a.npy", {1: np.zeros(100)})
    monkeypatch.setattr(files, "MAX_DICT_BYTES", 500)
    with pytest.raises(UserError, match=r"a\.npy is larger than"):
        load_npy_dict(tmp_path / "a.npy")


def test_a_shape_that_lies_is_refused(tmp_path):
    payload = pickled_dict({1: np.zeros(16, np.uint8)}, 3).replace(b"K\x10\x85", b"\x8a\x081234567\x12\x85")
    with pytest.raises(
        UserError, match=r"an array claims shape \(1312577418538725937,\) and type uint8 but has 16 bytes"
    ):
        load_npy_dict(write_pickle(tmp_path / "a.npy", payload))


def reduce_array(size: int) -> bytes:
    """Opcodes for an array of `size` uint8 whose bytes are memo 9."""
    return (
        b"cnumpy._core.numeric\n_frombuffer\n(h\x09cnumpy\ndtype\nX\x02\x00\x00\x00u1\x85RM"
        + struct.pack("<H", size)
        + b"\x85X\x01\x00\x00\x00CtR"
    )


def test_one_string_named_many_times_does_not_multiply(tmp_path):
    data = b"B" + struct.pack("<I", 60000) + bytes(60000) + b"q\x09"
    items = [b"K" + bytes([key]) + reduce_array(60000) for key in range(200)]
    with pytest.raises(UserError, match="its arrays take more bytes than the file has"):
        load_npy_dict(write_pickle(tmp_path / "a.npy", b"}(K\xff" + data + b"".join(items) + b"u."))
    with pytest.raises(UserError, match="the pickle holds no dict"):  # one array is within the file's size
        load_npy_dict(write_pickle(tmp_path / "a.npy", b"}(K\xff" + data + items[0] + b"u."))


def test_nested_tuples_are_never_hashed_or_shown(tmp_path):
    nest = b")" + b"q\x00h\x00\x86" * 60  # 2**60 leaves in 240 bytes
    for payload in (b"}" + nest + b"Ns.", nest + b"X\x01\x00\x00\x00a\x93.", b"cnumpy\ndtype\n" + nest + b"\x85R."):
        with pytest.raises(UserError, match=r"a key of the dict|without a name"):
            load_npy_dict(write_pickle(tmp_path / "a.npy", payload))


def test_the_number_of_steps_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(PickleMachine, "max_steps", 1000)
    with pytest.raises(UserError, match="more than 1000 pickle steps"):
        load_npy_dict(write_pickle(tmp_path / "a.npy", b"]" * 5000))


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
        tracemalloc.start()
        for payload in damaged:
            try:
                assert isinstance(load_npy_dict(write_pickle(path, payload)), dict)
            except UserError as error:
                assert str(path) in str(error)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 5e6


def test_public_label_file():
    path = Path(__file__).resolve().parents[2] / "shared" / "voc12_lists" / "cls_labels.npy"
    if not path.exists():
        pytest.skip("the public label file is not beside this checkout")
    labels = load_npy_dict(path)
    assert len(labels) == 12031
    with open(path, "rb") as file:
        assert_same(labels, np.load(io.BytesIO(file.read()), allow_pickle=True).item())
