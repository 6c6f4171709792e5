"""Photos, masks and saliency under the names that people give them; ids, class names and encodings."""

import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from voc12_devkit import contents, hot, mask, write_devkit, write_png, xml

from pseudo_label.jobs import read_saliency
from tool.cli import UserError
from tool.files import save_npy_dict
from voc12 import folders
from voc12.classes import VOC
from voc12.folders import LABEL_ENDINGS, PHOTO_ENDINGS, SALIENCY_ENDINGS, find_file
from voc12.labels import load_labels, read_annotation
from voc12.lists import check_id, format_image_list, format_pairs, photo_path, read_image_list, read_pairs, write_text
from voc12.prepare import main as prepare

IDS = ["my photo (1)", "[a] b+c", "été", "写真_01", "O'Brien & co", "a.b-c", "2007_000032", "photo 1", "100%"]


@pytest.mark.parametrize("name", ["a.jpg", "a.JPG", "a.jpeg", "a.JPEG", "a.png", "a.Png"])
def test_a_photo_is_found_whatever_its_ending(tmp_path, name):
    (tmp_path / "JPEGImages").mkdir()
    (tmp_path / "JPEGImages" / name).write_bytes(b"")
    (tmp_path / "JPEGImages/a.txt").write_bytes(b"")
    (tmp_path / "JPEGImages/.a.jpg").write_bytes(b"")
    (tmp_path / "JPEGImages/aa.jpg").write_bytes(b"")
    assert photo_path(tmp_path, "a") == tmp_path / "JPEGImages" / name


def test_two_photos_of_one_id_are_both_named(tmp_path):
    root = write_devkit(tmp_path, {"a": (0,), "b": (0,)})
    (root / "JPEGImages/a.PNG").write_bytes(b"")
    with pytest.raises(UserError, match=r"JPEGImages holds a\.PNG and a\.jpg: which is a\? Move the others elsewhere"):
        photo_path(root, "a")
    assert photo_path(root, "b").name == "b.jpg"
    (root / "JPEGImages/a.PNG").unlink()
    assert photo_path(root, "a").name == "a.jpg"  # the folder is looked at again


def test_a_folder_of_the_future_is_listed_once(tmp_path, monkeypatch):
    (tmp_path / "a.jpg").write_bytes(b"")
    os.utime(tmp_path, (2**32, 2**32))
    listed = []
    listdir = os.listdir
    monkeypatch.setattr(folders.os, "listdir", lambda folder: listed.append(folder) or listdir(folder))
    for _ in range(5):
        assert find_file(tmp_path, "a", PHOTO_ENDINGS).name == "a.jpg"
    assert len(listed) == 1


def test_a_folder_is_listed_once_and_again_after_a_change(tmp_path, monkeypatch):
    (tmp_path / "a.jpg").write_bytes(b"")
    os.utime(tmp_path, (1000, 1000))
    listed = []
    listdir = os.listdir
    monkeypatch.setattr(folders.os, "listdir", lambda folder: listed.append(folder) or listdir(folder))
    for _ in range(5):
        assert find_file(tmp_path, "a", PHOTO_ENDINGS).name == "a.jpg"
    assert len(listed) == 1
    (tmp_path / "b.JPG").write_bytes(b"")
    for _ in range(3):
        assert find_file(tmp_path, "b", PHOTO_ENDINGS).name == "b.JPG"
    assert len(listed) == 4  # it changed a moment ago: it may again, within one tick of the file system's clock


@pytest.mark.parametrize("name", ["a.png", "a_sal_fuse.png", "a.JPG", "a_sal_fuse.jpeg", "a_Sal_Fuse.PNG"])
def test_saliency_is_found_under_the_names_it_is_given(tmp_path, name):
    grey = np.full((8, 16), 200, np.uint8)
    Image.fromarray(grey).save(tmp_path / name)
    assert np.abs(read_saliency(tmp_path, "a", (8, 16)).astype(int) - 200).max() <= 1
    Image.fromarray(grey).save(tmp_path / ("a.jpg" if name != "a.jpg" else "a.png"))
    with pytest.raises(UserError, match=r"holds a.* and a.*: which is a\?"):
        read_saliency(tmp_path, "a", (8, 16))


def test_a_missing_file_is_named_as_expected(tmp_path):
    assert find_file(tmp_path, "a", SALIENCY_ENDINGS) == tmp_path / "a.png"
    assert find_file(tmp_path / "none", "a", PHOTO_ENDINGS) == tmp_path / "none/a.jpg"
    assert find_file(tmp_path, "a", LABEL_ENDINGS) == tmp_path / "a.png"


def test_letters_with_accents_in_either_spelling(tmp_path):
    composed, apart = (unicodedata.normalize(form, "été") for form in ("NFC", "NFD"))
    assert composed != apart
    for stored, asked in ((composed, apart), (apart, composed)):
        path = tmp_path / f"{stored}.jpg"
        path.write_bytes(b"")
        assert find_file(tmp_path, asked, PHOTO_ENDINGS) == path
        path.unlink()


