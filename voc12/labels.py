"""Image-level labels: a devkit's XML, cls_labels.npy, and tables; and the check of label maps against them."""

import csv
import io
import re
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from unicodedata import normalize

import numpy as np

from tool import VOID
from tool.cli import UserError, nearest, summarize_ids
from tool.files import load_npy_dict
from voc12.classes import NO_CLASS, VOC, Classes, fold, squeeze
from voc12.images import OTHER_ENDINGS, PHOTO_ENDINGS
from voc12.lists import PREPARE, check_id, read_text

# Help of --ignore_foreign and --accept_labels.
IGNORE_FOREIGN = "leave out objects of classes the dataset lacks, as the published code does"
ACCEPT = "accept suspicious data: maps of one label or of classes not in labels; most photos unlabelled"
CSV_FILE = "labels.csv"
LABELS_FILE = "cls_labels.npy"
FORMS = "Write a line 'photo,classes', then '1.jpg,cat;dog'; or 'photo,cat,dog', '1.jpg,1,1'"
_PHOTO_ENDING = re.compile(rf"({'|'.join(map(re.escape, PHOTO_ENDINGS))})$", re.IGNORECASE)
_PHOTO_COLUMN = re.compile(r"(photo|image|img|picture|file)?s?(id|file|name|path|filename|filepath)?s?")
_CLASS_COLUMN = re.compile(r"(class|label|categor|tag|target|annotation)(y|e?s|ies)?(names?|ids?|idx|index|number)?\d*")
_VALUE = re.compile(r"[\W\d_]+(e[\W\d_]+)?|true|false|yes|no")  # numbers, dates and the like are no names of classes
_SHOWN = {"1", "1.0", "true", "t", "yes", "y", "x"}  # cells of a column for each class
_NOT_SHOWN = {"0", "0.0", "false", "f", "no", "n", ""}
_QUOTED = r"""(?:'[^']*'|"[^"]*")"""
_QUOTED_LIST = re.compile(rf"[\[({{]\s*(?:{_QUOTED}[,\s]*)*[\])}}]")  # ['cat', 'dog'] of Python, ['cat' 'dog'] of numpy
_PLAIN_LIST = re.compile(r"""[\[{]([^'":\[\]{}]*)[\]}]""")


def read_annotation(path: str | Path, ignore_foreign: bool = False, classes: Classes = VOC) -> np.ndarray:
    """Return the multi-hot label (C,) float32 of a devkit XML: 1 for each class with an `<object>`.

    Difficult objects count, as in the `cls_labels.npy` that the field shares; parts (head, hand) do not.
    UserError: missing, damaged or no annotation; it names no class or, without `ignore_foreign`, an unknown one.
    """
    try:
        data = Path(path).read_bytes()
        is_utf8 = re.search(rb"(?i)encoding=.utf8\W", data[:100])  # Python writes this name, expat does not know it
        root = ElementTree.fromstring(data, ElementTree.XMLParser(encoding="utf-8" if is_utf8 else None))
    except OSError as error:
        raise UserError(f"{path}: annotation cannot be read: {error.strerror}") from None
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise UserError(f"{path}: annotation is damaged: {error}. Copy or make it again") from None
    names = [(found.findtext("name") or "").strip() for found in root.iterfind("object")]
    label = multi_hot(names, classes, f"{path}", ignore_foreign)
    if not label.any():
        raise UserError(f"{path}: has no <object> of the classes. Correct it, or remove its photo from the list")
    return label


def multi_hot(names: Iterable[str], classes: Classes, where: str, ignore_foreign: bool) -> np.ndarray:
    """Return (C,) float32, 1 for each class named. UserError naming `where`: an unknown name, unless `ignore_foreign`."""
    label = np.zeros(len(classes), np.float32)
    for name in names:
        if not ignore_foreign or classes.index(name) is not None:
            label[class_number(name, classes, where, ". --ignore_foreign leaves objects of other classes out")] = 1
    return label


