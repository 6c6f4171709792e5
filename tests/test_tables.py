"""Tables of what photos show: the forms that are read, and those that are refused."""

import pytest

from tool.cli import UserError
from voc12.tables import read_label_csv

BOTH = [("1", ["cat"]), ("2", ["cat", "dog"])]


def rows(path) -> list[tuple[str, list[str]]]:
    return [(image_id, names) for _, image_id, names in read_label_csv(path)]


@pytest.mark.parametrize(
    "text",
    [
        "1.jpg,cat\n2.jpg,cat;dog",
        "photo,classes\n1.jpg,cat\n2.jpg,cat,dog",
        'image_id, labels\nin/1.jpg, cat\nin\\2.JPG,"cat,dog"',
        "filename,class1,class2\n1.jpg,cat,\n2.jpg,cat,dog",
        "filename;class\n1.jpg;cat\n2.jpg;cat,dog",
        'filename;class\n1.jpg;cat\n2.jpg;"cat;dog"',
        "Filename\tTags\n1.webp\tcat\n2.tiff\tcat|dog",
        "sep=;\nphoto;classes\n1.jpg;cat\n2.jpg;cat\n2.jpg;dog",
        "photo,animal\n\n1.jpg,cat\n,\n2.jpg,cat;dog\n",
        "photo,animal\r1.jpg,cat\r2.jpg,cat;dog\r",
        ",filename,label\n0,1.jpg,cat\n1,2.jpg,cat;dog",
        "Unnamed: 0,filename,label\n0,1.jpg,cat\n1,2.jpg,cat;dog",
        "filename,cat,dog\n1.jpg,1,0\n2.jpg,1,1",
        "sep=;\nfilename;cat;dog\n1.jpg;1.0;0.0\n2.jpg;1.0;1.0",
        ",filename,cat,dog\n0,1.jpg,True,False\n1,2.jpg,True,True",
        ",cat,dog\n1.jpg,1,\n2.jpg,1,1",
        "foto,cat,dog\n1.jpg,1,0\n2.jpg,1,1",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_forms(tmp_path, text, encoding):
    mark = "\ufeff" if encoding == "utf-16-le" else ""
    (tmp_path / "t.csv").write_bytes(f"{mark}{text}".encode(encoding))
    found: dict[str, list[str]] = {}
    for image_id, names in rows(tmp_path / "t.csv"):
        found.setdefault(image_id, []).extend(names)
    assert list(found.items()) == BOTH


def test_header_decides(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("photo,label\n1.jpg,0\n2.jpg,1")
    assert rows(path) == [("1", ["0"]), ("2", ["1"])]
    path.write_text("photo,cat\n1.jpg,0\n2.jpg,1")
    assert rows(path) == [("1", []), ("2", ["cat"])]


def test_ids_of_equal_names_begin_with_the_folder(tmp_path):
    (tmp_path / "t.csv").write_text("photo,classes\ncat/1.jpg,cat\nx/2.jpg,dog")
    assert [row[1] for row in read_label_csv(tmp_path / "t.csv", {"cat_1", "2"})] == ["cat_1", "2"]


@pytest.mark.parametrize(
    ("text", "keyword"),
    [
        ("filename,width,height,class,xmin,ymin\n1.jpg,640,480,cat,3,4", "filename,width,height,class"),
        ("photo,classes,note\n1.jpg,cat,blurred", "photo,classes,note"),
        ("filename,cat,dog\n1.jpg,1,0\n2.jpg,2,0", "filename,cat,dog"),
        ("filename,width\n1.jpg,640", "filename,width"),
        ("photo\n1.jpg", "'photo'"),
        ("1.jpg,1,0\n2.jpg,0,1", "no header"),
        ("1.jpg,640,480,cat", "no header"),
        ("photo,cat,dog\n1.jpg,1", "line 2.*2 columns"),
        ("1.jpg", "line 1.*1 columns"),
        ('1,"cat', "line 1.*end of data"),
        ("../1/..,cat", "line 1.*no image id"),
        ("", "empty"),
    ],
)
def test_tables_that_are_refused(tmp_path, text, keyword):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UserError, match=rf"t\.csv.*{keyword}") as error:
        rows(tmp_path / "t.csv")
    if "image id" not in keyword:
        assert "photo,classes" in str(error.value) and "photo,cat,dog" in str(error.value)
