"""Other classes than VOC's: classes.txt, labels.csv, photos in sub-folders, and the checkpoints that name their classes."""

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from own_dataset import draw, image_id, names
from voc12_devkit import contents, hot, write_voc_and_sbd, xml

from network import make_net
from network.weights import load_weights as load_caffe
from network.weights import load_weights
from tool.checkpoint import save_network
from tool.cli import UserError
from voc12 import prepare_photos
from voc12.classes import VOC, Classes
from voc12.folders import MANIFEST, PHOTO_ENDINGS, find_file, photos_below
from voc12.label_csv import read_label_csv
from voc12.labels import load_labels
from voc12.lists import read_classes, read_image_list, read_pairs
from voc12.prepare import main as prepare_voc

PETS = Classes(("cat", "Guinea pig"))


def root_with(folder: Path, text: str) -> Path:
    (folder / "classes.txt").write_text(text, encoding="utf-8")
    return folder


def test_a_root_without_the_file_is_voc(tmp_path):
    assert read_classes(tmp_path) is VOC and read_classes(None) is VOC
    assert read_classes(root_with(tmp_path, "\n".join(VOC.names))) is VOC
    assert VOC.options(num_classes=20) == {}


def test_line_n_is_label_n(tmp_path):
    classes = read_classes(root_with(tmp_path, "\ufeffcat\r\nGuinea pig  \r\n\r\n"))
    assert classes == PETS and classes.labels == ("background", "cat", "Guinea pig")
    assert [classes.index(name) for name in ("CAT", "guinea_pig", "guineapig", "sofa")] == [0, 1, 1, None]
    assert classes.options(num_classes=2) == {"class_names": ("cat", "Guinea pig"), "num_classes": 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n".join(names(255)), "classes.txt names 255 classes, where 1 to 254 are possible: in a label map 0 is"),
        ("\n".join(names(256)), "classes.txt names 256 classes, where 1 to 254 are possible"),
        ("cat\n\ndog", "classes.txt, line 2 is blank: line n names label n; remove it"),
        ("background\ncat", "classes.txt names background, which is label 0 and not listed: remove it"),
        ("cat\nC-at", "classes.txt names 'cat' and 'C-at', which labels could not tell apart: rename one of them"),
        ("cat;dog", "classes.txt: 'cat;dog' is no class name"),
        ("", "classes.txt is empty; write the name of one class on each line, without background"),
    ],
)
def test_each_fault_of_classes_txt(tmp_path, text, message):
    with pytest.raises(UserError) as error:
        read_classes(root_with(tmp_path, text))
    assert message in str(error.value)


def test_254_classes_are_possible(tmp_path):
    assert len(read_classes(root_with(tmp_path, "\n".join(names(254))))) == 254


def test_a_table_in_many_hands(tmp_path):
    """File names, folders of Windows as well, quotes, a class in each cell, several lines of a photo, none of its classes."""
    path = tmp_path / "t.csv"
    path.write_text('image_id, classes\n1.jpg,cat; dog\nin\\2.PNG,cat\n"a, b",cat,dog\n1,sofa\n3,\n')
    rows = [(2, "1", ["cat", "dog"]), (3, "2", ["cat"]), (4, "a, b", ["cat", "dog"]), (5, "1", ["sofa"]), (6, "3", [])]
    assert list(read_label_csv(path)) == rows
    path.write_text("id,dog")  # one photo named id, no header
    assert list(read_label_csv(path)) == [(1, "id", ["dog"])]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1;cat", "t.csv, line 1: '1;cat' has no comma; a line is 'id,class;class'"),
        ('1,"cat', "t.csv, line 1: unexpected end of data; a line is 'id,class;class'"),
        ("../1/..,cat", "t.csv, line 1: '..' is no image id"),
        ("", "t.csv is empty; write a line 'id,class;class' for each photo"),
    ],
)
def test_each_fault_of_a_table(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UserError) as error:
        list(read_label_csv(tmp_path / "t.csv"))
    assert message in str(error.value)


