"""Image-level labels: from a devkit's XML, labels.csv or cls_labels.npy."""

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from tool.cli import UserError, nearest, summarize_ids
from tool.files import load_npy_dict
from voc12.classes import VOC, Classes
from voc12.lists import PREPARE
from voc12.tables import read_label_csv

IGNORE_FOREIGN = "leave objects of other classes than the dataset's out, as the published code does"
"""Help of the flag --ignore_foreign."""
CSV_FILE = "labels.csv"
LABELS_FILE = "cls_labels.npy"


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
    if root.tag != "annotation":
        raise UserError(f"{path}: holds <{root.tag[:40]}>, where <annotation> was expected")
    names = [(found.findtext("name") or "").strip() for found in root.iterfind("object")]
    label = multi_hot(names, classes, f"{path}", ignore_foreign)
    if not label.any():
        why = "its objects are of other classes" if names else "it has no <object>"
        raise UserError(f"{path}: names no class: {why}. Correct it, or remove its photo from the list")
    return label


def multi_hot(names: Iterable[str], classes: Classes, where: str, ignore_foreign: bool) -> np.ndarray:
    """Return (C,) float32, 1 for each class named. UserError naming `where`: an unknown name, unless `ignore_foreign`."""
    label = np.zeros(len(classes), np.float32)
    for name in names:
        if not ignore_foreign or classes.index(name) is not None:
            label[class_number(name, classes, where, ". --ignore_foreign leaves objects of other classes out")] = 1
    return label


def class_number(name: str, classes: Classes, where: str, remedy: str = "") -> int:
    """Return the class of a name. UserError naming `where`, with the nearest name and the list of them: unknown."""
    if (index := classes.index(name)) is not None:
        return index
    meant = nearest(name.casefold(), [*classes.names, *classes.aliases])
    names = ", ".join(VOC.names) if classes == VOC else summarize_ids(classes.names)
    whose = "VOC's" if classes == VOC else "the dataset's (classes.txt)"
    raise UserError(f"{where}: unknown class name {name[:40]!r}{meant}; {whose} are {names}{remedy}")


def label_file(root: str | Path, classes: Classes, listed_in: str | Path) -> Path:
    """Return the label file for the images of a list: labels.csv of the dataset's root, else cls_labels.npy.

    With VOC's classes, cls_labels.npy is looked for in the list's folder, then in voc12/.
    """
    if (path := Path(root, CSV_FILE)).exists():
        return path
    if classes != VOC:
        return Path(root, LABELS_FILE)
    return path if (path := Path(listed_in).parent / LABELS_FILE).exists() else Path("voc12", LABELS_FILE)


def read_label_table(path: str | Path, classes: Classes, ignore_foreign: bool = False) -> dict[str, np.ndarray]:
    """Return id -> label, not checked, of a .csv or .npy file; empty without the file. The file cannot run code.

    UserError: it cannot be read, or a .csv has an unknown class name, unless `ignore_foreign`.
    """
    path = Path(path)
    if not path.exists():
        return {}
    if path.suffix.lower() != ".csv":
        try:
            return {_id_of(key): label for key, label in load_npy_dict(path).items()}
        except UserError as error:
            raise UserError(f"{error}. {PREPARE}, or remove it to read the labels from XML") from error
    table: dict[str, np.ndarray] = {}
    for number, image_id, names in read_label_csv(path):
        label = multi_hot(names, classes, f"{path}, line {number}", ignore_foreign)
        table[image_id] = np.maximum(table[image_id], label) if image_id in table else label
    return table


def _id_of(key: int | str) -> str:
    """Return the id of a key of a .npy file; IRN's files hold 2007000032 for 2007_000032."""
    return f"{key // 10**6}_{key % 10**6:06d}" if isinstance(key, int) else key


def check_label(value: np.ndarray, count: int, where: str) -> np.ndarray:
    """Return a multi-hot label as float32 (count,). UserError naming `where`: another shape, other values, or no class."""
    value = np.asarray(value)
    if value.shape != (count,):
        raise UserError(f"{where}: label of shape {value.shape}, where ({count},) was expected")
    if value.dtype.kind not in "fiub" or not np.isin(value, (0, 1)).all():
        raise UserError(f"{where}: a label holds zeros and ones only")
    if not value.any():
        raise UserError(f"{where}: a row of zeros names no class. Correct it, or remove the photo from the list")
    return value.astype(np.float32)