def class_number(name: str, classes: Classes, where: str, remedy: str = "") -> int:
    """Return the class of a name. UserError if unknown: names `where`, the nearest name and known names."""
    if (index := classes.index(name)) is not None:
        return index
    meant, known = nearest(name.casefold(), classes.names), summarize_ids(classes.names)
    raise UserError(f"{where}: unknown class name {name[:40]!r}{meant}; known are {known}{remedy}")


def read_label_table(
    path: str | Path, classes: Classes, ignore_foreign: bool = False, known: Collection[str] = ()
) -> dict[str, np.ndarray]:
    """Return id -> label, not checked, of a .csv or .npy file; empty without it. UserError: damaged, or an unknown class."""
    path = Path(path)
    table: dict[str, np.ndarray] = {}
    if path.suffix.lower() == ".csv" and path.exists():
        for number, image_id, names in read_label_csv(path, known, classes_known=True):
            label = multi_hot(names, classes, f"{path}, line {number}", ignore_foreign)
            table[image_id] = np.maximum(table[image_id], label) if image_id in table else label
    elif path.exists():
        for key, label in load_npy_dict(path).items():  # IRN's keys are 2007000032 for 2007_000032
            table[f"{key // 10**6}_{key % 10**6:06d}" if isinstance(key, int) else key] = label
    return table


def check_label(value: np.ndarray, count: int, where: str) -> np.ndarray:
    """Return a multi-hot label as float32 (count,). UserError naming `where`: another shape, other values, or no class."""
    value = np.asarray(value)
    if value.shape != (count,) or not np.isin(value, (0, 1)).all():
        raise UserError(
            f"{where}: not a label of {count} zeros and ones, but of shape {value.shape} or with other values. {PREPARE}"
        )
    if not value.any():
        raise UserError(f"{where}: a row of zeros names no class. Correct it, or remove the photo from the list")
    return value.astype(np.float32)


def read_label_csv(
    path: str | Path, known: Collection[str] = (), dropped: list[str] | None = None, classes_known: bool = False
) -> Iterator[tuple[int, str, list[str]]]:
    """Yield (line number, image id, class names) of each line of a table. A photo may have several lines, or no class.

    Columns are separated by commas, semicolons or tabs. The header decides on the form: `photo,classes` (or no header), with the
    classes in one cell or a cell each, or the photo and a column of 0 and 1 for each class. An id may be the photo's path.
    UserError: the file cannot be read or is empty, or the table has another form.

    known: ids of the photos; if several folders hold the same file name, the id starts with the folder.
    dropped: receives `<name> (<id>)` of each name that means no class, such as "none".
    classes_known: accept class names that look like numbers, dates, files, yes or no.
    """
    header, rows = _read_table(path)
    found = f"{path}: has {'the header' if header else 'no header over'} {','.join(header or rows[0][1])[:100]!r}"
    columns, cells = header[1:], {cell.lower() for _, row in rows for cell in row[1:]}
    has_class_columns = bool(columns) and all(_CLASS_COLUMN.fullmatch(squeeze(name)) for name in columns)
    is_one_hot = cells <= _SHOWN | _NOT_SHOWN and (len(columns) > 1 or (columns and not has_class_columns))
    if not is_one_hot and not has_class_columns and len(header) not in (0, 2):
        raise UserError(f"{found}. {FORMS}")
    for number, (photo, *shown) in rows:
        if not shown or (is_one_hot and (len(shown) < len(columns) or any(shown[len(columns) :]))):
            raise UserError(f"{path}, line {number}: {photo[:80]!r} has {len(shown) + 1} columns. {FORMS}")
        if is_one_hot:
            shown = [name for name, cell in zip(columns, shown, strict=False) if cell.lower() in _SHOWN]
        written = _split(",".join(filter(None, shown)))
        names = [name for name in written if fold(name) not in NO_CLASS]
        for name in names:
            is_value = _VALUE.fullmatch(name.lower()) or name.lower().endswith(PHOTO_ENDINGS + OTHER_ENDINGS)
            if set(name) & set("[]{}") or (is_value and not classes_known):
                raise UserError(f"{found}, and {name[:40]!r} for a class (line {number}). {FORMS}")
        image_id = check_id(_image_id(photo, known), f"{path}, line {number}")
        if dropped is not None:
            dropped += [f"{name} ({image_id})" for name in written if name not in names]
        yield number, image_id, names