@pytest.mark.parametrize("image_id", IDS)
def test_ids_that_are_safe(tmp_path, image_id):
    assert check_id(image_id, "here") == image_id
    forms = [
        "/JPEGImages/{}.jpg /SegmentationClassAug/{}.png",
        "JPEGImages/{}.JPG",
        "{}.jpeg",
        "{}.png\t{}.png",
        "{}",
        "{}.jpg  {}.PNG",
    ]
    (tmp_path / "list.txt").write_text("".join(f"{form.format(image_id, image_id)}\n" for form in forms), "utf-8")
    assert read_image_list(tmp_path / "list.txt") == [image_id] * len(forms)
    write_text(tmp_path / "new.txt", format_image_list([image_id]))
    assert read_image_list(tmp_path / "new.txt") == [image_id]
    pairs = [(image_id, "b", 3), (image_id, image_id, 19)]
    write_text(tmp_path / "pairs.txt", format_pairs(pairs))
    assert read_pairs(tmp_path / "pairs.txt") == pairs


@pytest.mark.parametrize(
    "image_id",
    [
        "",
        " a",
        "a ",
        "a/b",
        "a\\b",
        "..",
        "a..b",
        ".a",
        "-a",
        "a.",
        "a\n",
        "a\tb",
        "a\0",
        "\u202ea",
        "a\u200b",
        "\ud800",
        "é" * 101,
        "a" * 201,
    ],
)
def test_ids_that_are_not(image_id):
    with pytest.raises(
        UserError, match=r"^here: .* is no image id \(up to 200 bytes of printable characters and blanks; no '/'"
    ):
        check_id(image_id, "here")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_lists_in_unicode(tmp_path, encoding):
    data = "été\r\n2007_000032\r\n".encode(encoding)
    (tmp_path / "list.txt").write_bytes({"utf-16-le": b"\xff\xfe", "utf-16-be": b"\xfe\xff"}.get(encoding, b"") + data)
    assert read_image_list(tmp_path / "list.txt") == ["été", "2007_000032"]


