"""Photos as a viewer shows them: upright, 8-bit, transparent pixels white."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image

from tool.cli import UserError
from voc12.images import load_grey, load_label, load_photo, save_label, size_of

# Red, green, blue, white at the corners of a picture that is 24 high and 40 wide.
UPRIGHT = np.zeros((24, 40, 3), np.uint8)
UPRIGHT[:12, :20], UPRIGHT[:12, 20:] = (200, 20, 20), (20, 200, 20)
UPRIGHT[12:, :20], UPRIGHT[12:, 20:] = (20, 20, 200), (220, 220, 220)
# How a camera stores the upright picture under each orientation, from the EXIF standard's table of row 0 and column 0.
STORED = {
    1: UPRIGHT,
    2: UPRIGHT[:, ::-1],
    3: UPRIGHT[::-1, ::-1],
    4: UPRIGHT[::-1],
    5: UPRIGHT.transpose(1, 0, 2),
    6: UPRIGHT.transpose(1, 0, 2)[::-1],
    7: UPRIGHT[::-1, ::-1].transpose(1, 0, 2),
    8: UPRIGHT.transpose(1, 0, 2)[:, ::-1],
}


def exif(orientation: object) -> Image.Exif:
    found = Image.Exif()
    found[ExifTags.Base.Orientation] = orientation
    return found


def is_near(photo: Image.Image, expected: np.ndarray) -> bool:
    """Return whether they are equal but for JPEG's losses."""
    found = np.array(photo)
    return found.shape == expected.shape and np.abs(found.astype(int) - expected).mean() < 6


