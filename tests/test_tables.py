"""Tables of what photos show: the forms that are read, and those that are refused."""

import pytest

from tool.cli import UserError
from voc12.labels import read_label_csv

BOTH = [("1", ["cat"]), ("2", ["cat", "dog"])]


def rows(path, **options) -> list[tuple[str, list[str]]]:
    """Return the classes of each photo, those of equal ids together."""
    found: dict[str, list[str]] = {}
    for _, image_id, names in read_label_csv(path, **options):
        found.setdefault(image_id, []).extend(names)
    return list(found.items())


@pytest.mark.parametrize(
    "text",
    [
        "1.jpg,cat\n2.jpg,cat;dog",
        'image_id, labels,\nin/1.jpg, cat,\nC:\\in\\2.JPG,"cat,dog",',
        "filename,class1,class2\n1.jpg,cat,\n2.jpg,cat,dog",
        'filename;class\r\n1.jpg;cat\r\n2.jpg;"cat;dog"\r\n',
        "filename;class\n1.jpg;cat\n2.jpg;cat,dog",
        "Filename\tTags\n1.webp\tcat\n2.tiff\tcat|dog",
        "sep=;\nphoto;classes\n1.jpg;cat\n2.jpg;cat\n2.jpg;dog",
        "photo,animal\n\n1.jpg,cat\n,\n2.jpg,cat,dog\n",
        'photo,animal\r1.jpg,cat\r2.jpg,"cat\rdog"\r',
        "Unnamed: 0,filename,label\n0,1.jpg,cat\n1,2.jpg,cat;dog",
        "index,id,label\n0,1,cat\n1,2,cat;dog",
        "photo,classes\n1.jpg,['cat']\n2.jpg,\"['cat', 'dog']\"",
        'photo,classes\n1.jpg,"[""cat""]"\n2.jpg,"[\'cat\', ""dog""]"',
        "photo,classes\n1.jpg,\"('cat',)\"\n2.jpg,['cat' 'dog']",
        "photo;classes\n1.jpg;[cat]\n2.jpg;{cat,dog}\n3.jpg;[]",
        "filename,cat,dog\n1.jpg,1,0\n2.jpg,1,1.0",
        "sep=;\nfilename;cat;dog;\n1.jpg;1.0;0.0;\n2.jpg;1.0;1.0;",
        ",filename,cat,dog\n0,1.jpg,True,False\n1,2.jpg,True,True",
        ",cat,dog\n1.jpg,x,\n2.jpg,x,x",
        "foto,cat,dog\n1.jpg,Yes,no\n2.jpg,Yes,YES",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_forms(tmp_path, text, encoding):
    (tmp_path / "t.csv").write_bytes(text.encode(encoding))
    assert [row for row in rows(tmp_path / "t.csv") if row[1]] == BOTH


@pytest.mark.parametrize("cells", ["01", ("no", "yes"), ("FALSE", "TRUE"), ("", "x")])
def test_header_decides(tmp_path, cells):
    path, lines = tmp_path / "t.csv", "".join(f"{n}.jpg,{cell}\n" for n, cell in enumerate(cells))
    path.write_text(f"photo,cat\n{lines}")
    assert rows(path) == [("0", []), ("1", ["cat"])]
    path.write_text(f"id,classes\n{lines}")
    assert rows(path, classes_known=True) == [(str(n), [cell] if cell else []) for n, cell in enumerate(cells)]


def test_ids_of_equal_names_begin_with_the_folder(tmp_path):
    (tmp_path / "t.csv").write_text("photo,classes\ncat/1.jpg,cat\nx/2.jpg,dog\n3.jpg,dog\n")
    assert [image_id for image_id, _ in rows(tmp_path / "t.csv", known={"cat_1", "2", "3.jpg"})] == [
        "cat_1",
        "2",
        "3.jpg",
    ]


def test_names_that_mean_no_class(tmp_path):
    (tmp_path / "t.csv").write_text("photo,classes\n1.jpg,None\n2.jpg,N/A\n3.jpg,cat;-\n4.jpg,[nan]\n")
    dropped: list[str] = []
    assert [names for _, names in rows(tmp_path / "t.csv", dropped=dropped)] == [[], [], ["cat"], []]
    assert dropped == ["None (1)", "N/A (2)", "- (3)", "nan (4)"]


@pytest.mark.parametrize(
    ("text", "keyword"),
    [
        ("filename,width,height,class,xmin,ymin\n1.jpg,640,480,cat,3,4", "filename,width,height,class"),
        ("photo,classes,note\n1.jpg,cat,blurred", "photo,classes,note"),
        ("filename,cat,dog\n1.jpg,1,0\n2.jpg,2,0", "filename,cat,dog"),
        ("filename,width\n1.jpg,640", "filename,width"),
        ("photo,label\n1.jpg,0\n2.jpg,1\n3.jpg,17", "photo,label.*'0'"),
        ('photo,class_id\n1.jpg,"[0, 1]"', "photo,class_id.*'0'"),
        ("photo,date\n1.jpg,2024-01-01", "photo,date.*'2024-01-01'"),
        ("photo,label\n1.jpg,1.000e+00", "photo,label.*'1.000e"),
        ("photo,target\n1.jpg,yes\n2.jpg,no", "photo,target.*'yes'"),
        ("photo,0,17\n1.jpg,True,False", "photo,0,17.*'0'"),
        ("photo,classes\n1.jpg,\"{'cat': 1, 'dog': 0}\"", "photo,classes.*cat"),
        ("label,filename\ncat,1.jpg", "label,filename"),
        ("photo\n1.jpg", "'photo'"),
        ("1.jpg,1,0\n2.jpg,0,1", "no header.*1.jpg,1,0"),
        ("1.jpg,640,480,cat", "no header"),
        ("photo,cat,dog\n1.jpg,1", "line 2.*2 columns"),
        ("photo|classes\n1.jpg|cat", "line 1.*1 columns"),
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
