"""Reading and writing lists: which classes, which photos, and which pairs of photos."""

import codecs
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tool.aside import keep_aside
from tool.cli import UserError, nearest_path
from tool.files import atomic_write
from voc12.classes import VOC, Classes, fold
from voc12.folders import PHOTO_ENDINGS, find_file

# Ids become parts of paths, for reading and for writing, so nothing in them may lead out of a folder.
CLASSES_FILE = "classes.txt"
"""In the root of a dataset with other classes than VOC's: a name a line, line n being label n."""
MOST_CLASSES = 254  # 8-bit label maps have 256 values, of which 0 is background and 255 void
_LONGEST_LINE = 2000  # so that a file without line ends is not read into memory whole
_LONGEST_ID = 200  # bytes; leaves room for a suffix within the 255 that file systems allow
_PHOTO = r"([^/]+)\.(?:jpe?g|png)"
_IMAGE_LINES = (
    re.compile(r"(?:/?JPEGImages/)?([^/]+?)\.(?:jpe?g|png)\s+(?:\S*/)?([^/]+?)\.png()", re.IGNORECASE),
    re.compile(rf"(?:/?JPEGImages/)?{_PHOTO}()()", re.IGNORECASE),
    re.compile(r"()()([^/]+)"),
)
_CLASS_LINE = re.compile(r"\S+ (?:-1| [01])")  # of VOC's ImageSets/Main: an id, and whether the photo shows a class
_PAIR_LINE = re.compile(rf"/?JPEGImages/{_PHOTO}\s+/?JPEGImages/{_PHOTO}\s+([0-9]{{1,3}})", re.IGNORECASE)
PREPARE = (
    "python voc12/prepare.py --voc12_root ROOT makes it for a devkit, voc12/prepare_photos.py for photos of your own, "
    "coco14/prepare.py for COCO"
)
ROOT = "folder of the dataset, such as VOC2012: JPEGImages"
"""Help of the flag --voc12_root."""
UNPACK_AGAIN = "it comes with the devkit: unpack that again"


def check_id(image_id: str, where: str) -> str:
    """The id itself. UserError naming `where` if it could lead out of a folder, be taken for a flag, or break a list.

    Allowed are up to 200 bytes of printable characters of any script, blanks between them.
    """
    allowed = image_id.isprintable() and image_id == image_id.strip() and 0 < len(image_id.encode()) <= _LONGEST_ID
    if not allowed or re.search(r"[/\\]|\.\.|^[-.]|\.$", image_id):
        raise UserError(
            f"{where}: {image_id[:80]!r} is no image id (up to {_LONGEST_ID} bytes of printable characters and blanks; no '/', '\\' "
            "or '..', no '-' or '.' in front, no '.' at the end)"
        )
    return image_id


def check_root(root: str | Path) -> None:
    """UserError where the devkit `root` is not there or has no photos, with a guess at what was meant."""
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"--voc12_root {root}: no such folder{nearest_path(root)}")
    if not (root / "JPEGImages").is_dir():
        raise UserError(f"--voc12_root {root} holds no JPEGImages: {deeper_devkit(root)}")


def read_classes(root: str | Path | None) -> Classes:
    """The classes of the dataset in `root`: those of its classes.txt, without that file VOC 2012's.

    UserError: the file cannot be read, or does not name 1 to 254 different classes.
    """
    path = Path(root, CLASSES_FILE) if root is not None else None
    if path is None or not path.exists():
        return VOC
    names: list[str] = []
    for number, name in read_lines(path, "write the name of one class on each line, without background"):
        if number != len(names) + 1:
            raise UserError(f"{path}, line {len(names) + 1} is blank: line n names label n; remove it")
        names.append(name)
    return make_classes(names, str(path))


def make_classes(names: Sequence[str], where: str) -> Classes:
    """Classes of these names; VOC's where they are the same. UserError naming `where`: bad names, equal ones, too many or none."""
    if not 1 <= len(names) <= MOST_CLASSES:
        raise UserError(
            f"{where} names {len(names)} classes, where 1 to {MOST_CLASSES} are possible: in a label map 0 is background, 255 void"
        )
    seen: dict[str, str] = {}
    for name in names:
        if not name.isprintable() or name != name.strip() or not 0 < len(name) <= 100 or set(name) & set(",;"):
            raise UserError(f"{where}: {name[:80]!r} is no class name (up to 100 printable characters, no ',' or ';')")
        if fold(name) == "background":
            raise UserError(f"{where} names background, which is label 0 and not listed: remove it")
        if (other := seen.get(fold(name))) is not None:
            raise UserError(
                f"{where} names {other!r} and {name!r}, which labels could not tell apart: rename one of them"
            )
        seen[fold(name)] = name
    return VOC if tuple(names) == VOC.names else Classes(tuple(names))


def deeper_devkit(root: Path, otherwise: str = "give the folder VOC2012 of the devkit") -> str:
    """What was meant with a folder that is no devkit: one within it, or `otherwise`."""
    deeper = next((path for path in (root / "VOC2012", root / "VOCdevkit/VOC2012") if path.is_dir()), None)
    return f"did you mean {deeper}?" if deeper else otherwise


def photo_folder(root: str | Path) -> Path:
    """Folder of the photos in the devkit `root`."""
    return Path(root) / "JPEGImages"


def photo_path(root: str | Path, image_id: str) -> Path:
    """Path of the photo in the devkit `root`: .jpg, .jpeg or .png. UserError where there are two."""
    return find_file(photo_folder(root), check_id(image_id, "photo"), PHOTO_ENDINGS)


