"""Label maps, saliency maps and photos in every form that programs write, and the files that are none."""

import numpy as np
import pytest
from PIL import ExifTags, Image

from tool.cli import UserError
from voc12.classes import PALETTE
from voc12.images import load_grey, load_label, load_photo, read_label, save_label, size_of

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
LABEL = np.array([[0, 0, 15, 8], [255, 15, 8, 0]], np.uint8)
# Red, green, blue, white at the corners of a picture that is 24 high and 40 wide.
UPRIGHT = np.zeros((24, 40, 3), np.uint8)
UPRIGHT[:12, :20], UPRIGHT[:12, 20:] = (200, 20, 20), (20, 200, 20)
UPRIGHT[12:, :20], UPRIGHT[12:, 20:] = (20, 20, 200), (220, 220, 220)
TURNED = UPRIGHT.transpose(1, 0, 2)
# How a camera stores it under the orientations 1 to 8, from the EXIF standard's table of row 0 and column 0.
STORED = [UPRIGHT, UPRIGHT[:, ::-1], UPRIGHT[::-1, ::-1], UPRIGHT[::-1]]
STORED += [TURNED, TURNED[::-1], TURNED[::-1, ::-1], TURNED[:, ::-1]]


def save_turned(path, picture, orientation: int = 1) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(np.ascontiguousarray(picture)).save(path, exif=exif, quality=95)


def palette_png(path, indices, colours, **options) -> None:
    image = Image.fromarray(np.asarray(indices, np.uint8))
    image.putpalette(np.asarray(colours, np.uint8).tobytes())
    image.save(path, **options)


def test_saved_label_is_an_8_bit_palette_png(tmp_path):
    for grey in (False, True):
        save_label(tmp_path / "a.png", LABEL, grey)
        assert [file.name for file in tmp_path.iterdir()] == ["a.png"]
        assert np.array_equal(load_label(tmp_path / "a.png"), LABEL)
        assert (tmp_path / "a.png").read_bytes()[24:26] == bytes([8, 0 if grey else 3])  # bits, grey or palette
        with Image.open(tmp_path / "a.png") as image:
            assert np.array_equal(np.array(image), LABEL)
            assert grey or np.array_equal(np.array(image.convert("RGB")), PALETTE[LABEL])


@pytest.mark.parametrize("mode", ["P", "RGB", "RGBA"])
def test_colours_give_the_labels_where_indices_do_not(tmp_path, mode):
    label = np.arange(256, dtype=np.uint8).reshape(2, -1) if mode == "RGB" else LABEL
    if mode == "P":  # as programs do that drop unused colours and sort the others
        values, indices = np.unique(label, return_inverse=True)
        palette_png(tmp_path / "a.png", indices.reshape(label.shape), PALETTE[values])
    else:
        Image.fromarray(PALETTE[label]).convert(mode).save(tmp_path / "a.png")
    found, stored = read_label(tmp_path / "a.png")
    assert np.array_equal(found, label) and found.dtype == np.uint8 and not stored


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
    ("load", "pixels", "mode", "keyword"),
    [
        (load_grey, PALETTE[LABEL], "RGB", "8-bit grey"),
        (load_grey, np.stack([GREY, GREY], 2), "LA", "8-bit grey"),
        (load_grey, GREY.astype(np.uint16), "I;16", "8-bit grey"),
        (load_grey, GREY // 20 % 2, "L", "255"),  # a threshold would call all of it background
        (load_label, np.stack([GREY] * 3, 2), "RGB", "RGB"),
        (load_label, GREY.astype(np.uint16), "I;16", "I;16"),
        (load_label, GREY > 0, "1", "1"),
    ],
)
def test_image_of_a_mode_that_cannot_be_read(tmp_path, load, pixels, mode, keyword):
    image = Image.fromarray(pixels)
    assert image.mode == mode
    image.save(tmp_path / "a.png")
    with pytest.raises(UserError, match=rf"a\.png.*{keyword}"):
        load(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("data", "keyword"),
    [
        *((None, "exist"), (b"", "0 bytes"), (b"<!DOCTYPE html><html>", "web page")),
        *((b"\x89PNG\r\n", "PNG"), (b"GIF89a" + bytes(20), "PNG")),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n", "PNG"),  # Pillow starts a program
    ],
)
@pytest.mark.parametrize("read", [load_photo, load_label, load_grey, size_of])
def test_file_that_is_no_image(tmp_path, data, keyword, read):
    if data is not None:
        (tmp_path / "a.jpg").write_bytes(data)
    with pytest.raises(UserError, match=rf"a\.jpg.*{keyword}"):
        read(tmp_path / "a.jpg")


