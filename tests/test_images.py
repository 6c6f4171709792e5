"""Label maps, saliency maps and photos in every form that programs write, and the files that are none."""

import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tool.cli import UserError
from voc12.classes import PALETTE
from voc12.images import labels_of_colours, load_grey, load_label, load_photo, read_label, save_label, size_of

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
LABEL = np.array([[0, 0, 15, 8], [255, 15, 8, 0]], np.uint8)


def palette_png(path, indices, colours) -> None:
    image = Image.fromarray(np.asarray(indices, np.uint8))
    image.putpalette(np.asarray(colours, np.uint8).tobytes())
    image.save(path)


def test_saved_label_is_an_8_bit_palette_png(tmp_path):
    label = np.array([[0, 1, 20], [255, 15, 0]], np.uint8)
    save_label(tmp_path / "a.png", label)
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]
    np.testing.assert_array_equal(load_label(tmp_path / "a.png"), label)
    header = (tmp_path / "a.png").read_bytes()[16:29]
    assert struct.unpack(">IIBB", header[:10]) == (3, 2, 8, 3)  # width, height, 8 bits, palette
    with Image.open(tmp_path / "a.png") as image:
        np.testing.assert_array_equal(np.array(image.convert("RGB")), PALETTE[label])
    save_label(tmp_path / "grey.png", label, grey=True)
    with Image.open(tmp_path / "grey.png") as image:
        assert image.mode == "L"
    np.testing.assert_array_equal(load_label(tmp_path / "grey.png"), label)


@pytest.mark.parametrize("mode", ["P", "RGB", "RGBA"])
def test_colours_give_the_labels_where_indices_do_not(tmp_path, mode):
    if mode == "P":  # as programs do that drop unused colours and sort the others
        values, indices = np.unique(LABEL, return_inverse=True)
        palette_png(tmp_path / "a.png", indices.reshape(LABEL.shape), PALETTE[values])
    else:
        Image.fromarray(PALETTE[LABEL]).convert(mode).save(tmp_path / "a.png")
    found, stored = read_label(tmp_path / "a.png")
    assert np.array_equal(found, LABEL) and found.dtype == np.uint8 and not stored


def test_labels_of_all_colours():
    assert np.array_equal(labels_of_colours(PALETTE), np.arange(256))
    assert labels_of_colours(np.array([[0, 0, 0], [128, 0, 1]], np.uint8)) is None


@pytest.mark.parametrize("colours", ["ours", "cut", "grey", "unset", "foreign", "short"])
def test_indices_are_labels_where_the_palette_says_nothing_else(tmp_path, colours):
    palette = {
        "ours": PALETTE,
        "cut": PALETTE[:16],  # used colours only
        "grey": np.repeat(np.arange(256)[:, None], 3, 1),
        "unset": np.zeros((256, 3)),
        "foreign": np.random.default_rng(0).integers(1, 255, (256, 3)),
        "short": np.concatenate([PALETTE[:2], np.zeros((254, 3))]),
    }[colours]
    label = np.minimum(LABEL, 15) if colours == "cut" else LABEL
    palette_png(tmp_path / "a.png", label, palette)
    found, stored = read_label(tmp_path / "a.png")
    assert np.array_equal(found, label) and stored


def test_grey_levels_of_a_re_sorted_palette_are_the_labels(tmp_path):
    palette_png(tmp_path / "a.png", [[0, 1, 2]], [[0] * 3, [7] * 3, [15] * 3])
    assert read_label(tmp_path / "a.png")[0].tolist() == [[0, 7, 15]]


@pytest.mark.parametrize("mode", ["L", "P", "1", "RGB", "RGBA", "LA"])
def test_load_grey_of_each_mode(tmp_path, mode):
    grey = np.array([[0, 255, 255], [255, 0, 0]] if mode == "1" else [[0, 7, 255], [128, 3, 1]], np.uint8)
    Image.fromarray(grey).convert(mode).save(tmp_path / "a.png")
    assert np.array_equal(load_grey(tmp_path / "a.png"), grey)


@pytest.mark.parametrize(
    ("load", "image", "keyword"),
    [
        (load_grey, Image.fromarray(PALETTE[LABEL]), "8-bit grey"),
        (load_grey, Image.fromarray(np.array([[[9, 255], [9, 254]]], np.uint8), "LA"), "8-bit grey"),
        (load_grey, Image.fromarray(GREY.astype(np.uint16)), "8-bit grey"),
        (
            load_grey,
            Image.fromarray(np.array([[0, 1]], np.uint8)),
            "255",
        ),  # a threshold would call all of it background
        (load_label, Image.fromarray(GREY).convert("RGB"), "RGB"),
        (load_label, Image.fromarray(GREY.astype(np.uint16)), "I;16"),
        (load_label, Image.fromarray(GREY).convert("1"), "1"),
    ],
)
def test_image_of_a_mode_that_cannot_be_read(tmp_path, load, image, keyword):
    image.save(tmp_path / "a.png")
    with pytest.raises(UserError, match=rf"a\.png.*{keyword}"):
        load(tmp_path / "a.png")


def test_truncated_photo_of_every_length(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (24, 24, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.jpg")
    whole = (tmp_path / "whole.jpg").read_bytes()
    for length in range(0, len(whole) - 2, 7):
        (tmp_path / "part.jpg").write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"part\.jpg"):
            load_photo(tmp_path / "part.jpg")


@pytest.mark.parametrize(
    ("data", "keyword"),
    [
        (None, "exist"),
        (b"", "0 bytes"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"\x89PNG\r\n", "PNG"),
        (b"GIF89a" + bytes(20), "JPEG or PNG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n", "JPEG or PNG"),  # Pillow starts a program
    ],
)
def test_file_that_is_no_image(tmp_path, data, keyword):
    if data is not None:
        (tmp_path / "a.jpg").write_bytes(data)
    for read in (load_photo, size_of):
        with pytest.raises(UserError, match=rf"a\.jpg.*{keyword}"):
            read(tmp_path / "a.jpg")


def test_load_photo_rejects_folder_and_fifo(tmp_path):
    (tmp_path / "a.jpg").mkdir()
    os.mkfifo(tmp_path / "b.jpg")
    for name in ("a.jpg", "b.jpg"):
        with pytest.raises(UserError, match=f"{name}.*no file"):
            load_photo(tmp_path / name)


@pytest.mark.parametrize("side", [8000, 2**31 - 1])
def test_header_of_a_huge_image(tmp_path, side):
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))))
    for load in (load_photo, load_label, load_grey):
        with pytest.raises(UserError, match=r"a\.png.*50000000"):
            load(tmp_path / "a.png")