def read_image_list(path: str | Path, remedy: str = PREPARE) -> list[str]:
    """Image ids in the order of the file, duplicates kept.

    A line is `/JPEGImages/<id>.jpg /SegmentationClassAug/<id>.png`, the photo alone, or a bare id. Blank lines
    are skipped, and ids may hold blanks. `remedy`: against a list that is missing or empty.
    UserError: the file is missing, unreadable or empty, or a line is none of these.
    """
    ids = []
    for number, line in read_lines(path, remedy):
        match = next(filter(None, (form.fullmatch(line) for form in _IMAGE_LINES)), None)
        other = "; of a list of ImageSets/Main keep the ids alone" if _CLASS_LINE.fullmatch(line) else ""
        if _PAIR_LINE.fullmatch(line):
            other = "; it is a pair list, made for training: give an image list, such as voc12/train_aug.txt"
        if match is None or other:
            raise UserError(
                f"{path}, line {number}: {line[:80]!r} is neither '/JPEGImages/<id>.jpg "
                f"/SegmentationClassAug/<id>.png', nor the photo alone, nor a bare id{other}"
            )
        photo, mask, bare = match.groups()
        if mask and mask != photo:
            raise UserError(f"{path}, line {number}: photo {photo} and mask {mask} are different images")
        ids.append(check_id(photo or bare, f"{path}, line {number}"))
    return ids


def read_pairs(path: str | Path, classes: Classes = VOC) -> list[tuple[str, str, int]]:
    """Training pairs (id, id, class from 0) in the order of the file. Blank lines are skipped.

    A line is `/JPEGImages/<id>.jpg /JPEGImages/<id>.jpg <class>`.
    UserError: the file is missing, unreadable or empty, or a line is not of this form.
    """
    pairs = []
    known: dict[str, str] = {}  # an id occurs in every epoch: one string object for all of them saves 20 MB
    for number, line in read_lines(path):
        match = _PAIR_LINE.fullmatch(line)
        if match is None:
            raise UserError(
                f"{path}, line {number}: {line[:120]!r} is no pair ('/JPEGImages/<id>.jpg /JPEGImages/<id>.jpg <class>'; "
                "voc12/prepare.py makes pair lists, voc12/pairs.py makes one of an image list)"
            )
        first, second = (check_id(image_id, f"{path}, line {number}") for image_id in match.group(1, 2))
        label = int(match[3])
        if label >= len(classes):
            raise UserError(f"{path}, line {number}: class {label}, where 0..{len(classes) - 1} was expected")
        pairs.append((known.setdefault(first, first), known.setdefault(second, second), label))
    return pairs


def read_mask_pairs(path: str | Path) -> dict[str, str]:
    """Photo -> its mask, both relative to one root, in the order of the file. Blank lines are skipped.

    A line is `image mask`, as in DUTS-TR's train_pair.lst. UserError: the list is missing, unreadable or empty, a line is not of
    this form, or a photo has two masks.
    """
    pairs: dict[str, str] = {}
    for number, line in read_lines(path, "it holds a line `image mask` for each photo, relative to --root"):
        words = line.split()
        if len(words) != 2:
            raise UserError(f"{path}, line {number}: {line[:120]!r} is no pair `image mask`, divided by a blank")
        if pairs.setdefault(words[0], words[1]) != words[1]:
            raise UserError(f"{path}, line {number}: {words[0]} has another mask before; leave out one of them")
    return pairs


def line_numbers(path: str | Path) -> list[int]:
    """The line, from 1, of each entry of a list."""
    return [number for number, _ in read_lines(path)]


def format_image_list(ids: Iterable[str], with_mask: bool = True, folder: str = "SegmentationClassAug") -> str:
    """The text of an image list, in the form that every VOC 2012 pipeline of this family reads. folder: the masks'."""
    if with_mask:
        return "".join(f"/JPEGImages/{i}.jpg /{folder}/{i}.png\n" for i in ids)
    return "".join(f"/JPEGImages/{i}.jpg\n" for i in ids)


def format_pairs(pairs: Iterable[tuple[str, str, int]]) -> str:
    """The text of a pair list, `read_pairs` reads it back."""
    return "".join(f"/JPEGImages/{first}.jpg /JPEGImages/{second}.jpg {label}\n" for first, second, label in pairs)


def write_text(path: str | Path, text: str) -> bool:
    """Write a text file (UTF-8) whole, with the same bytes on every system. False: it was there already, untouched.

    Other text that the file held is kept aside, and a line says so.
    """
    data = text.encode()
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


def read_lines(path: str | Path, remedy: str = PREPARE) -> Iterator[tuple[int, str]]:
    """Non-blank lines, stripped, with their numbers from 1."""
    some = False
    try:
        with open(path, "rb") as data:
            first = data.peek(2)[:2]
            marked = "utf-16" if first in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
            encoding = "utf-16-le" if first[1:] == b"\0" else "utf-16-be" if first[:1] == b"\0" else marked
            file = io.TextIOWrapper(data, encoding)
            for number, line in enumerate(iter(lambda: file.readline(_LONGEST_LINE), ""), 1):
                if len(line) == _LONGEST_LINE:
                    raise UserError(f"{path}, line {number}: {line[:80]!r}... is too long for a line of a list")
                if line := line.strip():
                    some = True
                    yield number, line
    except FileNotFoundError:
        raise UserError(f"list {path} does not exist{nearest_path(path)}; {remedy}") from None
    except IsADirectoryError:
        raise UserError(f"list {path} is a folder: name a text file") from None
    except UnicodeDecodeError:
        raise UserError(f"list {path} is not a text file in UTF-8 or UTF-16; save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"cannot read list {path}: {error.strerror}") from None
    if not some:
        raise UserError(f"list {path} is empty; {remedy}")