def test_image_of_too_many_pixels(tmp_path):
    Image.new("1", (8000, 8000)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a\.png.*8000x8000.*50000000"):
        load_photo(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_upright(tmp_path, orientation, suffix):
    path = tmp_path / f"a.{suffix}"
    save_turned(path, STORED[orientation - 1], orientation)
    assert np.abs(np.subtract(load_photo(path), UPRIGHT, dtype=int)).mean() < 6 and size_of(path) == (24, 40)


def test_orientation_of_a_png_after_its_pixels(tmp_path):
    path = tmp_path / "a.png"
    save_turned(path, STORED[5], 6)
    whole = path.read_bytes()
    start, end = whole.index(b"eXIf") - 4, whole.index(b"IDAT") - 4
    path.write_bytes(whole[:start] + whole[end:-12] + whole[start:end] + whole[-12:])
    assert size_of(path) == (24, 40) and np.array_equal(np.array(load_photo(path)), UPRIGHT)


def test_damaged_metadata_is_ignored(tmp_path):
    path = tmp_path / "a.jpg"
    save_turned(path, UPRIGHT, 6)
    whole = path.read_bytes()
    start = whole.index(b"Exif\0\0") + 6
    for at in range(start, start + 26, 3):
        path.write_bytes(whole[:at] + b"\xff" + whole[at + 1 :])
        size = load_photo(path).size
        assert sorted(size) == [24, 40] and size[::-1] == size_of(path)


def test_16_bit_photos_keep_their_upper_byte(tmp_path):
    Image.fromarray(np.array([[0, 255, 256, 32768, 65535]], np.uint16)).save(tmp_path / "a.png")
    photo = load_photo(tmp_path / "a.png")
    assert photo.mode == "RGB" and np.array(photo)[0].tolist() == [[value] * 3 for value in (0, 0, 1, 128, 255)]


def test_transparent_pixels_are_white(tmp_path):
    picture = np.array([[[10, 20, 30, 255], [7, 8, 9, 0]]], np.uint8)
    Image.fromarray(picture).save(tmp_path / "rgba.png")
    Image.fromarray(picture[..., :3]).save(tmp_path / "rgb.png", transparency=(7, 8, 9))
    palette_png(tmp_path / "p.png", [[0, 1]], picture[0, :, :3], transparency=1)
    for name in ("rgba", "rgb", "p"):
        assert np.array(load_photo(tmp_path / f"{name}.png")).tolist() == [[[10, 20, 30], [255, 255, 255]]], name
    Image.fromarray(picture[..., ::3]).save(tmp_path / "la.png")
    assert np.array(load_photo(tmp_path / "la.png"))[0, :, 0].tolist() == [10, 255]


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "bmp"])
def test_size_of_a_truncated_photo(tmp_path, suffix):
    path, has_mark = tmp_path / f"a.{suffix}", suffix in ("jpg", "png")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 48, 3)).astype(np.uint8)).save(path)
    whole = path.read_bytes()
    assert load_photo(path).size == (48, 64)
    for more in (b"", bytes(900), bytes(5000)):  # cameras write other data after a photo
        path.write_bytes(whole + more)
        assert size_of(path) == (64, 48)
    for length in (*range(0, len(whole) - 100, 331), len(whole) - 100):
        path.write_bytes(whole[:length] + (b"" if has_mark else b"\xff\xd9 IEND"))  # marks of JPEG and PNG alone
        for read in (load_photo, size_of):
            with pytest.raises(UserError, match=rf"a\.{suffix}"):
                read(path)


def test_label_map_is_no_photo(tmp_path):
    save_label(tmp_path / "a.png", np.zeros((4, 5), np.uint8))
    for read in (size_of, load_photo):
        with pytest.raises(UserError, match=r"a\.png.*label map"):
            read(tmp_path / "a.png")
    assert size_of(tmp_path / "a.png", "label map") == (4, 5)