def test_labels_come_from_the_table_then_npy_then_xml(tmp_path, capsys):
    root_with(tmp_path, "cat\nGuinea pig")
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations/x.xml").write_text(xml(["GUINEA-PIG"]))
    assert load_labels(["x"], tmp_path)["x"].tolist() == [0, 1]
    np.save(tmp_path / "cls_labels.npy", {"x": np.array([1, 1], np.float32)})
    assert load_labels(["x"], tmp_path)["x"].tolist() == [1, 1]
    (tmp_path / "labels.csv").write_text("x,cat")
    assert load_labels(["x"], tmp_path)["x"].tolist() == [1, 0]
    assert capsys.readouterr().out.splitlines()[-1] == f"labels: 1 from {tmp_path / 'labels.csv'}"
    (tmp_path / "labels.csv").write_text("x,kat")
    message = r"labels.csv, line 1: unknown class name 'kat' \(did you mean cat\?\); the dataset's \(classes.txt\) are cat, Guinea"
    with pytest.raises(UserError, match=message):
        load_labels(["x"], tmp_path)
    (tmp_path / "classes.txt").unlink()
    (tmp_path / "labels.csv").write_text("x,couch")  # VOC's classes, in the same simple form
    assert np.array_equal(load_labels(["x"], tmp_path)["x"], hot(17))


def test_pairs_of_many_classes(tmp_path):
    (tmp_path / "p.txt").write_text("/JPEGImages/a.jpg /JPEGImages/b.jpg 253\n")
    assert read_pairs(tmp_path / "p.txt", Classes(tuple(names(254)))) == [("a", "b", 253)]
    with pytest.raises(UserError, match=r"line 1: class 253, where 0\.\.1 was expected"):
        read_pairs(tmp_path / "p.txt", PETS)


def test_photos_are_found_below(tmp_path):
    for name in ("x.jpg", "a/x.jpg", "a/y.JPEG", "b/c/z.png", "b/.hidden/w.jpg", "out/v.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "out" / MANIFEST).touch()  # results of a script
    (tmp_path / "b/circle").symlink_to(tmp_path)
    assert photos_below(tmp_path) == {"x": ["x.jpg", "a/x.jpg"], "y": ["a/y.JPEG"], "z": ["b/c/z.png"]}
    found = {i: find_file(tmp_path, i, PHOTO_ENDINGS).relative_to(tmp_path).as_posix() for i in "xyzw"}
    assert found == {"x": "x.jpg", "y": "a/y.JPEG", "z": "b/c/z.png", "w": "w.jpg"}  # the last one does not exist
    assert find_file(tmp_path, "z", (".png",)) == tmp_path / "z.png"  # masks and saliency lie flat


def prepare(folder: Path, *more: str) -> None:
    table = ("--labels", str(folder / "labels.csv"))
    prepare_photos.main(["--photos", str(folder / "in"), *table, "--out", str(folder / "root"), *more])


def test_from_a_folder_to_lists(tmp_path, capsys):
    root = draw(tmp_path, 3, 6) / "root"
    (tmp_path / "labels.csv").open("a").write("\nlost.jpg,Ding 00\n")
    prepare(tmp_path, "--epochs", "2")
    out = capsys.readouterr().out
    assert "photos and pairs per class:\n  ding 00                    4" in out.replace("DING", "ding")
    assert f"1 line of {tmp_path / 'labels.csv'} without a photo, left out: lost" in out
    command = out.splitlines()[-1].split()
    assert command[:6] == f"python train_EDAM_cls.py --voc12_root {root} --train_list {root}/EDAM_train.txt".split()
    assert command[-4:] == ["--warmup_steps", "0", "--session_name", "root"]
    assert (root / "classes.txt").read_text() == "DING 00\nDING 01\nDING 02\n"
    assert read_image_list(root / "train.txt") == sorted(image_id(n) for n in range(6))
    assert len(read_pairs(root / "EDAM_train.txt", read_classes(root))) == 6
    assert not (root / "with_mask.txt").exists()

    before = contents(root)
    shutil.copytree(tmp_path / "masks", root / "SegmentationClass")
    (root / "SegmentationClass" / f"{image_id(5)}.png").unlink()
    prepare(tmp_path, "--epochs", "2")
    assert "written" not in capsys.readouterr().out.replace("with_mask.txt: written", "")
    assert all(contents(root)[name] == data for name, data in before.items())
    assert read_image_list(root / "with_mask.txt") == [image_id(n) for n in range(5)]


def test_the_order_of_classes_txt_stays(tmp_path):
    draw(tmp_path, 3, 6)
    (tmp_path / "root").mkdir()
    root_with(tmp_path / "root", "ding 02\nding 00\nding 01\n")
    prepare(tmp_path)
    assert load_labels([image_id(0)], tmp_path / "root")[image_id(0)].tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            "class",
            "labels.csv, line 2: unknown class name 'DING 00' (did you mean ding 02?); the dataset's (classes.txt) are",
        ),
        ("unshown", "classes.txt: no photo to train on shows ding 03; label some, or take the name out of the file"),
        (
            "twice",
            "/in holds a/Foto ä, Nr 1.JPG and b/Foto ä, Nr 1.png: which is the photo Foto ä, Nr 1? Rename the others",
        ),
        ("none", "/in holds no photo (.jpg, .jpeg, .png)"),
        ("label", "labels.csv: no line is of a photo; a line is `id,class;class`"),
        ("link", "JPEGImages to "),
        ("many", "labels.csv names 255 classes, where 1 to 254 are possible"),
    ],
)
def test_each_fault_of_a_folder_of_photos(tmp_path, fault, message):
    root = draw(tmp_path, 3, 6) / "root"
    root.mkdir()
    if fault == "class":
        root_with(root, "ding 01\nding 02")
    elif fault == "unshown":
        root_with(root, "ding 00\nding 01\nding 02\nding 03\n")
    elif fault == "twice":
        shutil.copy(tmp_path / f"in/a/{image_id(1)}.JPG", tmp_path / f"in/b/{image_id(1)}.png")
    elif fault == "none":
        shutil.rmtree(tmp_path / "in")
        (tmp_path / "in").mkdir()
    elif fault == "label":
        (tmp_path / "labels.csv").write_text("other,cat")
    elif fault == "link":
        (root / "JPEGImages").mkdir()
    else:
        (tmp_path / "labels.csv").write_text("\n".join(f'"{image_id(0)}",{name}' for name in names(255)))
    with pytest.raises(UserError) as error:
        prepare(tmp_path)
    assert message in str(error.value)


