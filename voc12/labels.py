"""Image-level labels: which of the classes a photo shows."""

import codecs
import os
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Container, Iterable, Mapping
from pathlib import Path

import numpy as np

from tool.cli import UserError, nearest, summarize_ids, summarize_problems
from tool.files import load_npy_dict
from voc12.classes import VOC, Classes
from voc12.folders import find_file
from voc12.label_csv import CSV_FILE, read_label_csv
from voc12.lists import PREPARE, check_id, read_classes

IGNORE_FOREIGN = "leave objects of other classes than the dataset's out, as the published code does"
"""Help of the flag --ignore_foreign."""
LABELS_FILE = "cls_labels.npy"
_ENCODINGS = (
    r"utf-?8|utf-?16\w*|(us-)?ascii|iso-?8859-\d+|latin-?1|(windows-|cp)125\d|koi8-r|gb\w+|big5|shift_jis|euc-(jp|kr)"
)
_LARGEST_XML = 1 << 20  # bytes; the devkit's largest is under 20 kB


def read_annotation(path: str | Path, ignore_foreign: bool = False, classes: Classes = VOC) -> np.ndarray:
    """Multi-hot label (C,) float32 of a devkit XML: 1 for each class with an `<object>`, difficult ones too.

    Difficult objects count because they do in the `cls_labels.npy` that the field shares; parts (head, hand) do not. Objects of other
    classes are left out where `ignore_foreign` is set, as by the published code.
    UserError: missing, not an annotation, no object of the classes, an unknown class name, or a document type (which could hold
    entities).
    """
    try:
        with open(path, "rb") as file:
            data = file.read(_LARGEST_XML + 1)
    except FileNotFoundError:
        raise UserError(f"annotation {path} does not exist") from None
    except OSError as error:
        raise UserError(f"cannot read annotation {path}: {error.strerror}") from None
    if len(data) > _LARGEST_XML:
        raise UserError(f"annotation {path} is larger than {_LARGEST_XML} bytes, which no devkit annotation is")
    if not data.strip():
        raise UserError(f"annotation {path} is empty: copy or make it again")
    try:
        text = _decoded(data)
        if "<!DOCTYPE" in text:  # the only place where entities, which can grow without bound, are declared
            raise UserError(
                f"annotation {path} has a document type declaration, which no devkit annotation has: remove it"
            )
        root = ElementTree.fromstring(text)
    except (UnicodeError, LookupError, ElementTree.ParseError) as error:
        encoding = ", or name its encoding in its first line" if isinstance(error, UnicodeError) else ""
        raise UserError(f"annotation {path} is damaged: {error}; copy or make it again{encoding}") from None
    if root.tag != "annotation":
        raise UserError(f"annotation {path} holds <{root.tag[:40]}>, where <annotation> was expected")

    names = [(found.findtext("name") or "").strip() for found in root.iterfind("object")]
    label = multi_hot(names, classes, f"annotation {path}", ignore_foreign)
    if not label.any():
        raise UserError(
            f"annotation {path} names no class: {_no_class(root, classes)}; mend it, or leave its photo out of the list"
        )
    return label


def multi_hot(names: Iterable[str], classes: Classes, where: str, ignore_foreign: bool) -> np.ndarray:
    """(C,) float32, 1 for each class that is named. UserError naming `where`: an unknown name, unless `ignore_foreign` is set."""
    label = np.zeros(len(classes), np.float32)
    for name in names:
        if not ignore_foreign or classes.index(name) is not None:
            remedy = "; --ignore_foreign leaves objects of other classes out"
            label[class_number(name, classes, where, remedy)] = 1
    return label


def class_number(name: str, classes: Classes, where: str, remedy: str = "") -> int:
    """The class of this name. UserError naming `where`: there is none, with the nearest and the list of them."""
    if (index := classes.index(name)) is not None:
        return index
    meant = nearest(name.casefold(), [*classes.names, *classes.aliases])
    whose, names = (
        ("VOC's", ", ".join(VOC.names))
        if classes == VOC
        else ("the dataset's (classes.txt)", summarize_ids(classes.names))
    )
    raise UserError(f"{where}: unknown class name {name[:40]!r}{meant}; {whose} are {names}{remedy}")


def _no_class(root: ElementTree.Element, classes: Classes) -> str:
    """Why an annotation has no object of the classes."""
    if root.find("object") is not None:
        return f"its objects are of other classes than {'VOC' if classes == VOC else 'the dataset'}'s {len(classes)}"
    other = next((element.tag for element in root.iter() if element.tag.casefold() == "object"), None)
    return (
        f"its <{other}> is not the <object> directly within <annotation> of a devkit" if other else "it has no <object>"
    )


def _decoded(data: bytes) -> str:
    """The text of an XML file in the encoding that its first bytes or its declaration name, UTF-8 otherwise."""
    if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return data.decode("utf-16")
    if data[:4] in (b"<\0?\0", b"\0<\0?"):
        return data.decode("utf-16-le" if data[0] else "utf-16-be")
    declared = re.match(rb"(?:\xef\xbb\xbf)?\s*<\?xml[^>]*?encoding\s*=\s*[\"']([^\"'>]*)", data[:200])
    name = declared[1].decode("ascii", "replace").lower() if declared else "utf-8"
    if not re.fullmatch(_ENCODINGS, name):
        raise LookupError(f"unknown encoding {name[:40]!r}")
    # A declaration that can be read is not in UTF-16.
    return data.decode("utf-8-sig" if name.startswith("utf") else name)


def annotation_path(voc12_root: str | Path, image_id: str) -> Path:
    """Path of the XML in the devkit `voc12_root`."""
    return find_file(Path(voc12_root) / "Annotations", check_id(image_id, "annotation"), (".xml",))


