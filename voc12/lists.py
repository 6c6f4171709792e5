"""Reading and writing the lists under voc12/: which photos, and which pairs of photos."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from tool.errors import UserError
from tool.files import atomic_write
from voc12.aside import keep_aside
from voc12.classes import CLASSES

# Ids become parts of paths, for reading and for writing, so nothing in them may lead out of a folder.
_ID = r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*"
_LONGEST_LINE = 2000  # so that a file without line ends is not read into memory whole
_LONGEST_ID = 200  # leaves room for a suffix within the 255 bytes that file systems allow
_IMAGE_LINE = re.compile(rf"(?:/?JPEGImages/)?({_ID})\.jpg(?:\s+(?:\S*/)?({_ID})\.png)?|({_ID})")
_PAIR_LINE = re.compile(rf"/?JPEGImages/({_ID})\.jpg\s+/?JPEGImages/({_ID})\.jpg\s+(\d{{1,2}})")
PREPARE_COMMAND = "python voc12/prepare.py --voc12_root ROOT"


def check_id(image_id: str, where: str) -> str:
    """The id itself. UserError naming `where` if it holds anything but letters, digits, `_`, `-` and single dots."""
    if not re.fullmatch(_ID, image_id) or len(image_id) > _LONGEST_ID:
        raise UserError(f"{where}: {image_id[:80]!r} is no image id (letters, digits, '_', '-' and '.' only)")
    return image_id


def check_root(root: str | Path) -> None:
    """UserError where the devkit `root` is not there or has no photos, with a guess at what was meant."""
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"--voc12_root {root}: no such folder")
    if not (root / "JPEGImages").is_dir():
        deeper = deeper_devkit(root)
        hint = f"did you mean {deeper}?" if deeper else "give the folder VOC2012 of the devkit"
        raise UserError(f"--voc12_root {root} holds no JPEGImages: {hint}")


def deeper_devkit(root: Path) -> Path | None:
    """The devkit within a folder above it."""
    return next((path for path in (root / "VOC2012", root / "VOCdevkit/VOC2012") if path.is_dir()), None)


def photo_path(root: str | Path, image_id: str) -> Path:
    """Path of the photo in the devkit `root`."""
    return Path(root) / "JPEGImages" / f"{check_id(image_id, 'photo')}.jpg"


def read_image_list(path: str | Path) -> list[str]:
    """Image ids in the order of the file, duplicates kept.

    A line is `/JPEGImages/<id>.jpg /SegmentationClassAug/<id>.png`, the photo alone, or a bare id. Blank lines
    are skipped. UserError: the file is missing, unreadable or empty, or a line is none of these.
    """
    ids = []
    for number, line in _lines(path):
        match = _IMAGE_LINE.fullmatch(line)
        if match is None:
            raise UserError(
                f"{path}, line {number}: {line[:80]!r} is neither '/JPEGImages/<id>.jpg "
                "/SegmentationClassAug/<id>.png', nor the photo alone, nor a bare id"
            )
        photo, mask, bare = match.groups()
        if mask is not None and mask != photo:
            raise UserError(f"{path}, line {number}: photo {photo} and mask {mask} are different images")
        ids.append(check_id(photo or bare, f"{path}, line {number}"))
    return ids


def read_pairs(path: str | Path) -> list[tuple[str, str, int]]:
    """Training pairs (id, id, class 0..19) in the order of the file. Blank lines are skipped.

    A line is `/JPEGImages/<id>.jpg /JPEGImages/<id>.jpg <class>`.
    UserError: the file is missing, unreadable or empty, or a line is not of this form.
    """
    pairs = []
    known: dict[str, str] = {}  # an id occurs in every epoch: one string object for all of them saves 20 MB
    for number, line in _lines(path):
        match = _PAIR_LINE.fullmatch(line)
        if match is None:
            raise UserError(
                f"{path}, line {number}: {line[:120]!r} is no pair "
                "('/JPEGImages/<id>.jpg /JPEGImages/<id>.jpg <class>'; pair lists are made by voc12/prepare.py)"
            )
        first, second = (check_id(image_id, f"{path}, line {number}") for image_id in match.group(1, 2))
        label = int(match[3])
        if label >= len(CLASSES):
            raise UserError(f"{path}, line {number}: class {label}, where 0..{len(CLASSES) - 1} was expected")
        pairs.append((known.setdefault(first, first), known.setdefault(second, second), label))
    return pairs


def line_numbers(path: str | Path) -> list[int]:
    """The line, from 1, of each entry of a list."""
    return [number for number, _ in _lines(path)]


def format_image_list(ids: Iterable[str], with_mask: bool = True) -> str:
    """The text of an image list, in the form that every VOC 2012 pipeline of this family reads."""
    if with_mask:
        return "".join(f"/JPEGImages/{i}.jpg /SegmentationClassAug/{i}.png\n" for i in ids)
    return "".join(f"/JPEGImages/{i}.jpg\n" for i in ids)


def format_pairs(pairs: Iterable[tuple[str, str, int]]) -> str:
    """The text of a pair list, `read_pairs` reads it back."""
    return "".join(f"/JPEGImages/{first}.jpg /JPEGImages/{second}.jpg {label}\n" for first, second, label in pairs)


def write_text(path: str | Path, text: str) -> bool:
    """Write an ASCII text file whole, with the same bytes on every system. False: it was there already, untouched.

    Other text that the file held is kept aside, and that is told.
    """
    data = text.encode("ascii")
    try:
        if Path(path).read_bytes() == data:
            return False
    except OSError:
        pass  # missing or unreadable: to be written
    tell_aside(path)
    with atomic_write(path) as file:
        file.write(data)
    return True


def tell_aside(path: str | Path) -> None:
    """Keep aside what the file holds that is about to be replaced, if there is one: it may be the user's."""
    if Path(path).is_file():
        print(f"{path}: what it held is kept as {keep_aside(path)}")


def _lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """Non-blank lines, stripped, with their numbers from 1."""
    some = False
    try:
        with open(path, encoding="utf-8-sig") as file:
            for number, line in enumerate(iter(lambda: file.readline(_LONGEST_LINE), ""), 1):
                if len(line) == _LONGEST_LINE:
                    raise UserError(f"{path}, line {number}: {line[:80]!r}... is too long for a line of a list")
                if line := line.strip():
                    some = True
                    yield number, line
    except FileNotFoundError:
        raise UserError(f"list {path} does not exist; {PREPARE_COMMAND} makes the lists under voc12/") from None
    except UnicodeDecodeError:
        raise UserError(f"list {path} is not a text file") from None
    except OSError as error:
        raise UserError(f"cannot read list {path}: {error.strerror}") from None
    if not some:
        raise UserError(f"list {path} is empty; {PREPARE_COMMAND} makes the lists under voc12/")
