"""Tables of what photos show, as people, spreadsheets and pandas write them."""

import csv
import io
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from unicodedata import normalize

from tool.cli import UserError
from voc12.classes import NO_CLASS, fold, squeeze
from voc12.images import OTHER_ENDINGS, PHOTO_ENDINGS
from voc12.lists import check_id, path_id, read_text

FORMS = "Write 'photo,classes' over lines '1.jpg,cat;dog', or 'photo,cat,dog' over '1.jpg,1,1'"
_PHOTO_COLUMN = re.compile(r"(photo|image|img|picture|file)?s?(id|file|name|path|filename|filepath)?s?")
_CLASS_COLUMN = re.compile(r"(class|label|categor|tag|target|annotation)(y|e?s|ies)?(names?|ids?|idx|index|number)?\d*")
_VALUE = re.compile(r"[-+]?\d+(\.\d*)?(e[-+]?\d+)?|true|false|yes|no")  # no names of classes
_SHOWN = {"1", "1.0", "true", "t", "yes", "y", "x"}  # cells of a column for each class
_NOT_SHOWN = {"0", "0.0", "false", "f", "no", "n", ""}
_QUOTED = r"""(?:'[^']*'|"[^"]*")"""
_QUOTED_LIST = re.compile(rf"[\[({{]\s*(?:{_QUOTED}[,\s]*)*[\])}}]")  # ['cat', 'dog'] of Python, ['cat' 'dog'] of numpy
_PLAIN_LIST = re.compile(r"""[\[{]([^'":\[\]{}]*)[\]}]""")
Rows = list[tuple[int, list[str]]]


def read_label_csv(
    path: str | Path, known: Collection[str] = (), dropped: list[str] | None = None, classes_known: bool = False
) -> Iterator[tuple[int, str, list[str]]]:
    """Yield (line number, image id, class names) of each line of a table. A photo may have several lines, or no class.

    Columns are separated by commas, semicolons or tabs. The header decides on the form: `photo,classes` (or no header), with the
    classes in one cell or a cell each, or the photo and a column of 0 and 1 for each class. An id may be the photo's path.

    Args:
        known: ids of the photos; if several folders hold the same file name, the id starts with the folder.
        dropped: receives `<name> (<id>)` of each name that means no class, such as "none".
        classes_known: accept class names that look like numbers, files, yes or no.

    Raises:
        UserError: the file cannot be read or is empty, or the table has another form.
    """
    header, rows = _read_table(path)
    first = ",".join(header or (rows[0][1] if rows else []))
    found = f"{path}: has {'the header' if header else 'no header over'} {first[:100]!r}"
    is_one_hot = _is_one_hot(header, rows, found)
    for number, cells in rows:
        if len(cells) < 2 or (is_one_hot and (len(cells) < len(header) or any(cells[len(header) :]))):
            raise UserError(f"{path}, line {number}: {','.join(cells)[:80]!r} has {len(cells)} columns. {FORMS}")
        shown = cells[1:]
        if is_one_hot:
            shown = [name for name, cell in zip(header[1:], cells[1:], strict=False) if cell.lower() in _SHOWN]
        names = _split(",".join(filter(None, shown)))
        for name in names:
            is_value = _VALUE.fullmatch(name.lower()) or name.lower().endswith(PHOTO_ENDINGS + OTHER_ENDINGS)
            if set(name) & set("[]{}") or (is_value and not classes_known):
                raise UserError(f"{found}, and {name[:40]!r} for a class (line {number}). {FORMS}")
        image_id = check_id(_image_id(cells[0], known), f"{path}, line {number}")
        if dropped is not None:
            dropped += [f"{name} ({image_id})" for name in names if fold(name) in NO_CLASS]
        yield number, image_id, [name for name in names if name and fold(name) not in NO_CLASS]


def _is_one_hot(header: list[str], rows: Rows, found: str) -> bool:
    """Return whether a table has a column for each class. UserError: it is neither that nor a table of names."""
    columns, cells = header[1:], {cell.lower() for _, row in rows for cell in row[1:]}
    has_class_columns = bool(columns) and all(_CLASS_COLUMN.fullmatch(squeeze(name)) for name in columns)
    if cells <= _SHOWN | _NOT_SHOWN and (len(columns) > 1 or (columns and not has_class_columns)):
        return True
    if has_class_columns or len(header) in (0, 2):
        return False
    raise UserError(f"{found}. {FORMS}")


def _read_table(path: str | Path) -> tuple[list[str], Rows]:
    """Return the header, empty without one, and (line number, cells) of each line that is not blank, without an index column."""
    text = read_text(path, FORMS)
    marked = re.match(r"\s*sep=([,;\t])", text, re.IGNORECASE)
    found = marked or re.match(r'\s*(?:"[^"]*"|[^",;\t\n])*([,;\t])', text)
    reader = csv.reader(io.StringIO(text), delimiter=found[1] if found else ",", skipinitialspace=True, strict=True)
    try:
        rows = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if any(map(str.strip, cells))]
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: {error}. {FORMS}") from None
    rows = rows[1:] if marked else rows
    first = [squeeze(cell) for cell in rows[0][1]] if rows else []
    if len(first) > 2 and first[0] in ("", "unnamed0", "index") and _PHOTO_COLUMN.fullmatch(first[1]):
        rows = [(number, cells[1:]) for number, cells in rows]  # pandas writes the number of each line before it
    names = [cells[0].lower() for _, cells in rows[:2] if cells]
    is_photo = [name.endswith(PHOTO_ENDINGS) for name in names]
    if names and not is_photo[0] and (_PHOTO_COLUMN.fullmatch(squeeze(names[0])) or is_photo[1:] == [True]):
        header = rows[0][1]
        while not header[-1]:  # spreadsheets write empty columns
            header.pop()
        return header, rows[1:]
    return [], rows


def _split(text: str) -> list[str]:
    """Return the names in the cells of a line: separated by , ; | or line ends, or a list as Python, numpy or JSON write it."""
    if _QUOTED_LIST.fullmatch(text):
        return [name[1:-1].strip() for name in re.findall(_QUOTED, text)]
    plain = _PLAIN_LIST.fullmatch(text)
    return [name.strip() for name in re.split("[,;|\n]", plain[1] if plain else text)]


def _image_id(name: str, known: Collection[str]) -> str:
    """Return the image id of a photo's path, without ending, and without folder unless that belongs to a known id."""
    name = normalize("NFC", name.replace("\\", "/"))  # as the ids of files
    if name in known:
        return name
    ending = next((ending for ending in PHOTO_ENDINGS if name.lower().endswith(ending)), "")
    name = name[: len(name) - len(ending)]
    return path_id(name) if path_id(name) in known else name.rpartition("/")[2]
