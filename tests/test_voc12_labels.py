"""Image-level labels from XML, cls_labels.npy and labels.csv."""

import os

import numpy as np
import pytest
from voc12_devkit import SHARED, hot, write_devkit, xml

from tool.cli import UserError
from tool.files import save_npy_dict
from voc12.dataset import Dataset
from voc12.labels import read_annotation
from voc12.lists import read_image_list

NONE = "none.npy"


def labels_of(root, ids, path=NONE, **options):
    """Return the classes of each image, as its dataset reads them."""
    labels = Dataset(root, need_photos=False).image_labels(ids, "train.txt", labels_path=path, **options)
    return {image_id: label.nonzero()[0].tolist() for image_id, label in labels.items()}


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


def test_label_file_of_the_list_comes_before_that_of_voc12(tmp_path, monkeypatch):
    root = write_devkit(tmp_path / "VOC2012", {"a": (0,)})
    monkeypatch.chdir(tmp_path)
    for folder, label in (("voc12", hot(5)), ("lists", hot(7))):
        (tmp_path / folder).mkdir()
        save_npy_dict(tmp_path / folder / "cls_labels.npy", {"a": label})
    for listed_in, expected in (("lists/train.txt", 7), ("voc12/train.txt", 5), ("few.txt", 5)):
        assert np.array_equal(Dataset(root).image_labels("a", listed_in)["a"], hot(expected))
    (root / "labels.csv").write_text("photo,classes\na,dog\n")
    assert np.array_equal(Dataset(root).image_labels("a", "lists/train.txt")["a"], hot(11))


def test_images_without_labels_are_all_named_or_left_out(tmp_path):
    root = write_devkit(tmp_path / "VOC2012", {"a": (0,), "b": (), "c": (3,)})
    save_npy_dict(tmp_path / "cls.npy", {"c": hot()})
    with pytest.raises(UserError, match=r"^3 of 4 .*d, c, b.*d\.xml.*prepare"):
        labels_of(root, "adcb", tmp_path / "cls.npy")
    failures = []
    assert labels_of(root, "adcb", tmp_path / "cls.npy", failures=failures) == {"a": [0]}
    assert [image_id for image_id, _ in failures] == ["d", "c", "b"]


@pytest.mark.parametrize(
    ("value", "keyword"),
    [(np.zeros(21, np.float32), "21"), (hot(3) * 2, "ones"), (hot(3) * np.nan, "ones"), (hot(), "zeros")],
)
def test_value_that_is_no_label(tmp_path, value, keyword):
    save_npy_dict(tmp_path / "cls.npy", {"a": value})
    with pytest.raises(UserError, match=rf"cls\.npy, a.*{keyword}"):
        labels_of(tmp_path, ["a"], tmp_path / "cls.npy")


def test_label_file_runs_no_code(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    for value, keyword in ((np.array({"a": Bomb()}, object), "mkdir"), (np.zeros((6, 20)), "dict.*prepare")):
        np.save(tmp_path / "cls.npy", value, allow_pickle=True)
        with pytest.raises(UserError, match=rf"cls\.npy.*{keyword}"):
            labels_of(tmp_path, ["a"], tmp_path / "cls.npy")
    assert not (tmp_path / "ran").exists()


@pytest.mark.skipif(not (SHARED / "voc12_mini").exists(), reason="needs ../shared")
def test_labels_of_real_annotations_are_the_public_ones():
    data, public_file = Dataset(SHARED / "voc12_mini/VOC2012"), SHARED / "voc12_lists/cls_labels.npy"
    ids = data.photos.ids()
    public = data.image_labels(ids, "", labels_path=public_file)
    ours = data.image_labels(ids, "", labels_path=NONE)
    assert len(ids) == 54
    assert all(np.array_equal(ours[image_id], public[image_id]) for image_id in ids)
    train_aug = data.image_labels(read_image_list(SHARED / "voc12_lists/train_aug.txt"), "", labels_path=public_file)
    assert sum(label[14] for label in train_aug.values()) == 4155


def test_labels_come_from_csv_then_npy_then_xml(tmp_path):
    (tmp_path / "classes.txt").write_text("cat\nGuinea pig")
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations/x.xml").write_text(xml([" GUINEA PIG "]))
    assert labels_of(tmp_path, ["x"], None) == {"x": [1]}
    np.save(tmp_path / "cls_labels.npy", {"x": np.array([1, 1], np.float32)})
    assert labels_of(tmp_path, ["x"], None) == {"x": [0, 1]}
    (tmp_path / "labels.csv").write_text("x,cat")
    assert labels_of(tmp_path, ["x"], None) == {"x": [0]}
    (tmp_path / "labels.csv").write_text("x,kat")
    with pytest.raises(UserError, match=r"labels\.csv, line 1.*'kat' \(did you mean cat\?\)"):
        labels_of(tmp_path, ["x"], None)
