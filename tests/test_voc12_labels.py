"""Image-level labels from XML, cls_labels.npy and tables; the forms of tables that are read or refused."""

from pathlib import Path

import numpy as np
import pytest
from voc12_devkit import SHARED, hot, write_devkit, xml

from tool.cli import UserError
from tool.files import save_npy_dict
from voc12.classes import CLASSES
from voc12.dataset import Dataset
from voc12.labels import read_annotation, read_label_csv
from voc12.lists import read_image_list


@pytest.mark.parametrize("encoding", [None, "utf8", "UTF-8", "UTF-16", "ISO-8859-1", "windows-1252"])
def test_annotation_counts_difficult_objects_and_not_their_parts(tmp_path, encoding):
    text = (
        "<annotation><name>cat</name><folder>été</folder>"
        "<object><name>person</name><difficult>1</difficult><part><name>head</name></part></object>"
        "<object><part><name>sofa</name></part><name> dog </name></object><object><name>person</name></object></annotation>"
    )
    head = f"<?xml version='1.0' encoding='{encoding}'?>\n" if encoding else ""
    (tmp_path / "a.xml").write_bytes(f"{head}{text}".encode(encoding or "utf-8"))
    label = read_annotation(tmp_path / "a.xml")
    assert label.dtype == np.float32 and np.array_equal(label, hot(14, 11))


@pytest.mark.parametrize(
    ("text", "keyword"),
    [
        *((xml(["unicorn"]), "unicorn"), ("<annotation><object/></annotation>", "unknown class"), ("", "damaged")),
        *((xml([]), "<object>"), ("<annotation><object><name>cat</name>", "damaged")),
    ],
)
def test_read_annotation_rejects(tmp_path, text, keyword):
    (tmp_path / "2007_1.xml").write_text(text)
    with pytest.raises(UserError, match=rf"2007_1\.xml.*{keyword}"):
        read_annotation(tmp_path / "2007_1.xml")


def test_labels_come_from_the_file_and_then_from_xml(tmp_path, capsys):
    root, path = write_devkit(tmp_path / "VOC2012", {"2007_000032": (0,), "b": (1, 2)}), tmp_path / "cls.npy"
    save_npy_dict(path, {2007000032: hot(5).astype(np.float64)})  # as in IRN's files
    found = Dataset(root).image_labels(["b", "2007_000032", "b"], "train.txt", labels_path=path)
    assert np.array_equal(list(found.values()), [hot(1, 2), hot(5)]) and found["2007_000032"].dtype == np.float32
    assert capsys.readouterr().out == f"labels: 1 from {root}/Annotations, 1 from {path}\n"


def test_label_file_of_a_list(tmp_path, monkeypatch):
    root = write_devkit(tmp_path / "VOC2012", {"a": (0,)})
    monkeypatch.chdir(tmp_path)
    for folder, label in (("voc12", hot(5)), ("lists", hot(7)), ("VOC2012", hot(9))):
        Path(folder).mkdir(exist_ok=True)
        save_npy_dict(Path(folder, "cls_labels.npy"), {"a": label})
    for listed_in, c in (("lists/train.txt", 7), ("voc12/train.txt", 5), ("few.txt", 5)):
        assert np.array_equal(Dataset(root).image_labels("a", listed_in)["a"], hot(c))
    (root / "classes.txt").write_text("\n".join(reversed(CLASSES)))
    assert np.array_equal(Dataset(root).image_labels("a", "lists/train.txt")["a"], hot(9))
    (root / "labels.csv").write_text("photo,classes\na,dog\na,cat\n")
    assert np.array_equal(Dataset(root).image_labels("a", "lists/train.txt")["a"], hot(19 - 11, 19 - 7))
    (root / "labels.csv").write_text("a,kat")
    with pytest.raises(UserError, match=r"labels\.csv, line 1.*'kat' \(did you mean cat\?\)"):
        Dataset(root).image_labels("a", "lists/train.txt")


def test_images_without_labels_are_all_named_or_left_out(tmp_path):
    data, path = Dataset(write_devkit(tmp_path / "VOC2012", {"a": (0,), "b": ()})), tmp_path / "cls.npy"
    save_npy_dict(path, {"c": hot(), "d": hot(3) * 2, "e": hot(3) * np.nan, "f": np.zeros(21, np.float32)})
    with pytest.raises(UserError, match=r"^6 of 7 .*g, c, b, d, e, f.*g\.xml.*prepare"):
        data.image_labels("gcabdef", "train.txt", labels_path=path)
    failures = []
    assert list(data.image_labels("gcabdef", "train.txt", failures, path)) == ["a"]
    keywords = {"g": "g.xml", "c": "zeros", "b": "b.xml", "d": "ones", "e": "ones", "f": "21"}
    assert [image_id for image_id, _ in failures] == list(keywords)
    assert all(keywords[image_id] in message for image_id, message in failures)