def _read_table(path: str | Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the header, empty without one, and (line number, cells) of each line that is not blank, without an index column."""
    text = read_text(path, FORMS)
    found = re.match(r'\s*(?:"[^"]*"|[^",;\t\n])*([,;\t])', text)
    reader = csv.reader(io.StringIO(text), delimiter=found[1] if found else ",", skipinitialspace=True, strict=True)
    try:
        rows = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: {error}. {FORMS}") from None
    rows = [(number, cells) for number, cells in rows if any(cells) and cells[0].lower() != "sep="]  # of spreadsheets
    if not rows:
        raise UserError(f"{path}: is empty. {FORMS}")
    first = [squeeze(cell) for cell in rows[0][1]]
    if len(first) > 2 and first[0] in ("", "unnamed0", "index") and _PHOTO_COLUMN.fullmatch(first[1]):
        rows = [(number, cells[1:] or cells) for number, cells in rows]  # without pandas' column of line numbers
    is_photo = [bool(_PHOTO_ENDING.search(cells[0])) for _, cells in rows[:2]]
    if not _PHOTO_COLUMN.fullmatch(squeeze(rows[0][1][0])) and is_photo != [False, True]:
        return [], rows
    header = rows[0][1]
    while len(header) > 1 and not header[-1]:  # spreadsheets write empty columns
        header.pop()
    return header, rows[1:]


def _split(text: str) -> list[str]:
    """Return the names in the cells of a line: separated by , ; | or line ends, or a list as Python, numpy or JSON write it."""
    if _QUOTED_LIST.fullmatch(text):
        names = [name[1:-1] for name in re.findall(_QUOTED, text)]
    else:
        plain = _PLAIN_LIST.fullmatch(text)
        names = re.split("[,;|\n]", plain[1] if plain else text)
    return list(filter(None, map(str.strip, names)))


def _image_id(photo: str, known: Collection[str]) -> str:
    """Return the image id of a photo's path, without ending, and without folder unless that belongs to a known id."""
    path = normalize("NFC", photo.replace("\\", "/"))  # as the ids of files
    stem = _PHOTO_ENDING.sub("", path)
    return next((name for name in (path, stem.replace("/", "_")) if name in known), stem.rpartition("/")[2])


def find_suspicion(folder: str | Path, values: Mapping[str, Collection[int]], labels: Mapping[str, np.ndarray]) -> str:
    """Return what makes label maps or masks suspicious, "" if nothing. UserError: most hold 0 and 255 alone, as masks do.

    values: id -> values in its label map; of a grey mask whether it holds background (0) and foreground (1).
    labels: id -> multi-hot (C,) of the images that have image-level labels.
    """
    masks = [i for i, held in values.items() if set(held) == {0, VOID}]
    if 2 * len(masks) > len(values):
        problem = f"{len(masks)} of {len(values)} hold 0 and {VOID} alone, as masks do ({summarize_ids(masks)})"
        raise UserError(f"{folder}: {problem}. Label maps hold class + 1, and {VOID} for ignored pixels.")
    uniform = [i for i, held in values.items() if len(set(held) - {VOID}) < 2]
    if values and len(uniform) >= 0.9 * len(values):
        return f"{folder}: {len(uniform)} of {len(values)} show one label alone, or void ({summarize_ids(uniform)})"
    both = [i for i in labels if i in values]
    other = [i for i in both if not all(labels[i][value - 1] for value in values[i] if 0 < value < VOID)]
    if 2 * len(other) > len(both):
        return f"{folder}: {len(other)} of {len(both)} show classes that their labels lack ({summarize_ids(other)})"
    return ""


def report_suspicion(suspicion: str, accept: bool | None) -> None:
    """Print a suspicion as a note. UserError if there is one and `accept`, the flag --accept_labels, is False."""
    if suspicion and accept is False:
        raise UserError(f"{suspicion}. Check them; --accept_labels uses them as they are.")
    if suspicion:
        print(f"note: {suspicion}. Check them.", file=sys.stderr)
