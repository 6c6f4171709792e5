"""Reading photos, label maps and saliency maps, and writing label maps, with errors that name the file.

Every file is turned upright first: what is read, and every size, is what a viewer shows.
"""

import contextlib
import os
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from tool.cli import UserError
from tool.files import atomic_write
from voc12.classes import CLASSES, PALETTE
from voc12.palette import meant_values, values_of_colours

# A VOC photo has 0.2 million; a file that claims more than this is refused before it is decoded.
MAX_PIXELS = 50_000_000
# Pillow's own warning starts above our limit and would only stand beside the error.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", module=r"PIL\.TiffImagePlugin")  # damaged EXIF data: no viewer complains either

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns an image of each EXIF orientation upright; 1 is upright."""
_MARKS = {  # what the first bytes of a file look like; used in messages only
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG",
    "WebP": rb"RIFF....WEBP",
    "GIF": rb"GIF8",
    "BMP": rb"BM",
    "TIFF": rb"II[*+]\0|MM\0[*+]",
    "HEIC or AVIF": rb"....ftyp",
    "JPEG 2000": rb"\0\0\0\x0cjP|\xffO\xffQ",
    "JPEG XL": rb"\xff\n|\0\0\0\x0cJXL",
    "NumPy": rb"\x93NUMPY",
    "PDF": rb"%PDF",
    "zip": rb"PK\x03\x04",
    "HTML": rb"(?i:\s*<(!doctype )?html)",
}
_USED = PALETTE[: len(CLASSES) + 1]
PHOTO_FORMATS = ("JPEG", "PNG")
LABEL_FORMATS = ("PNG",)


def load_photo(path: str | Path) -> Image.Image:
    """Return the JPEG or PNG photo at `path` as a viewer shows it: decoded, upright, 8-bit RGB.

    16-bit values lose their lower byte, and transparent pixels stand on white. UserError where it cannot be read.
    """
    image = _decode(path, "photo", PHOTO_FORMATS)
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.array(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK"):
        raise UserError(f"photo {path} is a {image.mode} image; save it as 8-bit RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def load_label(path: str | Path) -> np.ndarray:
    """Return the label map at `path`, uint8 (H, W): the values of a grey PNG, or what the colours of another one mean."""
    return read_label(path)[0]


def read_label(path: str | Path) -> tuple[np.ndarray, bool]:
    """Return `load_label`'s label map, and whether the file stores these very values, as other programs need it.

    They are the indices of a palette PNG, unless another program sorted its palette anew; the colours then tell the values, as in
    an RGB PNG of VOC colours. UserError for anything else.
    """
    image = _decode(path, "label map", LABEL_FORMATS)
    if image.mode == "L":
        return np.array(image), True
    values = None
    if image.mode == "P":
        stored = np.array(image)
        used = np.flatnonzero(np.bincount(stored.ravel(), minlength=256))
        meant = meant_values(used, np.array(image.getpalette(), np.uint8).reshape(-1, 3))
        if np.array_equal(used, meant):
            return stored, True
        values = np.zeros(256, np.uint8)
        values[used] = meant
        return values[stored], False
    if image.mode in ("RGB", "RGBA"):
        pixels = np.array(image.convert("RGBA"))
        values = values_of_colours(pixels[..., :3]) if (pixels[..., 3] == 255).all() else None
    if values is None:
        raise UserError(
            f"{path} is a {image.mode} image; label maps are 8-bit palette or grey PNGs of class indices, or opaque VOC colours"
        )
    return values, False


def load_grey(path: str | Path, what: str = "saliency map", one_bit: bool = True) -> np.ndarray:
    """Return the saliency map or mask at `path`, uint8 (H, W), 0..255, of an image whose pixels are grey. `one_bit`: or 0 and 1.

    UserError: colours, transparency, 16 bits, or values of 0 and 1 only, which a threshold on 0..255 would call background.
    """
    image = _decode(path, what, PHOTO_FORMATS)
    if image.mode == "1" and not one_bit:  # which other programs read as 0 and 1 of 255
        raise UserError(f"{what} {path} has one bit a pixel: save {what}s as 8-bit grey, 0 and 255")
    grey = None
    if image.mode == "L":
        grey = np.array(image)
    elif image.mode in ("1", "P", "LA", "RGB", "RGBA"):
        pixels = np.array(image.convert("RGBA"))
        if (pixels[..., 3] == 255).all() and (pixels[..., :3] == pixels[..., :1]).all():
            grey = np.ascontiguousarray(pixels[..., 0])
    if grey is None:
        why = "" if image.mode.startswith("I") else " its pixels are not all opaque and grey;"
        raise UserError(f"{path} is a {image.mode} image;{why} save {what}s as 8-bit grey PNGs (Pillow's mode L)")
    if grey.max(initial=0) == 1:
        raise UserError(
            f"{what} {path} holds 0 and 1 only, where 0..255 was expected: multiply the {what.split()[-1]}s by 255 and save them again"
        )
    return grey


def size_of(path: str | Path, what: str = "photo", formats: tuple[str, ...] = PHOTO_FORMATS) -> tuple[int, int]:
    """Return (H, W) of the upright image at `path`. UserError: it can't be read, or is cut off.

    No more than its header and its end is read where these tell: an image is decoded where no end mark is near the end.
    """
    with _opened(path, what, formats) as image:
        if not _has_end(getattr(image, "fp")):  # noqa: B009, Pillow's types lack it
            image.load()
        # Of a PNG, Pillow decodes the pixels to see what stands behind them.
        file = getattr(image, "fp")  # noqa: B009
        turned = image.format != "PNG" or file is None or _has_metadata(file)
        width, height = image.size
        return (width, height) if turned and _orientation(image) >= 5 else (height, width)


def save_label(path: str | Path, label: np.ndarray, grey: bool = False) -> None:
    """Write `label`, uint8 (H, W), as an 8-bit PNG with the VOC palette: any viewer shows colours, the values stay.

    `grey`: without the palette, as the published code does; a viewer shows it nearly black.
    """
    image = Image.fromarray(np.ascontiguousarray(label, dtype=np.uint8))
    if not grey:
        image.putpalette(PALETTE.tobytes())
    with atomic_write(path) as file:
        image.save(file, format="PNG")


def save_rgb(path: str | Path, picture: np.ndarray) -> None:
    """Write `picture`, uint8 (H, W, 3) RGB, as a PNG."""
    with atomic_write(path) as file:
        Image.fromarray(np.ascontiguousarray(picture)).save(file, format="PNG")


def _decode(path: str | Path, what: str, formats: tuple[str, ...]) -> Image.Image:
    """The image, decoded and upright; of an animated one the first picture."""
    with _opened(path, what, formats) as image:
        image.load()
        turn = _UPRIGHT.get(_orientation(image))
        return image if turn is None else image.transpose(turn)


@contextlib.contextmanager
def _opened(path: str | Path, what: str, formats: tuple[str, ...]) -> Iterator[Image.Image]:
    """An image whose header was read, for a block; what goes wrong there, too, becomes a UserError.

    Only the formats named are opened: some that Pillow also knows start other programs.
    """
    try:
        if Path(path).exists() and not Path(path).is_file():
            raise UserError(f"{what} {path} is no file: move it elsewhere")
        with Image.open(path, formats=formats) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UserError(f"{what} {path} claims {image.width}x{image.height} pixels, more than {MAX_PIXELS}")
            if what == "photo" and image.palette and image.palette.palette[: _USED.nbytes] == _USED.tobytes():
                raise UserError(f"{what} {path} is a label map, in VOC's palette: name the folder of the photos")
            yield image
    except FileNotFoundError as error:
        raise UserError(f"{what} {path} does not exist") from error
    except UnidentifiedImageError as error:
        raise UserError(f"{what} {path} {_unreadable(path, formats)}") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"{what} {path} claims more than {MAX_PIXELS} pixels") from error
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error) as error:
        reason = getattr(error, "strerror", None) or f"{error}; copy or make it again"
        raise UserError(f"{what} {path} cannot be read: {reason}") from error


def _unreadable(path: str | Path, formats: tuple[str, ...]) -> str:
    """Why a file holds no image of these formats, and the remedy."""
    with open(path, "rb") as file:
        head = file.read(32)
    wanted = " or ".join(formats)
    if not head:
        return "is empty (0 bytes): copy or make it again"
    kind = next((name for name, mark in _MARKS.items() if re.match(mark, head, re.DOTALL)), None)
    if kind is None or kind in formats:
        return f"is not a whole {wanted} file: copy or make it again"
    if kind == "JPEG":
        return f"is a JPEG file, which changes class values: make it anew as {wanted}"
    return f"is a {kind} file, whatever its name: convert it to {wanted}"


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1..8; 1 where there is none or it makes no sense."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # damaged metadata, of a dozen types; a viewer shows the photo without it
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _has_end(file: BinaryIO) -> bool:
    """Whether the end mark of a JPEG or PNG is among the last bytes; cameras and programs write other things behind it."""
    start = file.tell()
    file.seek(max(0, file.seek(0, os.SEEK_END) - 1024))
    tail = file.read()
    file.seek(start)
    return b"\xff\xd9" in tail or b"IEND" in tail


def _has_metadata(file: BinaryIO) -> bool:
    """Whether a PNG holds a chunk that may turn it. The pixels, which such chunks may follow, are skipped."""
    start, kind = file.tell(), b""
    file.seek(8)
    while kind not in (b"eXIf", b"iTXt", b"tEXt", b"zTXt") and len(head := file.read(8)) == 8:
        kind = head[4:]
        file.seek(int.from_bytes(head[:4], "big") + 4, 1)
    file.seek(start)
    return kind in (b"eXIf", b"iTXt", b"tEXt", b"zTXt")