@pytest.mark.skipif(not (SHARED / "voc12_mini").exists(), reason="needs ../shared")
def test_labels_of_real_annotations_are_the_public_ones():
    data, public_file = Dataset(SHARED / "voc12_mini/VOC2012"), SHARED / "voc12_lists/cls_labels.npy"
    ids = data.photos.ids()
    public = data.image_labels(ids, "", labels_path=public_file)
    ours = data.image_labels(ids, "", labels_path="none.npy")
    assert len(ids) == 54
    assert all(np.array_equal(ours[image_id], public[image_id]) for image_id in ids)
    train_aug = data.image_labels(read_image_list(SHARED / "voc12_lists/train_aug.txt"), "", labels_path=public_file)
    assert sum(label[14] for label in train_aug.values()) == 4155


def rows(path, **options) -> list[tuple[str, list[str]]]:
    return [(image_id, names) for _, image_id, names in read_label_csv(path, **options)]


@pytest.mark.parametrize(
    "text",
    [
        "1.jpg,cat\n2.jpg,cat;dog",
        'image_id, labels,\nin/1.jpg, cat,\nC:\\in\\2.JPG,"cat,dog",',
        "filename,class1,class2\n1.jpg,cat,\n2.jpg,cat,dog",
        'filename;class\r\n1.jpg;cat\r\n2.jpg;"cat;dog"\r\n',
        "Filename\tTags\n1.webp\tcat\n2.tiff\tcat|dog",
        "sep=;\nphoto;classes\n1.jpg;cat\n2.jpg;cat|dog",
        "photo,animal\n\n1.jpg,cat\n,\n2.jpg,cat,dog\n",
        'photo,animal\r1.jpg,cat\r2.jpg,"cat\rdog"\r',
        "Unnamed: 0,filename,label\n0,1.jpg,cat\n1,2.jpg,cat;dog",
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
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_forms(tmp_path, text, encoding):
    (tmp_path / "t.csv").write_bytes(text.encode(encoding))
    assert [row for row in rows(tmp_path / "t.csv") if row[1]] == [("1", ["cat"]), ("2", ["cat", "dog"])]


@pytest.mark.parametrize("cells", ["01", ("no", "yes"), ("FALSE", "TRUE"), ("", "x")])
def test_header_decides(tmp_path, cells):
    path, lines = tmp_path / "t.csv", "".join(f"{n}.jpg,{cell}\n" for n, cell in enumerate(cells))
    path.write_text(f"photo,cat\n{lines}")
    assert rows(path) == [("0", []), ("1", ["cat"])]
    path.write_text(f"id,classes\n{lines}")
    assert rows(path, classes_known=True) == [(str(n), [cell] if cell else []) for n, cell in enumerate(cells)]


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
        ("photo,label\n1.jpg,0\n2.jpg,1\n3.jpg,17", "photo,label.*'0'"),
        ('photo,class_id\n1.jpg,"[0, 1]"', "photo,class_id.*'0'"),
        ("photo,label\n1.jpg,1.000e+00", "photo,label.*'1.000e"),
        ("photo,target\n1.jpg,yes\n2.jpg,no", "photo,target.*'yes'"),
        ("photo,0,17\n1.jpg,True,False", "photo,0,17.*'0'"),
        ("photo,classes\n1.jpg,\"{'cat': 1, 'dog': 0}\"", "photo,classes.*cat"),
        ("label,filename\ncat,1.jpg", "label,filename"),
        ("photo\n1.jpg", "'photo'"),
        ("1.jpg,1,0\n2.jpg,0,1", "no header.*1.jpg,1,0"),
        ("photo,cat,dog\n1.jpg,1", "line 2.*2 columns"),
        ("photo|classes\n1.jpg|cat", "line 1.*1 columns"),
        ('1,"cat', "line 1.*end of data"),
        ("../1/..,cat", "line 1.*image id"),
        ("", "empty"),
    ],
)
def test_tables_that_are_refused(tmp_path, text, keyword):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UserError, match=rf"t\.csv.*{keyword}") as error:
        rows(tmp_path / "t.csv")
    if "image id" not in keyword:
        assert "photo,classes" in str(error.value) and "photo,cat,dog" in str(error.value)
