"""Reading and writing lists: class names, images, and pairs of images."""

import re
import sys
from collections.abc import Iterable
from pathlib import Path

from tool.cli import UserError, nearest_path
from tool.files import atomic_write, back_up
from voc12.classes import VOC, Classes, make_classes
from voc12.images import PHOTO_ENDINGS

CLASSES_FILE = "classes.txt"  # in the root of a dataset with other classes than VOC's: line n names label n
PREPARE = "Make it with voc12/prepare.py (VOC), voc12/prepare_photos.py (own photos) or voc12/prepare_coco.py (COCO)"
_PHOTO = rf"(?:/?JPEGImages/)?([^/]+?)(?:{'|'.join(map(re.escape, PHOTO_ENDINGS))})"
_IMAGE_LINE = re.compile(rf"{_PHOTO}(?:\s+(?:\S*/)?([^/]+?)\.png)?", re.IGNORECASE)
_PAIR_LINE = re.compile(rf"{_PHOTO}\s+{_PHOTO}\s+([0-9]{{1,3}})", re.IGNORECASE)


def check_id(image_id: str, where: str) -> str:
    """Return an image id. UserError naming `where`: it could lead out of a folder, be taken for a flag, or break a list."""
    allowed = image_id.isprintable() and image_id == image_id.strip() and 0 < len(image_id.encode()) <= 200
    if not allowed or re.search(r"[/\\]|\.\.|^[-.]|\.$", image_id):
        limits = "printable, no '/', '\\' or '..', no '-' or '.' first, no '.' last, at most 200 bytes"
        raise UserError(f"{where}: {image_id[:80]!r} is not an image id ({limits})")
    return image_id


def read_classes(root: str | Path | None) -> Classes:
    """Return the classes that the classes.txt in `root` names, VOC's without that file. UserError: not 1 to 254 different names."""
    if root is None or not (path := Path(root, CLASSES_FILE)).exists():
        return VOC
    text = read_text(path, "Write the name of one class on each line, without background")
    return make_classes([line.strip() for line in text.rstrip().split("\n")], str(path))


def read_image_list(path: str | Path, remedy: str = PREPARE) -> list[str]:
    """Return the image ids of a list in its order, with duplicates.

    A line is `/JPEGImages/<id>.jpg /SegmentationClassAug/<id>.png`, the photo alone, or a bare id; ids may hold blanks.
    UserError: the list is missing, unreadable or empty (then with `remedy`), or a line has another form.
    """
    ids = []
    for number, line in read_lines(path, remedy):
        where = f"{path}, line {number}"
        match = _IMAGE_LINE.fullmatch(line)
        if match and match[2] not in (None, match[1]):
            raise UserError(f"{where}: photo {match[1]} and mask {match[2]} are different images")
        ids.append(check_id(match[1] if match else line, where))
    return ids


def read_pairs(path: str | Path, classes: Classes = VOC) -> list[tuple[str, str, int]]:
    """Return the training pairs (id, id, class from 0) of a list in its order.

    A line is `/JPEGImages/<id>.jpg /JPEGImages/<id>.jpg <class>`. UserError: as for `read_image_list`.
    """
    pairs = []
    for number, line in read_lines(path):
        where = f"{path}, line {number}"
        match = _PAIR_LINE.fullmatch(line)
        if match is None:
            form = "/JPEGImages/<id>.jpg /JPEGImages/<id>.jpg <class>"
            raise UserError(f"{where}: {line[:120]!r} is not '{form}'. voc12/pairs.py makes pairs of an image list")
        if int(match[3]) >= len(classes):
            raise UserError(f"{where}: class {match[3]}, where 0..{len(classes) - 1} was expected")
        first, second = (sys.intern(check_id(match[place], where)) for place in (1, 2))  # saves 20 MB
        pairs.append((first, second, int(match[3])))
    return pairs


def read_mask_pairs(path: str | Path) -> dict[str, str]:
    """Return photo -> mask, both relative to one root, in the order of a list as DUTS-TR's train_pair.lst.

    A line is `image mask`. UserError: as for `read_image_list`, or a photo has two masks.
    """
    pairs: dict[str, str] = {}
    remedy = "Write one line `image mask` for each photo, paths relative to --root"
    for number, line in read_lines(path, remedy):
        photo, *masks = line.split()
        if len(masks) != 1 or pairs.setdefault(photo, masks[0]) != masks[0]:
            raise UserError(f"{path}, line {number}: {line[:120]!r} is not `image mask`, or a second mask. {remedy}")
    return pairs


def format_image_list(ids: Iterable[str], with_mask: bool = True, folder: str = "SegmentationClassAug") -> str:
    """Return the text of an image list. folder: of the masks."""
    return "".join(f"/JPEGImages/{i}.jpg /{folder}/{i}.png\n" if with_mask else f"/JPEGImages/{i}.jpg\n" for i in ids)


def format_pairs(pairs: Iterable[tuple[str, str, int]]) -> str:
    """Return the text of a pair list."""
    return "".join(f"/JPEGImages/{first}.jpg /JPEGImages/{second}.jpg {label}\n" for first, second, label in pairs)


def write_text(path: str | Path, text: str | bytes) -> bool:
    """Write a file, text as UTF-8, and back up what it held; return False, without writing, if it holds the same already."""
    data = text.encode() if isinstance(text, str) else text
    if Path(path).is_file():
        if Path(path).read_bytes() == data:
            return False
        print(f"{path}: kept as {back_up(path, copy=True)}")
    with atomic_write(path) as file:
        file.write(data)
    return True


def read_lines(path: str | Path, remedy: str = PREPARE) -> list[tuple[int, str]]:
    """Return the non-blank lines of a list, stripped, with their numbers from 1."""
    lines = [(number, line.strip()) for number, line in enumerate(read_text(path, remedy).split("\n"), 1)]
    return [(number, line) for number, line in lines if line]


def read_text(path: str | Path, remedy: str) -> str:
    """Return the text of a file in UTF-8, or in UTF-16 with a BOM. UserError: it is missing, unreadable or blank."""
    try:
        data = Path(path).read_bytes()
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: does not exist{nearest_path(path)}. {remedy}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text file in UTF-8. Save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    if not text.strip():
        raise UserError(f"{path}: is empty. {remedy}")
    return text.replace("\r\n", "\n").replace("\r", "\n")