def test_other_encodings_of_lists_are_told(tmp_path):
    (tmp_path / "list.txt").write_bytes("été\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"list\.txt is not a text file in UTF-8 or UTF-16; save it as UTF-8"):
        read_image_list(tmp_path / "list.txt")
    for encoding in ("utf-16-le", "utf-16-be"):  # nothing says so, but its zero bytes do
        (tmp_path / "list.txt").write_bytes("abc\n".encode(encoding))
        assert read_image_list(tmp_path / "list.txt") == ["abc"]


@pytest.mark.parametrize(
    ("name", "index"),
    [
        *(("aeroplane", 0), ("Aeroplane", 0), ("airplane", 0), ("AIRPLANE", 0), ("Cat", 7), ("dining table", 10)),
        *(("Dining_Table", 10), ("motorcycle", 13), ("potted plant", 15), ("potted-plant", 15), ("couch", 17)),
        *(("tv", 19), ("TV", 19), ("tv monitor", 19), ("tv/monitor", 19), ("tvmonitor", 19)),
        *(("unicorn", None), ("", None), ("cats", None), ("aero", None)),
    ],
)
def test_class_names_in_every_spelling(tmp_path, name, index):
    assert VOC.index(name) == index
    if index is not None:
        (tmp_path / "a.xml").write_text(xml([f" {name} "]))
        assert np.array_equal(read_annotation(tmp_path / "a.xml"), hot(index))


def test_a_foreign_class_is_answered_with_the_nearest_and_the_list(tmp_path):
    path = tmp_path / "a.xml"
    path.write_text(xml(["cat", "tvmonitr"]))
    with pytest.raises(UserError) as error:
        read_annotation(path)
    assert str(error.value).startswith(
        f"annotation {path}: unknown class name 'tvmonitr' (did you mean tvmonitor?); VOC's are aeroplane, bicycle, bird, "
    )
    assert str(error.value).endswith("tvmonitor; --ignore_foreign leaves objects of other classes out")
    assert np.array_equal(read_annotation(path, ignore_foreign=True), hot(7))
    path.write_text(xml(["zebra"]))
    with pytest.raises(UserError, match="names no class: its objects are of other classes than VOC's 20"):
        read_annotation(path, ignore_foreign=True)
    with pytest.raises(UserError, match=r"unknown class name 'zebra'(?! \(did)"):
        read_annotation(path)


def test_every_script_that_reads_labels_can_leave_foreign_classes_out(tmp_path, capsys, commands):
    root = write_devkit(tmp_path / "VOC2012", {"a": (0,), "b": (0,)}, ["a"], ["b"], own="ab")
    (root / "Annotations/a.xml").write_text(xml(["zebra", "airplane"]))
    assert np.array_equal(load_labels("a", root, "none.npy", ignore_foreign=True)["a"], hot(0))
    prepare(["--voc12_root", str(root), "--out_dir", str(tmp_path / "out"), "--ignore_foreign"])
    assert np.array_equal(np.load(tmp_path / "out/cls_labels.npy", allow_pickle=True).item()["a"], hot(0))
    flags = ("--voc12_root", root, "--image_list", root / "ImageSets/Segmentation/train.txt", "--out", "pairs.txt")
    assert "'zebra'" in commands.run(tmp_path, "voc12/pairs.py", *flags, status=1).stderr[0]
    commands.run(tmp_path, "voc12/pairs.py", *flags, "--ignore_foreign")
    for script in ("train_EDAM_cls.py", "infer_cls.py", "experiment/baselines.py"):
        assert "--ignore_foreign" in commands.run(tmp_path, script, "--help").stdout


@pytest.mark.parametrize(
    ("encoding", "declared"),
    [
        *(("latin-1", "ISO-8859-1"), ("cp1252", "windows-1252"), ("utf-16", "UTF-16"), ("utf-16-le", "utf-16")),
        *(("utf-16-be", "UTF-16"), ("utf-8", "utf8"), ("utf-8-sig", "UTF-8"), ("utf-8", "utf-16"), ("gb18030", "GBK")),
        ("utf-8", None),
    ],
)
def test_xml_in_its_declared_encoding(tmp_path, encoding, declared):
    head = f"<?xml version='1.0' encoding='{declared}'?>\n" if declared else ""
    text = f"{head}<annotation><folder>été</folder><object><name>cat</name></object></annotation>"
    (tmp_path / "a.xml").write_bytes(text.encode(encoding))
    assert np.array_equal(read_annotation(tmp_path / "a.xml"), hot(7))
    (tmp_path / "a.xml").write_bytes(text.replace("<annotation>", "<!DOCTYPE a><annotation>").encode(encoding))
    with pytest.raises(UserError, match="document type"):
        read_annotation(tmp_path / "a.xml")


@pytest.mark.parametrize("declared", ["punycode", "idna", "unicode_escape", "utf-7", "hex", "nonsense"])
def test_encodings_that_no_xml_has_are_refused(tmp_path, declared):
    (tmp_path / "a.xml").write_text(f"<?xml version='1.0' encoding='{declared}'?>{xml(['cat'])}")
    with pytest.raises(UserError, match=rf"a\.xml is damaged: unknown encoding '{declared}'"):
        read_annotation(tmp_path / "a.xml")


def rename(path: Path, name: str) -> None:
    path.rename(path.with_name(name))


def test_preparing_a_devkit_of_such_names(tmp_path, capsys):
    labels = {"my photo (1)": (7,), "été": (7, 14), "c": (14,), "d": (7,)}
    root = write_devkit(tmp_path / "VOC2012", labels, ["my photo (1)", "été", "d"], ["c"], own=labels)
    rename(root / "JPEGImages/my photo (1).jpg", "my photo (1).JPG")
    Image.new("RGB", (16, 12)).save(root / "JPEGImages/été.png")
    (root / "JPEGImages/été.jpg").unlink()
    rename(root / "SegmentationClass/c.png", "c.PNG")
    rename(root / "Annotations/c.xml", "c.XML")
    (root / "JPEGImages/d.jpeg").write_bytes(b"")
    (root / "SegmentationClassAug").mkdir()
    for image_id in labels:
        write_png(root / f"SegmentationClassAug/{image_id}.png", mask(*labels[image_id]))
    before = contents(root)
    prepare(["--voc12_root", str(root), "--out_dir", str(tmp_path / "out")])
    assert contents(root) == before
    said = capsys.readouterr().out
    assert "  1 image with more than one file, left out: " in said and "d.jpeg and d.jpg" in said
    assert "  1 image of train.txt without a photo, left out: d\n" in said
    assert read_image_list(tmp_path / "out/train_aug.txt") == ["my photo (1)", "été"]
    assert {pair[:2] for pair in read_pairs(tmp_path / "out/EDAM_train.txt")} <= {
        ("my photo (1)", "été"),
        ("été", "my photo (1)"),
    }
    assert "photos that cannot be read" not in said and "labels and masks agree on 4 of 4" not in said


def test_an_empty_file_of_labels_is_not_called_missing(tmp_path):
    save_npy_dict(tmp_path / "cls.npy", {})
    with pytest.raises(UserError, match=r"no label for a: .*cls\.npy does not hold it"):
        load_labels("a", tmp_path, tmp_path / "cls.npy")
    (tmp_path / "a.xml").write_bytes(b"")
    with pytest.raises(UserError, match=r"annotation .*a\.xml is empty: copy or make it again"):
        read_annotation(tmp_path / "a.xml")


def test_preparing_does_not_advise_to_run_itself(tmp_path):
    root = write_devkit(tmp_path / "VOC2012", {"a": (0,)}, ["a"], [], own="a")
    with pytest.raises(UserError, match=r"val\.txt is empty; it comes with the devkit: unpack that again$"):
        prepare(["--voc12_root", str(root), "--out_dir", str(tmp_path / "out")])