def load_labels(
    ids: Iterable[str],
    voc12_root: str | Path,
    labels_path: str | Path | None = None,
    failures: list[tuple[str, str]] | None = None,
    ignore_foreign: bool = False,
    listed_in: str | Path = "voc12/train.txt",
) -> dict[str, np.ndarray]:
    """Label (C,) float32, zeros and ones, of each id: from `labels_path` where it exists, else from `Annotations`.

    The classes are those of the dataset in `voc12_root`; without `labels_path` so is the file, see `labels_file`, which wants to know
    the list that the ids are of. An id that the file lacks is read from its XML. The file is read without running anything it asks
    for. The first process prints how many labels came from where. `ignore_foreign`: see `read_annotation`.
    UserError: ids in neither place, or whose value is no multi-hot label or names no class. Where a list `failures` is given, such
    ids are left out and (id, message) is added to it instead.
    """
    classes = read_classes(voc12_root)
    labels_path = labels_path or labels_file(voc12_root, classes, listed_in)
    table = read_label_table(Path(labels_path), classes, ignore_foreign)
    labels: dict[str, np.ndarray] = {}
    problems = []
    for image_id in dict.fromkeys(ids):
        try:
            labels[image_id] = _load_label(image_id, table, voc12_root, labels_path, ignore_foreign, classes)
        except UserError as error:
            problems.append((image_id, str(error)))
    if problems and failures is None:
        raise UserError(summarize_problems(problems))
    if failures is not None:
        failures += problems
    if os.environ.get("RANK", "0") == "0":  # torchrun's number of the process
        print(_origins(labels, table, voc12_root, labels_path), flush=True)
    return labels


def labels_file(root: str | Path, classes: Classes, listed_in: str | Path) -> Path:
    """Where the labels of a dataset are: labels.csv in its root, else cls_labels.npy there.

    Of VOC the latter is the one beside the list of the photos, which prepare.py wrote with it, or else that of voc12/.
    """
    if (path := Path(root, CSV_FILE)).exists():
        return path
    if classes != VOC:
        return Path(root, LABELS_FILE)
    return path if (path := Path(listed_in).parent / LABELS_FILE).exists() else Path("voc12", LABELS_FILE)


def read_label_table(path: Path, classes: Classes, ignore_foreign: bool) -> dict[str, np.ndarray]:
    """id -> label as the file at `path` has it; empty where there is no file."""
    if not path.exists():
        return {}
    if path.suffix.lower() != ".csv":
        try:
            return {_id_of(key): label for key, label in load_npy_dict(path).items()}
        except UserError as error:
            raise UserError(f"{error}; {PREPARE}; without it labels are read from the XML") from error
    table: dict[str, np.ndarray] = {}
    for number, image_id, names in read_label_csv(path):
        label = multi_hot(names, classes, f"{path}, line {number}", ignore_foreign)
        table[image_id] = np.maximum(table[image_id], label) if image_id in table else label
    return table


read_table = read_label_table  # old name


def _id_of(key: int | str) -> str:
    """The id that a key of a label file means: IRN's files hold 2007000032 for 2007_000032."""
    return f"{key // 10**6}_{key % 10**6:06d}" if isinstance(key, int) else key


def _origins(labels: Iterable[str], table: Container[str], voc12_root: str | Path, labels_path: str | Path) -> str:
    """How many labels came from where, and how many XML files are newer than the labels that were taken in their place."""
    taken = [image_id for image_id in labels if image_id in table]
    others = len(list(labels)) - len(taken)
    parts = []
    if taken:
        made = os.stat(labels_path).st_mtime
        newer = sum(_time_of_xml(voc12_root, image_id) > made for image_id in taken)
        note = (
            f" ({newer} of them have a newer XML, which is not read: remove or remake the file to use it)"
            if newer
            else ""
        )
        parts.append(f"{len(taken)} from {labels_path}{note}")
    if others or not taken:
        parts.append(f"{others} from {Path(voc12_root) / 'Annotations'}")
    return f"labels: {', '.join(parts)}"


def _time_of_xml(voc12_root: str | Path, image_id: str) -> float:
    """When the image's XML was last written; 0 where there is none, or more than one."""
    try:
        return annotation_path(voc12_root, image_id).stat().st_mtime
    except (OSError, UserError):
        return 0.0


def _load_label(
    image_id: str,
    table: Mapping[str, np.ndarray],
    voc12_root: str | Path,
    labels_path: str | Path,
    ignore_foreign: bool,
    classes: Classes,
) -> np.ndarray:
    if image_id in table:
        return check_label(table[image_id], len(classes), f"{labels_path}, {image_id}")
    path = annotation_path(voc12_root, image_id)
    if not path.is_file():
        absent = "does not hold it" if Path(labels_path).exists() else "does not exist"
        raise UserError(
            f"no label for {image_id}: {labels_path} {absent}, and there is no {path}; is the id right? {PREPARE}"
        )
    return read_annotation(path, ignore_foreign, classes)


def check_label(value: np.ndarray, count: int, where: str) -> np.ndarray:
    """Return a multi-hot label as float32 (count,). UserError naming `where`: another shape, other values, or no class."""
    value = np.asarray(value)
    if value.shape != (count,):
        raise UserError(f"{where}: label of shape {value.shape}, where ({count},) was expected")
    if value.dtype.kind not in "fiub" or not np.isin(value, (0, 1)).all():
        raise UserError(f"{where}: a label holds zeros and ones only")
    if not value.any():
        raise UserError(f"{where}: a row of zeros names no class; correct it, or remove the photo from the list")
    return value.astype(np.float32)
