"""Tables of what photos show, as people, spreadsheets and pandas write them."""

import csv
import io
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from unicodedata import normalize

from tool.cli import UserError
from voc12.classes import squeeze
from voc12.images import PHOTO_ENDINGS
from voc12.lists import check_id, path_id, read_text

FORMS = "Write 'photo,classes' over lines '1.jpg,cat;dog', or 'photo,cat,dog' over '1.jpg,1,1'"
NO_CLASS = {"none", "n/a", "na", "nan", "null", "nil", "-", "--", "?", "unknown", "unlabeled", "unlabelled"}
"""Names, in lower case, that mean no class."""
_PHOTO_COLUMN = re.compile(r"(photo|image|img|picture|file)?s?(id|file|name|path|filename|filepath)?s?")
_CLASS_COLUMN = re.compile(r"(class|label|categor|tag)(y|e?s|ies)?(names?)?\d*")
_NUMBER = re.compile(r"[-+]?\d+(\.\d*)?(e[-+]?\d+)?")
_SHOWN = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True, "": False}  # one-hot cells
Rows = list[tuple[int, list[str]]]


def read_label_csv(
    path: str | Path, known: Collection[str] = (), dropped: list[str] | None = None
) -> Iterator[tuple[int, str, list[str]]]:
    """Yield (line number, image id, class names) of each line of a table.

    Columns are separated by commas, semicolons or tabs. The header decides on the form: `photo,classes` (or no header), with the
    classes in one cell or a cell each, or the photo and a column of 0 and 1 for each class. An id may be the photo's file name,
    with folder and ending. A photo may have several lines, or no class.

    Args:
        path: the table.
        known: ids of the photos; if several folders hold the same file name, the id starts with the folder.
        dropped: receives `<name> (<id>)` of each name that means no class, such as "none".

    Raises:
        UserError: the file cannot be read or is empty, or the table has another form.
    """
    header, rows = _read_table(path)
    is_one_hot = _is_one_hot(path, header, rows)
    for number, cells in rows:
        if len(cells) < 2 or (is_one_hot and len(cells) != len(header)):
            raise UserError(f"{path}, line {number}: {','.join(cells)[:80]!r} has {len(cells)} columns. {FORMS}")
        names = cells[1:]
        if is_one_hot:
            names = [name for name, cell in zip(header[1:], names, strict=True) if _SHOWN[cell.lower()]]
        names = [part.strip() for name in names for part in re.split("[,;|]", name)]
        image_id = check_id(_image_id(cells[0], known), f"{path}, line {number}")
        if dropped is not None:
            dropped += [f"{name} ({image_id})" for name in names if name.lower() in NO_CLASS]
        yield number, image_id, [name for name in names if name and name.lower() not in NO_CLASS]


def _is_one_hot(path: str | Path, header: list[str], rows: Rows) -> bool:
    """Return whether a table has a column for each class. UserError: it is neither that nor a table of names."""
    columns, cells = header[1:], {cell.lower() for _, row in rows for cell in row[1:]}
    has_class_columns = bool(columns) and all(_CLASS_COLUMN.fullmatch(squeeze(name)) for name in columns)
    if cells <= _SHOWN.keys() and (len(columns) > 1 or (columns and not has_class_columns)):
        return True
    is_plain = len(header) in (0, 2) and not any(map(_NUMBER.fullmatch, cells))
    if has_class_columns or is_plain:
        return False
    found = f"the header {','.join(header)[:100]!r}" if header else "no header, and numbers for classes"
    raise UserError(f"{path}: has {found}. {FORMS}")


def _read_table(path: str | Path) -> tuple[list[str], Rows]:
    """Return the header, empty without one, and (line number, cells) of each line that is not blank, without an index column."""
    text = read_text(path, FORMS)
    marked = re.match(r"\s*sep=([,;\t])", text)
    found = marked or re.match(r'\s*(?:"[^"]*"|[^",;\t\n])*([,;\t])', text)
    reader = csv.reader(io.StringIO(text), delimiter=found[1] if found else ",", skipinitialspace=True, strict=True)
    try:
        rows = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if any(map(str.strip, cells))]
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: {error}. {FORMS}") from None
    rows = rows[1:] if marked else rows
    first = [squeeze(cell) for cell in rows[0][1]] if rows else []
    if len(first) > 2 and first[0] in ("", "unnamed0") and _PHOTO_COLUMN.fullmatch(first[1]):
        rows = [(number, cells[1:]) for number, cells in rows]  # pandas writes the number of each line before it
    names = [cells[0].lower() for _, cells in rows[:2] if cells]
    is_photo = [name.endswith(PHOTO_ENDINGS) for name in names]
    if names and not is_photo[0] and (_PHOTO_COLUMN.fullmatch(squeeze(names[0])) or is_photo[1:] == [True]):
        return rows[0][1], rows[1:]
    return [], rows


def _image_id(name: str, known: Collection[str]) -> str:
    """Return the image id of a photo's file name, without ending, and without folder unless that belongs to a known id."""
    name = normalize("NFC", name.replace("\\", "/"))  # as the ids of files
    ending = next((ending for ending in PHOTO_ENDINGS if name.lower().endswith(ending)), "")
    name = name[: len(name) - len(ending)]
    return path_id(name) if path_id(name) in known else name.rpartition("/")[2]
