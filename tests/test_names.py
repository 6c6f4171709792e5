"""Files, ids and classes under the names that people give them."""

import unicodedata

import numpy as np
import pytest
from voc12_devkit import contents, hot, mask, write_devkit, write_png, xml

from tool.cli import UserError
from voc12.classes import VOC
from voc12.dataset import Dataset, saliency_maps
from voc12.labels import read_annotation
from voc12.lists import read_image_list, read_pairs
from voc12.prepare import main as prepare


@pytest.mark.parametrize("name", ["a.png", "a_sal_fuse.png", "a.JPG", "a_Sal_Fuse.jpeg"])
def test_saliency_map_with_each_ending(tmp_path, name):
    (tmp_path / name).touch()
    assert saliency_maps(tmp_path).find("a") == tmp_path / name
    (tmp_path / "a.jpg").touch()
    with pytest.raises(UserError, match=r"a.* and a.* for a"):
        saliency_maps(tmp_path).find("a")


def test_class_names_in_each_spelling():
    names = ("AIRPLANE", "Dining_Table", "potted-plant", "TV", "cats")
    assert [VOC.index(name) for name in names] == [0, 10, 15, 19, None]


def test_foreign_class_suggests_the_nearest_or_is_ignored(tmp_path):
    root = write_devkit(tmp_path / "VOC2012", {"a": (0,), "b": (0,)}, ["a"], ["b"], own="ab")
    path = root / "Annotations/a.xml"
    path.write_text(xml(["airplane", "tvmonitr"]))
    with pytest.raises(UserError, match=r"a\.xml: .*'tvmonitr' \(did you mean tvmonitor\?\).*--ignore_foreign"):
        read_annotation(path)
    assert np.array_equal(Dataset(root, ignore_foreign=True).image_labels(["a"], "none.txt")["a"], hot(0))
    prepare(["--voc12_root", str(root), "--out_dir", str(tmp_path / "out"), "--ignore_foreign"])
    assert np.array_equal(np.load(tmp_path / "out/cls_labels.npy", allow_pickle=True).item()["a"], hot(0))


def test_prepare_of_a_devkit_with_such_names(tmp_path, capsys):
    """Signs, another script, accents in another normal form, endings in upper case, two photos of one name."""
    accents, signs, other = names = ["O'Brien & été", "[a] b+c 100%", "写真_01 (1)"]
    labels = {signs: (7,), accents: (7, 14), other: (14,), "c": (14,), "d": (7,)}
    root = write_devkit(tmp_path / "VOC2012", labels, [*names, "d"], ["c"], own=labels)
    for path in (root / f"JPEGImages/{signs}.jpg", root / "SegmentationClass/c.png", root / "Annotations/c.xml"):
        path.rename(path.with_suffix(path.suffix.upper()))
    photo = root / f"JPEGImages/{accents}.jpg"
    photo.rename(photo.with_name(unicodedata.normalize("NFD", photo.name)))
    (root / "JPEGImages/d.jpeg").touch()
    (root / "SegmentationClassAug").mkdir()
    for image_id in labels:
        write_png(root / f"SegmentationClassAug/{image_id}.png", mask(*labels[image_id]))
    before = contents(root)
    prepare(["--voc12_root", str(root), "--out_dir", str(tmp_path / "out")])
    assert contents(root) == before
    assert "without exactly one photo, left out: d" in capsys.readouterr().out
    assert read_image_list(tmp_path / "out/train_aug.txt") == names
    assert {image_id for pair in read_pairs(tmp_path / "out/EDAM_train.txt") for image_id in pair[:2]} == set(names)
