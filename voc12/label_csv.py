"""labels.csv: image-level labels as a table, a photo a line, `id,class;class`."""

import csv
from collections.abc import Iterator
from pathlib import Path

from tool.cli import UserError
from voc12.classes import fold
from voc12.folders import PHOTO_ENDINGS
from voc12.lists import check_id, read_lines

CSV_FILE = "labels.csv"
_FORM = "id,class;class"
_HEADER = (
    {"id", "image", "imageid", "photo", "file", "filename", "name", "path"},
    {"class", "label", "categor", "tag"},
)


def read_label_csv(path: str | Path) -> Iterator[tuple[int, str, list[str]]]:
    """(line number, image id, names of its classes) of each line; a header is passed over, a photo may have several lines.

    The id may be written as the photo's file name, with its ending and in its folder. Classes stand in one cell with ';' between
    them, or in a cell each; a photo may have none.
    UserError: the file cannot be read, is empty, or a line has another form.
    """
    first = True
    for number, line in read_lines(path, f"write a line '{_FORM}' for each photo"):
        where = f"{path}, line {number}"
        try:
            cells = next(csv.reader([line], skipinitialspace=True, strict=True))
        except csv.Error as error:
            raise UserError(f"{where}: {error}; a line is '{_FORM}'") from None
        if len(cells) < 2:
            raise UserError(f"{where}: {line[:80]!r} has no comma; a line is '{_FORM}'")
        if first and fold(cells[0]) in _HEADER[0] and fold(cells[1]).startswith(tuple(_HEADER[1])):
            first = False
            continue
        first = False
        names = [name.strip() for cell in cells[1:] for name in cell.split(";")]
        yield number, check_id(image_id_of(cells[0].strip()), where), [name for name in names if name]


def image_id_of(name: str) -> str:
    """The id in a photo's file name: without folder and ending."""
    name = name.replace("\\", "/").rsplit("/", 1)[-1]
    ending = next((e for e in PHOTO_ENDINGS if name.lower().endswith(e) and len(name) > len(e)), "")
    return name[: len(name) - len(ending)]