def test_a_devkit_with_classes_of_its_own(tmp_path, capsys):
    """voc12/prepare.py keeps its lists beside it; of the masks, which have VOC's values, 7 and 15 are none of three classes."""
    root, _ = write_voc_and_sbd(tmp_path)
    root_with(root, "person\ncar\naeroplane\n")
    prepare_voc(["--voc12_root", str(root), "--epochs", "2"])
    out = capsys.readouterr().out
    assert "  4 masks with values other than 0..3 and 255: " in out and "SBD" not in out and "VOC 2012:" not in out
    assert "--train_list" in out.splitlines()[-1] and f"{root}/EDAM_train.txt" in out
    labels = load_labels(["2007_000001", "2007_000003"], root)
    assert [label.tolist() for label in labels.values()] == [[1, 0, 1], [0, 1, 0]]
    assert {c for *_, c in read_pairs(root / "EDAM_train.txt", read_classes(root))} <= {0, 1, 2}
    with pytest.raises(
        UserError, match=r"classes\.txt names other classes than VOC's: leave out --sbd_root and --download"
    ):
        prepare_voc(["--voc12_root", str(root), "--sbd_root", "x"])


def saved(path: Path, module: str, **options) -> Path:
    save_network(path, make_net(module, **options), 1)
    return path


def test_checkpoints_of_vocs_classes_stay_flat(tmp_path):
    net = make_net("tests.small_net")
    save_network(tmp_path / "a.pth", net, 1)
    torch.save({name: tensor.cpu() for name, tensor in net.state_dict().items()}, flat := io.BytesIO())
    assert (tmp_path / "a.pth").read_bytes() == flat.getvalue()


@pytest.mark.parametrize(
    ("module", "load", "counts"),
    [
        ("tests.small_net", load_weights, {"num_classes": 2}),
        ("tests.small_deeplab", load_caffe, {"num_labels": 3}),
    ],
)
def test_checkpoints_name_their_classes_and_others_are_refused(tmp_path, module, load, counts):
    pets, toys = PETS.options(**counts), Classes(("ball", "doll")).options(**counts)
    path = saved(tmp_path / "pets.pth", module, **pets)
    assert torch.load(path, weights_only=True)["classes"] == ["cat", "Guinea pig"]
    assert not load(make_net(module, **pets), path).missing
    twenty = {name: 20 + value - 2 for name, value in counts.items()}
    foreign = [
        (
            path,
            toys,
            "pets.pth is a network of the 2 classes cat, Guinea pig, this run has the 2 classes ball, doll: give",
        ),
        (path, {}, "pets.pth is a network of the 2 classes cat, Guinea pig, this run has VOC 2012's 20 classes: give"),
        (
            saved(tmp_path / "voc.pth", module),
            pets,
            "voc.pth is a network of VOC 2012's 20 classes, this run has the 2 classes",
        ),
        (
            saved(tmp_path / "20.pth", module, **Classes(tuple(names(20))).options(**twenty)),
            {},
            "20.pth is a network of the 20 classes Ding 00, Ding 01, Ding 02, Ding 03, Ding 04, Ding 05 and 14 more, this run",
        ),
    ]
    for file, options, message in foreign:
        with pytest.raises(UserError) as error:
            load(make_net(module, **options), file)
        assert message in str(error.value)
