"""Image-level labels, from a devkit's XML, labels.csv or cls_labels.npy; and the check of label maps against them."""

import re
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np

from tool import VOID
from tool.cli import UserError, nearest, summarize_ids
from tool.files import load_npy_dict
from voc12.classes import VOC, Classes
from voc12.lists import PREPARE
from voc12.tables import read_label_csv

IGNORE_FOREIGN = "leave objects of other classes than the dataset's out, as the published code does"
"""Help of the flag --ignore_foreign."""
ACCEPT = (
    "use labels that look wrong as a whole: nearly all maps of one label, most of other classes, most photos of none"
)
"""Help of --accept_labels."""
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
    """Return the class of a name. UserError naming `where`, with the nearest name and the list of them: unknown."""
    if (index := classes.index(name)) is not None:
        return index
    meant = nearest(name.casefold(), [*classes.names, *classes.aliases])
    whose = "VOC's" if classes == VOC else "those of classes.txt"
    names = summarize_ids(classes.names)
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


def read_label_table(
    path: str | Path, classes: Classes, ignore_foreign: bool = False, known: Collection[str] = ()
) -> dict[str, np.ndarray]:
    """Return id -> label, not checked, of a .csv or .npy file; empty without the file. The file cannot run code.

    UserError: it cannot be read, or a .csv has an unknown class name, unless `ignore_foreign`.
    """
    path = Path(path)
    if not path.exists():
        return {}
    table: dict[str, np.ndarray] = {}
    if path.suffix.lower() == ".csv":
        for number, image_id, names in read_label_csv(path, known, classes_known=True):
            label = multi_hot(names, classes, f"{path}, line {number}", ignore_foreign)
            table[image_id] = np.maximum(table[image_id], label) if image_id in table else label
        return table
    try:
        for key, label in load_npy_dict(path).items():  # IRN's keys are 2007000032 for 2007_000032
            table[f"{key // 10**6}_{key % 10**6:06d}" if isinstance(key, int) else key] = label
    except UserError as error:
        raise UserError(f"{error}. {PREPARE}, or remove it to read the labels from XML") from error
    return table


def check_label(value: np.ndarray, count: int, where: str) -> np.ndarray:
    """Return a multi-hot label as float32 (count,). UserError naming `where`: another shape, other values, or no class."""
    value = np.asarray(value)
    if value.shape != (count,) or not np.isin(value, (0, 1)).all():
        raise UserError(f"{where}: label of shape {value.shape}, where ({count},) zeros and ones were expected")
    if not value.any():
        raise UserError(f"{where}: a row of zeros names no class. Correct it, or remove the photo from the list")
    return value.astype(np.float32)


def find_suspicion(
    folder: str | Path, values: Mapping[str, Collection[int]], labels: Mapping[str, np.ndarray] = MappingProxyType({})
) -> str:
    """Return what makes label maps or masks suspicious, "" if nothing. UserError: most hold 0 and 255 alone, as masks do.

    Args:
        folder: where they are, for messages.
        values: id -> values in its label map; of a grey mask whether it holds background (0) and foreground (1).
        labels: id -> multi-hot (C,) of the images that have image-level labels.
    """
    masks = [i for i, held in values.items() if set(held) == {0, VOID}]
    if 2 * len(masks) > len(values):
        problem = f"{len(masks)} of {len(values)} hold 0 and {VOID} alone, as masks do ({summarize_ids(masks)})"
        raise UserError(f"{folder}: {problem}. Label maps hold class + 1, and {VOID} where nothing counts.")
    uniform = [i for i, held in values.items() if len(set(held) - {VOID}) < 2]
    if values and len(uniform) >= 0.9 * len(values):
        return f"{folder}: {len(uniform)} of {len(values)} show one label alone, or void ({summarize_ids(uniform)})"
    shown = {i: [value - 1 for value in values[i] if 0 < value < VOID] for i in labels if i in values}
    other = [i for i, classes in shown.items() if not all(labels[i][classes])]
    if 2 * len(other) > len(shown):
        lack = f"{len(other)} of {len(shown)} show classes that their image-level labels lack"
        return f"{folder}: {lack} ({summarize_ids(other)})"
    return ""


def report_suspicion(suspicion: str, accept: bool | None) -> None:
    """Print a suspicion as a note. UserError if there is one and `accept`, the flag --accept_labels, is False."""
    if suspicion and accept is False:
        raise UserError(f"{suspicion}. Check them; --accept_labels uses them as they are.")
    if suspicion:
        print(f"note: {suspicion}. Check them.", file=sys.stderr)
