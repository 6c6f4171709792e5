"""Files, ids and classes under the names that people give them."""

import unicodedata

import numpy as np
import pytest
from voc12_devkit import contents, hot, mask, write_devkit, write_png, xml

from tool.cli import UserError
from voc12.classes import VOC
from voc12.dataset import Dataset, photos, saliency_maps
from voc12.labels import read_annotation
from voc12.lists import format_image_list, format_pairs, read_image_list, read_pairs, write_text
from voc12.prepare import main as prepare


@pytest.mark.parametrize("name", ["a.png", "a_sal_fuse.png", "a.JPG", "a_Sal_Fuse.jpeg"])
def test_saliency_map_with_each_ending(tmp_path, name):
    (tmp_path / name).touch()
    assert saliency_maps(tmp_path).find("a") == tmp_path / name
    (tmp_path / "a.jpg").touch()
    with pytest.raises(UserError, match=r"a.* and a.* for a"):
        saliency_maps(tmp_path).find("a")


def test_accents_in_either_normal_form(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "été") for form in ("NFC", "NFD"))
    for stored, asked in ((composed, decomposed), (decomposed, composed)):
        path = tmp_path / f"{stored}.jpg"
        path.touch()
        assert photos(tmp_path).find(asked) == path
        path.unlink()


@pytest.mark.parametrize("image_id", ["my photo (1)", "[a] b+c", "写真_01", "O'Brien & co", "a.b-c", "100%"])
def test_ids_in_lists_and_pairs(tmp_path, image_id):
    forms = ["/JPEGImages/{}.jpg /SegmentationClassAug/{}.png", "JPEGImages/{}.JPG", "{}.jpeg", "{}", "{}.jpg  {}.PNG"]
    (tmp_path / "list.txt").write_text("".join(f"{form.format(image_id, image_id)}\n" for form in forms), "utf-8")
    assert read_image_list(tmp_path / "list.txt") == [image_id] * len(forms)
    write_text(tmp_path / "new.txt", format_image_list([image_id]))
    assert read_image_list(tmp_path / "new.txt") == [image_id]
    pairs = [(image_id, "b", 3), (image_id, image_id, 19)]
    write_text(tmp_path / "pairs.txt", format_pairs(pairs))
    assert read_pairs(tmp_path / "pairs.txt") == pairs


@pytest.mark.parametrize(
    ("name", "index"), [("AIRPLANE", 0), ("Dining_Table", 10), ("potted-plant", 15), ("TV", 19), ("cats", None)]
)
def test_class_names_in_each_spelling(tmp_path, name, index):
    assert VOC.index(name) == index
    if index is not None:
        (tmp_path / "a.xml").write_text(xml([f" {name} "]))
        assert np.array_equal(read_annotation(tmp_path / "a.xml"), hot(index))


def test_foreign_class_suggests_the_nearest(tmp_path):
    path = tmp_path / "a.xml"
    path.write_text(xml(["cat", "tvmonitr"]))
    with pytest.raises(UserError, match=r"a\.xml: .*'tvmonitr' \(did you mean tvmonitor\?\).*--ignore_foreign"):
        read_annotation(path)
    assert np.array_equal(read_annotation(path, ignore_foreign=True), hot(7))
    path.write_text(xml(["zebra"]))
    with pytest.raises(UserError, match=r"a\.xml"):
        read_annotation(path, ignore_foreign=True)


def test_ignore_foreign_of_each_script(tmp_path, commands):
    root = write_devkit(tmp_path / "VOC2012", {"a": (0,), "b": (0,)}, ["a"], ["b"], own="ab")
    (root / "Annotations/a.xml").write_text(xml(["zebra", "airplane"]))
    assert np.array_equal(Dataset(root, ignore_foreign=True).image_labels(["a"], "none.txt")["a"], hot(0))
    prepare(["--voc12_root", str(root), "--out_dir", str(tmp_path / "out"), "--ignore_foreign"])
    assert np.array_equal(np.load(tmp_path / "out/cls_labels.npy", allow_pickle=True).item()["a"], hot(0))
    flags = ("--voc12_root", root, "--image_list", root / "ImageSets/Segmentation/train.txt", "--out", "pairs.txt")
    assert "'zebra'" in commands.run(tmp_path, "voc12/pairs.py", *flags, status=1).stderr[0]
    commands.run(tmp_path, "voc12/pairs.py", *flags, "--ignore_foreign")


def test_prepare_of_a_devkit_with_such_names(tmp_path, capsys):
    labels = {"my photo (1)": (7,), "été": (7, 14), "c": (14,), "d": (7,)}
    root = write_devkit(tmp_path / "VOC2012", labels, ["my photo (1)", "été", "d"], ["c"], own=labels)
    for path in (root / "JPEGImages/my photo (1).jpg", root / "SegmentationClass/c.png", root / "Annotations/c.xml"):
        path.rename(path.with_suffix(path.suffix.upper()))
    (root / "JPEGImages/d.jpeg").touch()
    (root / "SegmentationClassAug").mkdir()
    for image_id in labels:
        write_png(root / f"SegmentationClassAug/{image_id}.png", mask(*labels[image_id]))
    before = contents(root)
    prepare(["--voc12_root", str(root), "--out_dir", str(tmp_path / "out")])
    assert contents(root) == before
    assert "without exactly one photo, left out: d" in capsys.readouterr().out
    assert read_image_list(tmp_path / "out/train_aug.txt") == ["my photo (1)", "été"]
    both = {("my photo (1)", "été"), ("été", "my photo (1)")}
    assert {pair[:2] for pair in read_pairs(tmp_path / "out/EDAM_train.txt")} <= both