def png(depth: int, kind: int, rows: np.ndarray, *chunks: tuple[bytes, bytes], after: bool = False) -> bytes:
    """Return a PNG of these samples (H, row bytes), with `chunks` before or after the pixels."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind]
    width = rows.shape[1] * 8 // (depth * channels)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, len(rows), depth, kind, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows)))
    more = b"".join(chunk(*part) for part in chunks)
    return b"\x89PNG\r\n\x1a\n" + header + (pixels + more if after else more + pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", STORED)
def test_photos_are_upright(tmp_path, orientation, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.ascontiguousarray(STORED[orientation])).save(path, exif=exif(orientation), quality=95)
    assert is_near(load_photo(path), UPRIGHT)
    assert size_of(path) == (24, 40)


@pytest.mark.parametrize("after", [False, True])
def test_orientation_of_a_png_after_its_pixels(tmp_path, after):
    body = exif(6).tobytes().removeprefix(b"Exif\0\0")
    rows = np.ascontiguousarray(STORED[6]).reshape(40, -1)
    (tmp_path / "a.png").write_bytes(png(8, 2, rows, (b"eXIf", body), after=after))
    assert size_of(tmp_path / "a.png") == (24, 40)
    assert np.array_equal(np.array(load_photo(tmp_path / "a.png")), UPRIGHT)


def test_damaged_metadata_is_ignored(tmp_path):
    file = io.BytesIO()
    Image.fromarray(UPRIGHT).save(file, "JPEG", exif=exif(6), quality=95)
    whole = file.getvalue()
    start = whole.index(b"Exif\0\0") + 6
    for at in range(start, start + 26, 3):
        for value in (0, 255):
            (tmp_path / "a.jpg").write_bytes(whole[:at] + bytes([value]) + whole[at + 1 :])
            assert sorted(load_photo(tmp_path / "a.jpg").size) == [24, 40]
            assert load_photo(tmp_path / "a.jpg").size[::-1] == size_of(tmp_path / "a.jpg")


def test_label_and_saliency_pngs_are_upright(tmp_path):
    values = np.arange(12, dtype=np.uint8).reshape(3, 4)
    for name, image, load in (("grey", Image.fromarray(values), load_grey), ("label", None, load_label)):
        if image is None:
            save_label(tmp_path / "a.png", values)
            image = Image.open(tmp_path / "a.png")
        image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / f"{name}.png", exif=exif(6))
        assert np.array_equal(load(tmp_path / f"{name}.png"), values)


def test_16_bit_photos_keep_their_upper_byte(tmp_path):
    values = np.array([[0, 255, 256, 32768, 65535]], ">u2")
    expected = np.array([[0, 0, 1, 128, 255]], np.uint8)
    alpha = np.full(5, 65535, ">u2")
    for kind, samples in (
        (0, values),
        (2, np.stack([values[0]] * 3, 1).reshape(1, -1)),
        (4, np.stack([values[0], alpha], 1).reshape(1, -1)),
        (6, np.stack([*[values[0]] * 3, alpha], 1).reshape(1, -1)),
    ):
        (tmp_path / "a.png").write_bytes(png(16, kind, samples.astype(">u2").view(np.uint8)))
        photo = load_photo(tmp_path / "a.png")
        assert photo.mode == "RGB"
        assert np.array_equal(np.array(photo), np.stack([expected] * 3, 2)), kind


def test_transparent_pixels_are_white(tmp_path):
    seen = np.array([[[10, 20, 30], [255, 255, 255]]])
    picture = np.array([[[10, 20, 30, 255], [10, 20, 30, 0]]], np.uint8)
    Image.fromarray(picture).save(tmp_path / "rgba.png")
    palette = Image.fromarray(np.array([[0, 1]], np.uint8))
    palette.putpalette([10, 20, 30, 1, 2, 3])
    palette.save(tmp_path / "p.png", transparency=1)
    (tmp_path / "rgb.png").write_bytes(
        png(8, 2, np.array([[10, 20, 30, 7, 8, 9]], np.uint8), (b"tRNS", bytes([0, 7, 0, 8, 0, 9])))
    )
    for name in ("rgba", "p", "rgb"):
        assert np.array_equal(np.array(load_photo(tmp_path / f"{name}.png")), seen), name
    Image.fromarray(np.array([[[10, 255], [10, 0]]], np.uint8), "LA").save(tmp_path / "la.png")
    assert np.array(load_photo(tmp_path / "la.png"))[0, :, 0].tolist() == [10, 255]


def test_black_and_white_and_cmyk(tmp_path):
    Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1").save(tmp_path / "a.png")
    assert np.array(load_photo(tmp_path / "a.png"))[0, :, 1].tolist() == [0, 255]
    Image.fromarray(UPRIGHT).convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)  # inverted, as Adobe does
    assert is_near(load_photo(tmp_path / "cmyk.jpg"), UPRIGHT)


def test_size_is_read_from_header_and_end(tmp_path, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 255, (64, 48, 3)).astype(np.uint8)
    for name in ("a.jpg", "a.png"):
        path = tmp_path / name
        Image.fromarray(noise).save(path, **({"exif": exif(6)} if name == "a.jpg" else {}))
        size, whole = ((48, 64) if name == "a.jpg" else (64, 48)), path.read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(Image.Image, "load", lambda _: pytest.fail("decoded"))
            for more in (b"", bytes(900)):
                path.write_bytes(whole + more)
                assert size_of(path) == size
        path.write_bytes(whole + bytes(5000))  # cameras write other data after a photo
        assert size_of(path) == size
        path.write_bytes(whole[:-1000])
        with pytest.raises(UserError, match=f"{name}.*truncated"):
            size_of(path)


def test_label_map_is_no_photo(tmp_path):
    save_label(tmp_path / "a.png", np.zeros((4, 5), np.uint8))
    for read in (size_of, load_photo):
        with pytest.raises(UserError, match=r"a\.png.*label map"):
            read(tmp_path / "a.png")
    assert load_label(tmp_path / "a.png").shape == size_of(tmp_path / "a.png", "label map") == (4, 5)


@pytest.mark.parametrize("suffix", ["webp", "tif", "bmp"])
def test_photos_of_other_formats(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(UPRIGHT).save(path, **({"quality": 95} if suffix == "webp" else {}))
    assert is_near(load_photo(path), UPRIGHT) and size_of(path) == (24, 40)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=rf"a\.{suffix}"):
        size_of(path)


def test_label_maps_are_png(tmp_path):
    Image.fromarray(UPRIGHT[..., 0]).save(tmp_path / "a.png", "TIFF")
    for load in (load_label, load_grey):
        with pytest.raises(UserError, match=r"a\.png.*PNG"):
            load(tmp_path / "a.png")
