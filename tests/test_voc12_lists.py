"""Image lists, pair lists and class names: every form that users have, and lines that are refused."""

import pytest
from own_dataset import names
from voc12_devkit import SHARED

from tool import VOID
from tool.cli import UserError
from voc12 import lists
from voc12.classes import CLASSES, LABELS, PALETTE, VOC, Classes
from voc12.lists import read_classes, read_image_list, read_mask_pairs, read_pairs

PAIR = "/JPEGImages/a.jpg /JPEGImages/b.jpg"


def test_image_list_in_all_its_forms(tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes(
        b"\xef\xbb\xbf/JPEGImages/2007_000032.jpg /SegmentationClassAug/2007_000032.png\r\n\r\n"
        b"JPEGImages/a.b-c.jpg\tSegmentationClass/a.b-c.png  \n  \n/JPEGImages/x.webp\n2008_1\n2008_1.JPG\n2008_1"
    )
    assert read_image_list(path) == ["2007_000032", "a.b-c", "x", "2008_1", "2008_1", "2008_1"]


@pytest.mark.parametrize(
    ("read", "good", "bad"),
    [
        *((read_image_list, "good", line) for line in ("/JPEGImages/../../x.jpg", "../../x", "/etc/passwd", "C:\\x")),
        *(
            (read_image_list, "good", line)
            for line in ("/JPEGImages/a/b.jpg", "..", "-flag", "a\tb", "x\0y", "x\u2028y")
        ),
        *((read_image_list, "good", line) for line in ("a.jpg b.png", "a.jpg /masks/b c.png", f"{PAIR} 3")),
        *((read_pairs, f"{PAIR} 3", line) for line in (PAIR, f"{PAIR} 20", f"{PAIR} -1", f"{PAIR} x")),
        (read_pairs, f"{PAIR} 3", "/JPEGImages/../a.jpg /JPEGImages/b.jpg 1"),
        *((read_mask_pairs, "im/a.jpg gt/a.png", line) for line in ("im/a.jpg", "a b c", "im/a.jpg gt/b.png")),
    ],
)
def test_line_of_another_form(tmp_path, read, good, bad):
    (tmp_path / "list.txt").write_bytes(f"{good}\n{bad}\n".encode())
    with pytest.raises(UserError, match=r"list\.txt, line 2"):
        read(tmp_path / "list.txt")


@pytest.mark.parametrize(
    ("data", "keyword"),
    [(None, "exist.*prepare"), (b"\n \n", "empty.*prepare"), ("été".encode("latin-1"), "UTF-8")],
)
def test_file_that_is_no_list(tmp_path, data, keyword):
    if data is not None:
        (tmp_path / "train_aug.txt").write_bytes(data)
    for read in (read_image_list, read_pairs):
        with pytest.raises(UserError, match=rf"train_aug\.txt.*{keyword}"):
            read(tmp_path / "train_aug.txt")


def test_pairs_are_read_as_written(tmp_path):
    pairs = [("2007_000032", "2007_000033", 0), ("a", "a", 253)]
    (tmp_path / "pairs.txt").write_text(lists.format_pairs(pairs))
    assert (tmp_path / "pairs.txt").read_bytes() == (
        b"/JPEGImages/2007_000032.jpg /JPEGImages/2007_000033.jpg 0\n/JPEGImages/a.jpg /JPEGImages/a.jpg 253\n"
    )
    assert read_pairs(tmp_path / "pairs.txt", Classes(tuple(names(254)))) == pairs


@pytest.mark.skipif(not (SHARED / "voc12_lists").exists(), reason="needs ../shared/voc12_lists")
@pytest.mark.parametrize(("name", "number"), [("train", 1464), ("val", 1449), ("train_aug", 10582), ("test", 1456)])
def test_public_lists_are_written_as_read(name, number):
    ids = read_image_list(path := SHARED / "voc12_lists" / f"{name}.txt")
    assert len(ids) == number
    assert lists.format_image_list(ids, with_mask=name != "test").encode() == path.read_bytes()


def test_names_and_colours_are_the_devkits():
    assert len(CLASSES) == 20 and sorted(CLASSES) == list(CLASSES)
    assert (LABELS[0], LABELS[1], LABELS[15], LABELS[20]) == ("background", "aeroplane", "person", "tvmonitor")
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 4: (0, 0, 128), 8: (64, 0, 0), 15: (192, 128, 128)}
    known |= {20: (0, 64, 128), VOID: (224, 224, 192)}
    assert {value: tuple(PALETTE[value].tolist()) for value in known} == known


def test_classes_of_a_root(tmp_path):
    assert read_classes(tmp_path) is VOC and read_classes(None) is VOC and VOC.options(num_classes=20) == {}
    (tmp_path / "classes.txt").write_text("\n".join(VOC.names))
    assert read_classes(tmp_path) is VOC
    (tmp_path / "classes.txt").write_bytes(b"\xef\xbb\xbfcat\r\nGuinea pig  \r\n\r\n")
    classes = read_classes(tmp_path)
    assert classes == Classes(("cat", "Guinea pig")) and classes.labels == ("background", "cat", "Guinea pig")
    assert [classes.index(name) for name in ("CAT", " guinea pig", "guinea_pig", "sofa")] == [0, 1, None, None]
    assert classes.options(num_classes=2) == {"class_names": ("cat", "Guinea pig"), "num_classes": 2}


@pytest.mark.parametrize(
    ("text", "keyword"),
    [
        *(("\n".join(names(255)), "254"), ("cat\n\ndog", "''"), ("background\ncat", "background"), ("", "empty")),
        *(("cat\nCAT", "CAT"), ("cat;dog", "cat;dog"), ("['cat']", "cat"), ("cat\nUnknown", "Unknown"), ("-", "-")),
    ],
)
def test_read_classes_rejects(tmp_path, text, keyword):
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(UserError, match=rf"classes\.txt.*{keyword}"):
        read_classes(tmp_path)
