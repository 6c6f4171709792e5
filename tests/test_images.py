import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tool.cli import UserError
from voc12.classes import PALETTE
from voc12.images import load_grey, load_label, load_photo, save_label, save_rgb, size_of

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20


def test_labels_are_8_bit_palette_pngs_that_keep_their_values(tmp_path):
    label = np.array([[0, 1, 20], [255, 15, 0]], np.uint8)
    save_label(tmp_path / "a.png", label)
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]
    np.testing.assert_array_equal(load_label(tmp_path / "a.png"), label)
    header = (tmp_path / "a.png").read_bytes()[16:29]
    assert struct.unpack(">IIBB", header[:10]) == (3, 2, 8, 3)  # width, height, 8 bits, palette
    with Image.open(tmp_path / "a.png") as image:
        np.testing.assert_array_equal(np.array(image.convert("RGB")), PALETTE[label])


def test_grey_labels_are_read_too(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "a.png")
    np.testing.assert_array_equal(load_label(tmp_path / "a.png"), GREY)
    assert load_label(tmp_path / "a.png").dtype == np.uint8


def test_photo_is_decoded_rgb(tmp_path):
    picture = np.zeros((8, 16, 3), np.uint8)
    picture[:, :8] = (200, 30, 90)
    save_rgb(tmp_path / "a.png", picture)
    photo = load_photo(tmp_path / "a.png")
    assert photo.mode == "RGB"
    np.testing.assert_array_equal(np.array(photo), picture)
    Image.fromarray(GREY).save(tmp_path / "grey.jpg", quality=95)
    assert load_photo(tmp_path / "grey.jpg").mode == "RGB"


def test_truncated_photo_is_named_at_every_length(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (24, 24, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.jpg")
    whole = (tmp_path / "whole.jpg").read_bytes()
    for length in range(0, len(whole) - 2, 7):
        (tmp_path / "part.jpg").write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"photo .*part\.jpg"):
            load_photo(tmp_path / "part.jpg")


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(UserError, match=r"^photo .*absent\.jpg does not exist$"):
        load_photo(tmp_path / "absent.jpg")
    (tmp_path / "a.png").write_bytes(b"text")
    with pytest.raises(UserError, match=r"label map .*a\.png is not a whole PNG file"):
        load_label(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"saliency map .* is no file: move it elsewhere"):
        load_grey(tmp_path)
    Image.fromarray(GREY).save(tmp_path / "a.jpg")
    with pytest.raises(UserError, match="is a JPEG file, which changes class values: make it anew as PNG"):
        load_label(tmp_path / "a.jpg")


def test_formats_that_start_programs_are_not_opened(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n")
    with pytest.raises(UserError, match="is not a whole JPEG or PNG file"):
        load_photo(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    ("mode", "saliency", "label"),
    [("RGB", True, False), ("P", True, True), ("I;16", False, False), ("L", True, True), ("1", True, False)],
)
def test_modes(tmp_path, mode, saliency, label):
    image = Image.fromarray(GREY.astype(np.uint16)) if mode == "I;16" else Image.fromarray(GREY).convert(mode)
    image.save(tmp_path / "a.png")
    for load, accepted, remedy in (
        (load_grey, saliency, "8-bit grey PNGs"),
        (load_label, label, "8-bit palette or grey PNGs"),
    ):
        if accepted:
            assert load(tmp_path / "a.png").shape == GREY.shape
        else:
            with pytest.raises(UserError, match=rf"a\.png is a {mode} image; .*{remedy}"):
                load(tmp_path / "a.png")


@pytest.mark.parametrize("side", [8000, 20000, 2**31 - 1])
def test_a_header_that_claims_a_huge_picture_is_refused(tmp_path, side):
    body = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    chunk = b"IHDR" + body
    data = zlib.compress(bytes(1000))
    parts = [struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))]
    parts += [struct.pack(">I", len(data)) + b"IDAT" + data + struct.pack(">I", zlib.crc32(b"IDAT" + data))]
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    for load in (load_photo, load_label, load_grey):
        with pytest.raises(UserError, match=r"a\.png claims .* 50000000"):
            load(tmp_path / "a.png")


@pytest.mark.parametrize("kind", ["WebP", "GIF", "TIFF", "BMP", "JPEG 2000"])
def test_a_sound_file_of_another_format_is_called_what_it_is(tmp_path, kind):
    """Under the name of a photo, as downloads and renaming give it."""
    Image.fromarray(GREY).save(tmp_path / "a.jpg", kind.replace(" ", "").upper())
    for load, wanted in ((load_photo, "JPEG or PNG"), (load_label, "PNG"), (load_grey, "JPEG or PNG")):
        with pytest.raises(UserError, match=rf"a\.jpg is a {kind} file, whatever its name: convert it to {wanted}$"):
            load(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"is empty \(0 bytes\): copy or make it again"),
        (b"\x93NUMPY\x01\x00", "is a NumPy file"),
        (b"<!DOCTYPE html><html>", "is a HTML file"),
        (b"\0\0\0\x18ftypheic", "is a HEIC or AVIF file"),
        (b"\x89PNG\r\n", "is not a whole JPEG or PNG file: copy or make it again"),
        (b"\xff\xd8\xff\xe0", "is not a whole JPEG or PNG file"),
    ],
)
def test_what_is_no_image_is_called_what_it_is(tmp_path, data, message):
    (tmp_path / "a.jpg").write_bytes(data)
    for read in (load_photo, size_of):
        with pytest.raises(UserError, match=rf"photo .*a\.jpg {message}"):
            read(tmp_path / "a.jpg")


def test_what_is_no_file_is_not_waited_for(tmp_path):
    (tmp_path / "a.jpg").mkdir()
    os.mkfifo(tmp_path / "b.jpg")
    for name in ("a.jpg", "b.jpg"):
        for read in (load_photo, size_of):
            with pytest.raises(UserError, match=rf"^photo .*{name} is no file: move it elsewhere$"):
                read(tmp_path / name)
