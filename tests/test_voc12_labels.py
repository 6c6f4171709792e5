"""Image-level labels from XML and from cls_labels.npy."""

import os
import pickle

import numpy as np
import pytest
from voc12_devkit import SHARED, hot, write_devkit, xml

from tool.cli import UserError
from tool.files import save_npy_dict
from voc12.labels import load_labels, read_annotation
from voc12.lists import read_image_list


def test_annotation_counts_difficult_objects_and_not_their_parts(tmp_path):
    path = tmp_path / "a.xml"
    path.write_text(
        "<?xml version='1.0' encoding='utf-8'?><annotation><name>cat</name>"
        "<object><name>person</name><difficult>1</difficult><part><name>head</name></part></object>"
        "<object><part><name>sofa</name></part><name> dog </name></object><object><name>person</name></object></annotation>"
    )
    label = read_annotation(path)
    assert (label.dtype, label.shape) == (np.float32, (20,))
    assert np.array_equal(label, hot(14, 11))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (xml(["unicorn"]), "unknown class name 'unicorn'"),
        ("<annotation><object/></annotation>", "unknown class name ''"),
        (xml([]), "names no class: it has no <object>; mend it, or leave its photo out of the list"),
        (
            "<annotation><Object><Name>cat</Name></Object></annotation>",
            "names no class: its <Object> is not the <object>",
        ),
        (
            "<annotation><objects><object><name>cat</name></object></objects></annotation>",
            "its <object> is not the <object> directly within <annotation>",
        ),
        ("<annotation><object><name>cat</name>", "is damaged"),
        ("", "is empty"),
        ("<html></html>", "<html>, where <annotation>"),
        (f'<!DOCTYPE a [<!ENTITY b "cat">]>{xml(["&b;"])}', "document type"),
        (f"<annotation>{' ' * (1 << 20)}</annotation>", "larger than"),
    ],
)
def test_annotation_that_is_none_is_refused_by_name(tmp_path, text, message):
    path = tmp_path / "2007_1.xml"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"2007_1\.xml.*{message}"):
        read_annotation(path)


def test_an_encoding_that_is_not_named_is_asked_for(tmp_path):
    (tmp_path / "a.xml").write_bytes(f"<annotation>\xe9{xml(['cat'])}".encode("latin-1"))
    with pytest.raises(
        UserError, match=r"is damaged: .*; copy or make it again, or name its encoding in its first line$"
    ):
        read_annotation(tmp_path / "a.xml")


def test_annotation_in_another_encoding_cannot_hide_a_document_type(tmp_path):
    path = tmp_path / "a.xml"
    path.write_bytes(f'<!DOCTYPE a [<!ENTITY b "cat">]>{xml(["&b;"])}'.encode("utf-16"))
    with pytest.raises(UserError, match="document type"):
        read_annotation(path)


def test_labels_come_from_the_file_and_then_from_xml(tmp_path):
    root = write_devkit(tmp_path / "VOC2012", {"a": (0,), "b": (1, 2)})
    assert {i: v.nonzero()[0].tolist() for i, v in load_labels("ab", root, tmp_path / "none.npy").items()} == {
        "a": [0],
        "b": [1, 2],
    }
    save_npy_dict(tmp_path / "cls.npy", {"a": hot(5).astype(np.float64)})
    labels = load_labels(["b", "a", "b"], root, tmp_path / "cls.npy")
    assert list(labels) == ["b", "a"]
    assert np.array_equal(labels["a"], hot(5))
    assert labels["a"].dtype == np.float32
    assert np.array_equal(labels["b"], hot(1, 2))


def test_it_is_told_how_many_labels_came_from_where(tmp_path, capsys, monkeypatch):
    root = write_devkit(tmp_path / "VOC2012", {"a": (0,), "b": (1, 2), "c": (3,)})
    path = tmp_path / "cls.npy"
    xmls = f"{root}/Annotations"

    def told(ids, **options) -> str:
        load_labels(ids, root, path, **options)
        return capsys.readouterr().out

    assert told("abca") == f"labels: 3 from {xmls}\n"
    save_npy_dict(path, {"a": hot(5), "b": hot(1)})
    for image_id, time in (("a", 100), ("b", 100), ("c", 300)):
        os.utime(root / f"Annotations/{image_id}.xml", (time, time))
    os.utime(path, (200, 200))
    assert told("abc") == f"labels: 2 from {path}, 1 from {xmls}\n"
    assert told("ab") == f"labels: 2 from {path}\n"
    os.utime(root / "Annotations/a.xml", (300, 300))  # corrected after the file was made
    (root / "Annotations/b.xml").unlink()
    assert told("abc") == (
        f"labels: 2 from {path} (1 of them have a newer XML, which is not read: remove or remake the file to use it), 1 from {xmls}\n"
    )
    (root / "Annotations/a.XML").write_text("")  # two spellings: neither is read
    assert told("ab") == f"labels: 2 from {path}\n"
    monkeypatch.setenv("RANK", "1")
    assert told("abc") == ""


