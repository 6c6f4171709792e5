"""Reading photos, label maps and saliency maps, and writing label maps, with errors that name the file."""

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from tool.errors import UserError
from tool.files import atomic_write
from voc12.classes import PALETTE

MAX_PIXELS = (
    50_000_000  # a VOC photo has 0.2 million; a file that claims more than this is refused before it is decoded
)
# Pillow's own warning starts above our limit and would only stand beside the error.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def load_photo(path: str | Path) -> Image.Image:
    """Return the JPEG or PNG photo at `path` as a fully decoded RGB image; raise UserError where that fails."""
    return _decode(path, "photo", ("JPEG", "PNG")).convert("RGB")


def photo_size(path: str | Path) -> tuple[int, int]:
    """Width and height of the photo at `path`, from its header. UserError: as `load_photo`."""
    try:
        with Image.open(path, formats=("JPEG", "PNG")) as image:
            return image.size
    except (OSError, SyntaxError, ValueError):
        return load_photo(path).size  # says what is wrong


def load_label(path: str | Path) -> np.ndarray:
    """Return the label map at `path`, uint8 (H, W): the indices of a palette PNG, the values of a grey one."""
    image = _decode(path, "label map", ("PNG",))
    if image.mode not in ("P", "L"):
        raise UserError(f"{path} is a {image.mode} image; label maps are 8-bit palette or grey PNGs of class indices")
    return np.array(image)


def load_grey(path: str | Path) -> np.ndarray:
    """Return the saliency map at `path`, uint8 (H, W), 0..255; anything but an 8-bit grey PNG raises UserError."""
    image = _decode(path, "saliency map", ("PNG",))
    if image.mode != "L":
        raise UserError(f"{path} is a {image.mode} image; save saliency maps as 8-bit grey PNGs (Pillow's mode L)")
    return np.array(image)


def save_label(path: str | Path, label: np.ndarray) -> None:
    """Write `label`, uint8 (H, W), as an 8-bit PNG with the VOC palette: any viewer shows colours, the values stay."""
    image = Image.fromarray(np.ascontiguousarray(label, dtype=np.uint8))
    image.putpalette(PALETTE.tobytes())
    with atomic_write(path) as file:
        image.save(file, format="PNG")


def save_rgb(path: str | Path, picture: np.ndarray) -> None:
    """Write `picture`, uint8 (H, W, 3) RGB, as a PNG."""
    with atomic_write(path) as file:
        Image.fromarray(np.ascontiguousarray(picture)).save(file, format="PNG")


def _decode(path: str | Path, what: str, formats: tuple[str, ...]) -> Image.Image:
    """Open and decode, with the formats named: some that Pillow also knows start other programs."""
    try:
        with Image.open(path, formats=formats) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UserError(f"{what} {path} claims {image.width}x{image.height} pixels, more than {MAX_PIXELS}")
            image.load()
            return image
    except FileNotFoundError as error:
        raise UserError(f"{what} {path} does not exist") from error
    except UnidentifiedImageError as error:
        raise UserError(f"{what} {path} is not a whole {' or '.join(formats)} file") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"{what} {path} claims more than {MAX_PIXELS} pixels") from error
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error) as error:
        raise UserError(f"{what} {path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
