"""Image lists and pair lists: every form that users have, and lines that must be refused."""

import pytest
from voc12_devkit import SHARED

from tool.cli import UserError
from voc12.lists import check_id, format_image_list, format_pairs, photo_path, read_image_list, read_pairs, write_text


def test_image_list_in_all_its_forms(tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes(
        b"\xef\xbb\xbf/JPEGImages/2007_000032.jpg /SegmentationClassAug/2007_000032.png\r\n\r\n"
        b"JPEGImages/a.b-c.jpg\tSegmentationClass/a.b-c.png  \n  \n/JPEGImages/x.jpg\n2008_1\n2008_1.jpg\n2008_1"
    )
    assert read_image_list(path) == ["2007_000032", "a.b-c", "x", "2008_1", "2008_1", "2008_1"]


@pytest.mark.parametrize(
    "line",
    [
        "/JPEGImages/../../x.jpg",
        "../../x",
        "/etc/passwd",
        "/JPEGImages/a/b.jpg",
        "..",
        ".hidden",
        "a..b",
        "C:\\x",
        "2007_000032 -1",
        "2007_000032  1",
        "a\tb",
        "-flag",
        "a.jpg b.png",
        "a.jpg /masks/b c.png",
        "x\0y",
        "x\u202ey",
        "x\u2028y",
        "é" * 101,
    ],
)
def test_a_line_that_is_no_image_is_refused_with_its_number(tmp_path, line):
    path = tmp_path / "list.txt"
    path.write_bytes(f"good\n{line}\n".encode())
    with pytest.raises(UserError, match="line 2"):
        read_image_list(path)


def test_a_pair_list_is_told_from_an_image_list(tmp_path):
    (tmp_path / "pairs.txt").write_text("/JPEGImages/a.jpg /JPEGImages/b.jpg 3\n")
    with pytest.raises(
        UserError, match=r"line 1: .*; it is a pair list, made for training: give an image list, such as"
    ):
        read_image_list(tmp_path / "pairs.txt")
    (tmp_path / "list.txt").write_text("/JPEGImages/a.jpg /SegmentationClassAug/a.png\n")
    with pytest.raises(UserError, match=r"line 1: .* is no pair .*voc12/pairs\.py makes one of an image list"):
        read_pairs(tmp_path / "list.txt")


def test_photo_and_mask_of_different_images_are_refused(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("/JPEGImages/a.jpg /SegmentationClassAug/b.png\n")
    with pytest.raises(UserError, match="photo a and mask b"):
        read_image_list(path)


def test_missing_empty_and_binary_lists_are_named(tmp_path):
    path = tmp_path / "train_aug.txt"
    for read in (read_image_list, read_pairs):
        path.unlink(missing_ok=True)
        with pytest.raises(UserError, match=r"train_aug.txt does not exist; python voc12/prepare.py .* for COCO$"):
            read(path)
        path.write_text("\n \n")
        with pytest.raises(UserError, match=r"train_aug.txt is empty; python voc12/prepare.py"):
            read(path)
        path.write_bytes(b"\x89PNG\r\n\xff\xfe")
        with pytest.raises(UserError, match="is not a text file"):
            read(path)
        with pytest.raises(UserError, match="is a folder: name a text file"):
            read(tmp_path)


def test_pairs_are_read_back_as_written(tmp_path):
    pairs = [("2007_000032", "2007_000033", 0), ("a", "a", 19)]
    assert write_text(tmp_path / "pairs.txt", format_pairs(pairs)) is True
    assert (tmp_path / "pairs.txt").read_bytes() == (
        b"/JPEGImages/2007_000032.jpg /JPEGImages/2007_000033.jpg 0\n/JPEGImages/a.jpg /JPEGImages/a.jpg 19\n"
    )
    assert read_pairs(tmp_path / "pairs.txt") == pairs


@pytest.mark.parametrize(
    "line",
    [
        "/JPEGImages/a.jpg /JPEGImages/b.jpg",
        "/JPEGImages/a.jpg /JPEGImages/b.jpg 20",
        "/JPEGImages/a.jpg /JPEGImages/b.jpg -1",
        "/JPEGImages/a.jpg /JPEGImages/b.jpg x",
        "/JPEGImages/../a.jpg /JPEGImages/b.jpg 1",
        "/JPEGImages/a.jpg /SegmentationClassAug/a.png",
    ],
)
def test_a_line_that_is_no_pair_is_refused_with_its_number(tmp_path, line):
    (tmp_path / "pairs.txt").write_text(f"/JPEGImages/a.jpg /JPEGImages/b.jpg 3\n{line}\n")
    with pytest.raises(UserError, match="line 2"):
        read_pairs(tmp_path / "pairs.txt")


def test_an_equal_file_is_not_written_again(tmp_path):
    path = tmp_path / "list.txt"
    text = format_image_list(["a"])
    assert text == "/JPEGImages/a.jpg /SegmentationClassAug/a.png\n"
    assert write_text(path, text) is True
    before = path.stat().st_ino
    assert write_text(path, text) is False
    assert path.stat().st_ino == before
    assert write_text(path, format_image_list(["a"], with_mask=False)) is True
    assert path.read_bytes() == b"/JPEGImages/a.jpg\n"


def test_ids_stay_inside_their_folder(tmp_path):
    assert photo_path(tmp_path, "2007_000032") == tmp_path / "JPEGImages/2007_000032.jpg"
    for bad in ("../x", "a/b", "", ".", "a\n", "x" * 201):
        with pytest.raises(UserError, match="no image id"):
            check_id(bad, "here")
        with pytest.raises(UserError, match="no image id"):
            photo_path(tmp_path, bad)


@pytest.mark.skipif(not (SHARED / "voc12_lists").exists(), reason="needs ../shared/voc12_lists")
@pytest.mark.parametrize(("name", "number"), [("train", 1464), ("val", 1449), ("train_aug", 10582), ("test", 1456)])
def test_public_lists_are_read_and_written_back_to_the_byte(name, number):
    path = SHARED / "voc12_lists" / f"{name}.txt"
    ids = read_image_list(path)
    assert len(ids) == number
    assert format_image_list(ids, with_mask=name != "test").encode() == path.read_bytes()