def test_of_voc_the_labels_beside_the_list_come_before_those_of_the_folder_one_works_in(tmp_path, monkeypatch):
    """As reproduce.py needs it, whose own lists and labels lie in the folder of its run."""
    root = write_devkit(tmp_path / "VOC2012", {"a": (0,)})
    monkeypatch.chdir(tmp_path)
    for folder, label in (("voc12", hot(5)), ("lists", hot(7))):
        (tmp_path / folder).mkdir()
        save_npy_dict(tmp_path / folder / "cls_labels.npy", {"a": label})
    for listed_in, expected in (("lists/train.txt", 7), ("voc12/train.txt", 5), ("few.txt", 5)):
        assert np.array_equal(load_labels("a", root, listed_in=listed_in)["a"], hot(expected))
    (root / "labels.csv").write_text("photo,classes\na,dog\n")
    assert np.array_equal(load_labels("a", root, listed_in="lists/train.txt")["a"], hot(11))


def test_label_files_with_numbers_for_ids_are_read(tmp_path):
    save_npy_dict(tmp_path / "cls.npy", {2007000032: hot(3), 2011003276: hot(4)})
    labels = load_labels(["2007_000032", "2011_003276"], tmp_path, tmp_path / "cls.npy")
    assert [label.nonzero()[0].tolist() for label in labels.values()] == [[3], [4]]


def test_all_photos_without_a_label_are_named_or_left_out(tmp_path):
    root = write_devkit(tmp_path / "VOC2012", {"a": (0,), "b": (), "c": (3,)})
    save_npy_dict(tmp_path / "cls.npy", {"c": hot()})
    with pytest.raises(UserError, match=r"^3 images cannot be used \(d, c, b\), the first: no label for d: "):
        load_labels("adcb", root, tmp_path / "cls.npy")
    with pytest.raises(UserError, match=r"^.*cls\.npy, c: a row of zeros names no class"):
        load_labels("ac", root, tmp_path / "cls.npy")
    failures = []
    assert list(load_labels("adcb", root, tmp_path / "cls.npy", failures)) == ["a"]
    assert [image_id for image_id, _ in failures] == ["d", "c", "b"]


def test_an_image_without_any_label_is_named_with_the_remedy(tmp_path):
    root = write_devkit(tmp_path / "VOC2012", {"a": (0,)})
    with pytest.raises(
        UserError, match=r"no label for c: .*cls.npy does not exist.*c\.xml; is the id right\? python voc12/prep"
    ):
        load_labels(["a", "c"], root, tmp_path / "cls.npy")
    save_npy_dict(tmp_path / "cls.npy", {"a": hot(5)})
    with pytest.raises(UserError, match=r"no label for c: .*cls.npy does not hold it.*python voc12/prepare.py"):
        load_labels(["c"], root, tmp_path / "cls.npy")
    with pytest.raises(UserError, match="no image id"):
        load_labels(["../c"], root, tmp_path / "cls.npy")


@pytest.mark.parametrize(
    ("value", "message"),
    [(np.zeros(21, np.float32), r"shape \(21,\)"), (hot(3) * 2, "zeros and ones"), (hot(3) * np.nan, "zeros and ones")],
)
def test_a_value_that_is_no_multi_hot_label_is_refused(tmp_path, value, message):
    save_npy_dict(tmp_path / "cls.npy", {"a": value})
    with pytest.raises(UserError, match=rf"cls.npy, a: .*{message}"):
        load_labels(["a"], tmp_path, tmp_path / "cls.npy")


def test_a_label_file_of_another_kind_is_answered_with_the_remedy(tmp_path):
    np.save(tmp_path / "cls.npy", np.zeros((6, 20), np.float32))
    with pytest.raises(UserError, match=r"cls\.npy is not a dict .*; .*prepare\.py .* for COCO; without it labels"):
        load_labels(["a"], tmp_path, tmp_path / "cls.npy")


def test_a_label_file_cannot_run_code(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    np.save(tmp_path / "cls.npy", np.array({"a": Bomb()}, object), allow_pickle=True)
    with pytest.raises(UserError, match=r"cls\.npy"):
        load_labels(["a"], tmp_path, tmp_path / "cls.npy")
    assert not (tmp_path / "ran").exists()
    assert b"mkdir" in pickle.dumps(Bomb())  # the file did ask for it


@pytest.mark.skipif(not (SHARED / "voc12_mini").exists(), reason="needs ../shared")
def test_labels_of_real_annotations_are_the_public_ones():
    root = SHARED / "voc12_mini/VOC2012"
    ids = sorted(path.stem for path in (root / "Annotations").iterdir())
    public = load_labels(ids, root, SHARED / "voc12_lists/cls_labels.npy")
    ours = load_labels(ids, root, root / "none.npy")
    assert len(ids) == 54
    assert all(np.array_equal(ours[i], public[i]) for i in ids)
    train_aug = read_image_list(SHARED / "voc12_lists/train_aug.txt")
    assert (
        sum(label[14] for label in load_labels(train_aug, root, SHARED / "voc12_lists/cls_labels.npy").values()) == 4155
    )
