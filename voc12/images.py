"""Reading photos, label maps and saliency maps, upright as EXIF data say; writing label maps. Errors name the file."""

import contextlib
import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from tool import VOID
from tool.cli import UserError
from tool.files import atomic_write
from voc12.classes import CLASSES, PALETTE

PHOTO_ENDINGS = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp")
PHOTO_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP")
OTHER_ENDINGS = (".gif", ".avif", ".heic", ".heif", ".jxl", ".jp2", ".ppm", ".svg", ".dng", ".cr2", ".nef", ".arw")
"""Endings of images that are not read."""
GREY_FORMATS = ("JPEG", "PNG")
LABEL_FORMATS = ("PNG",)
COLOUR_KEY = np.array([1 << 16, 1 << 8, 1])  # a colour's inner product with it is a unique number
END_MARKS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND"}
MAX_PIXELS = 50_000_000  # a VOC photo has 0.2 million; larger ones are refused before they are decoded
Image.MAX_IMAGE_PIXELS = None  # MAX_PIXELS takes its place
warnings.filterwarnings("ignore", module=r"PIL\.TiffImagePlugin")  # damaged EXIF data; viewers ignore it, too


def load_photo(path: str | Path) -> Image.Image:
    """Return the photo at `path`, 8-bit RGB. 16-bit values lose their lower byte; transparent pixels become white."""
    image = _decode(path, "photo", PHOTO_FORMATS)
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.array(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK"):
        raise UserError(f"{path}: an image of mode {image.mode} is not a photo. Save it as 8-bit RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def load_label(path: str | Path) -> np.ndarray:
    """Return the label map at `path`, uint8 (H, W): see `read_label`."""
    return read_label(path)[0]


def read_label(path: str | Path) -> tuple[np.ndarray, bool]:
    """Return the label map at `path`, uint8 (H, W), and whether the file stores these values as other programs read them.

    Values are those of a grey PNG, the indices of a palette PNG, or, if another program re-sorted the palette, the labels
    with its VOC colours, as in an RGB PNG of VOC colours. UserError for other images.
    """
    image = _decode(path, "label map", LABEL_FORMATS)
    if image.mode == "L":
        return np.array(image), True
    if image.mode == "P":
        stored, table = np.array(image), np.zeros(256, np.uint8)
        used = np.unique(stored)
        table[used] = _palette_labels(used, np.array(image.getpalette(), np.uint8).reshape(-1, 3))
        return table[stored], np.array_equal(table[used], used)
    values = None
    if image.mode in ("RGB", "RGBA"):
        pixels = np.array(image.convert("RGBA"))
        values = _labels_of_colours(pixels[..., :3]) if (pixels[..., 3] == 255).all() else None
    if values is None:
        raise UserError(f"{path}: a label map of mode {image.mode} cannot be read. Save it as an 8-bit palette PNG")
    return values, False


def load_grey(path: str | Path, what: str = "saliency map") -> np.ndarray:
    """Return the saliency map or mask at `path`, uint8 (H, W) in 0..255. what: its name in messages.

    UserError for colours, transparency, 16 bits, and values of only 0 and 1, which a threshold on 0..255 would call background.
    """
    image = _decode(path, what, GREY_FORMATS)
    grey = None
    if image.mode == "L":
        grey = np.array(image)
    elif image.mode in ("1", "LA", "P", "RGB", "RGBA"):
        pixels = np.array(image.convert("RGBA"))
        if (pixels[..., 3] == 255).all() and (pixels[..., :3] == pixels[..., :1]).all():
            grey = np.ascontiguousarray(pixels[..., 0])
    if grey is None:
        raise UserError(f"{path}: a {what} of mode {image.mode} cannot be read. Save it as an opaque 8-bit grey PNG")
    if grey.max(initial=0) == 1:
        raise UserError(f"{path}: {what} holds 0 and 1 only, where 0..255 was expected. Multiply it by 255")
    return grey


def size_of(path: str | Path, what: str = "photo", formats: tuple[str, ...] = PHOTO_FORMATS) -> tuple[int, int]:
    """Return (H, W) of the upright image at `path`, from its header; decode if the end mark is missing. UserError: truncated."""
    with _open(path, what, formats) as image:
        with open(path, "rb") as file:
            file.seek(max(0, os.path.getsize(path) - 1024))
            tail = file.read()
        mark = END_MARKS.get(image.format or "")
        if mark is None or mark not in tail or b"eXIf" in tail:  # a PNG's EXIF data may follow its pixels
            image.load()
        try:  # not by a PNG's own method, which would decode it
            orientation = Image.Image.getexif(image).get(ExifTags.Base.Orientation)
        except Exception:  # damaged, as in `_decode`
            orientation = None
        return image.size if orientation in (5, 6, 7, 8) else image.size[::-1]


def save_label(path: str | Path, label: np.ndarray, grey: bool = False) -> None:
    """Write a label map, uint8 (H, W), as an 8-bit PNG with the VOC palette, or without it if `grey`, as the published code does."""
    image = Image.fromarray(np.ascontiguousarray(label, dtype=np.uint8))
    if not grey:
        image.putpalette(PALETTE.tobytes())
    with atomic_write(path) as file:
        image.save(file, format="PNG")


def save_rgb(path: str | Path, picture: np.ndarray) -> None:
    """Write `picture`, uint8 (H, W, 3) RGB, as a PNG."""
    with atomic_write(path) as file:
        Image.fromarray(np.ascontiguousarray(picture)).save(file, format="PNG")


def values_in(label: np.ndarray) -> list[int]:
    """Return the values that a label map, uint8 (H, W), holds."""
    return np.flatnonzero(np.bincount(label.ravel(), minlength=256)).tolist()


def check_values(path: str | Path, label: np.ndarray, count: int, void: int | None = VOID) -> list[int]:
    """Return the values that the label map at `path` holds. UserError: one is neither in 0..count - 1 nor void."""
    values = values_in(label)
    wrong = [value for value in values if value >= count and value != void]
    if wrong:
        remedy = f"{VOID} is void, for ground truth only" if wrong == [VOID] else "Correct it"
        raise UserError(f"{path}: holds the value {wrong[0]}, where 0..{count - 1} was expected. {remedy}")
    return values


def _labels_of_colours(colours: np.ndarray) -> np.ndarray | None:
    """Return the labels, uint8 (...), with these VOC colours, uint8 (..., 3); None if one is no VOC colour."""
    known = {key: label for label, key in enumerate((PALETTE @ COLOUR_KEY).tolist())}
    keys, places = np.unique(colours @ COLOUR_KEY, return_inverse=True)
    labels = [known.get(key) for key in keys.tolist()]
    return None if None in labels else np.array(labels, np.uint8)[places].reshape(colours.shape[:-1])


def _palette_labels(used: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Return the labels, uint8 (n,), of the used indices (n,) of a palette PNG; palette: uint8 (k, 3).

    These are the indices, unless another program re-sorted the palette: then all used colours are VOC's, or all are grey levels,
    and differ from those of the indices.
    """
    if used.max() >= len(palette):
        return used
    colours = palette[used]
    is_filled_in = len(np.unique(colours, axis=0)) == len(used) and len(np.unique(palette, axis=0)) > 1
    if not is_filled_in or (colours == used[:, None]).all():
        return used
    labels = _labels_of_colours(colours)
    is_grey = (colours == colours[:, :1]).all()
    return labels if labels is not None else colours[:, 0] if is_grey else used


def _decode(path: str | Path, what: str, formats: tuple[str, ...]) -> Image.Image:
    """Return the image, decoded and upright; of an animated one the first picture."""
    with _open(path, what, formats) as image:
        image.load()
        try:
            return ImageOps.exif_transpose(image)
        except Exception:  # damaged EXIF data, of a dozen types; viewers show the photo without it
            return image


@contextlib.contextmanager
def _open(path: str | Path, what: str, formats: tuple[str, ...]) -> Iterator[Image.Image]:
    """Open an image for a `with` block; turn all its errors into UserErrors that name the file.

    Formats that are not asked for are not opened: some of Pillow's start other programs.
    """
    path = Path(path)
    try:
        with Image.open(path, formats=formats) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise UserError(f"{path}: {what} of {width}x{height} pixels, more than {MAX_PIXELS}. Make it smaller")
            voc_colours = PALETTE[: len(CLASSES) + 1].tobytes()
            if what == "photo" and image.palette and bytes(image.palette.palette).startswith(voc_colours):
                raise UserError(f"{path}: a label map in VOC's palette is not a photo. Name the folder of the photos")
            yield image
    except FileNotFoundError as error:
        raise UserError(f"{path}: {what} does not exist. Copy it there, or correct its name") from error
    except UnidentifiedImageError as error:
        problem = f"is not a whole {' or '.join(formats)} file. Convert it or copy it again"
        if path.read_bytes()[:64].lstrip().startswith(b"<"):
            problem = "is a web page, so its download failed. Download it again"
        raise UserError(f"{path}: {what} ({path.stat().st_size} bytes) {problem}") from error
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error) as error:
        reason = getattr(error, "strerror", None) or f"{error}. Copy or make it again"
        raise UserError(f"{path}: {what} cannot be read: {reason}") from error
