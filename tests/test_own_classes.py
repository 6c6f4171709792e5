"""From a folder of own photos and a table of labels to a dataset; checkpoints that name their classes."""

import shlex
import shutil
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from own_dataset import draw, image_id, names
from PIL import Image
from voc12_devkit import REPO, contents, write_voc_and_sbd

import infer_cls
import train_deeplab
from network import make_net
from network.weights import load_weights
from tests import small_deeplab
from tool.checkpoint import save_network
from tool.cli import UserError
from voc12 import prepare_photos
from voc12.classes import Classes
from voc12.dataset import Dataset
from voc12.labels import read_label_csv
from voc12.lists import read_image_list
from voc12.prepare import main as prepare_voc

PETS = Classes(("cat", "Guinea pig"))
ROOT = Path("root")
WEIGHTS = "ilsvrc-cls_rna-a1_cls1000_ep-0001.params"


@pytest.fixture(autouse=True)
def inside(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


def prepare(*more: str, labels: str | None = "labels.csv") -> None:
    prepare_photos.main(["--photos", "in", "--out", "root", *(["--labels", labels] if labels else []), *more])


def write_photos(*paths: str, table: str = "") -> None:
    """Write photos of these names to `in`, and the lines of labels.csv."""
    for path in paths:
        (Path("in") / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20)).save(Path("in") / path, "PNG")
    Path("labels.csv").write_text(f"photo,classes\n{table}")


def test_from_a_folder_to_lists(capsys):
    draw(Path(), 3, 6)
    rows = Path("labels.csv").read_text(encoding="utf-8")
    Path("labels.csv").write_text(f'{rows}\nlost.jpg,Ding 00\n"{image_id(0)}",N/A\n', encoding="utf-8")
    for name in ("a/1.gif", "2.GIF", "3.heic", "4.avif"):
        (Path("in") / name).touch()
    prepare("--epochs", "2")
    out, err = capsys.readouterr()
    assert "labels.csv without a photo" in out and "lost" in out and f"N/A ({image_id(0)})" in out
    assert len(err.splitlines()) == 1 and "in: 2 .gif, 1 .avif, 1 .heic" in err
    command = out.splitlines()[-1].split()
    assert command[2:6] == ["--voc12_root", "root", "--train_list", "root/EDAM_train.txt"]
    assert command[-6:] == ["--weights", WEIGHTS, "--warmup_steps", "0", "--session_name", "root"]
    assert "--weights: the ImageNet ResNet-38" in out and "without it, from random weights" in out
    assert (ROOT / "classes.txt").read_text() == "DING 00\nDING 01\nDING 02\n"
    assert read_image_list(ROOT / "train.txt") == sorted(image_id(n) for n in range(6))
    assert len(Dataset(ROOT).read_pairs(ROOT / "EDAM_train.txt")) == 6

    before = contents(ROOT)
    shutil.copytree("masks", ROOT / "SegmentationClass")
    (ROOT / "SegmentationClass" / f"{image_id(5)}.png").unlink()
    prepare("--epochs", "2")
    assert all(contents(ROOT)[name] == data for name, data in before.items())
    assert read_image_list(ROOT / "with_mask.txt") == [image_id(n) for n in range(5)]
    (ROOT / "classes.txt").write_text("ding 02\nding 00\nding 01\n")  # another order, which is kept
    prepare()
    assert Dataset(ROOT).image_labels([image_id(0)], "train.txt")[image_id(0)].tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("path", "text", "keyword"),
    [
        ("root/classes.txt", "ding 01\nding 02", r"labels\.csv, line 2.*'DING 00' \(did you mean ding 02\?\)"),
        ("root/classes.txt", "ding 00\nding 01\nding 02\nding 03\n", r"classes\.txt.*ding 03"),
        (f"in/a/{image_id(1)}.png", "", f"{image_id(1)}.JPG.*{image_id(1)}.png"),
        ("root/JPEGImages/x", "", "JPEGImages"),
        ("labels.csv", "other,cat", r"labels\.csv.*names no photo"),
        ("labels.csv", "\n".join(f'"{image_id(0)}",{name}' for name in names(255)), r"labels\.csv.*255 classes"),
    ],
)
def test_folder_of_photos_with_a_fault(path, text, keyword):
    draw(Path(), 3, 6)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)
    with pytest.raises(UserError, match=keyword):
        prepare()


def test_folder_for_each_class(capsys):
    write_photos("cat/001.jpg", "cat/002.jpg", "7/001.jpg", "x/7/003.jpg", "004.jpg", "unknown/005.jpg")
    prepare(labels="folders")
    out = capsys.readouterr().out
    rows = {image_id: names for _, image_id, names in read_label_csv("root/labels.csv", classes_known=True)}
    assert rows == {"cat_001": ["cat"], "7_001": ["7"], "002": ["cat"], "003": ["7"], "004": [], "005": []}
    assert "004" in out and "unknown (005)" in out and (ROOT / "classes.txt").read_text() == "7\ncat\n"
    assert Dataset(ROOT).photos.find("7_001") == ROOT / "JPEGImages/7/001.jpg"
    assert read_image_list(ROOT / "train.txt") == ["002", "003", "7_001", "cat_001"]
    command = shlex.split(out.splitlines()[-1])
    assert Path(command[1]).samefile(REPO / "train_EDAM_cls.py") and Path(command[5]).exists()
    before = contents(ROOT)
    for labels in ("folders", "root/labels.csv"):
        prepare(labels=labels)
        assert contents(ROOT) == before


def test_table_of_equal_names():
    write_photos("cat/001.jpg", "dog/001.jpg", "dog/2.jpg.jpg", table="001.jpg,cat\n")
    with pytest.raises(UserError, match=r"labels\.csv, line 2.*--labels folders"):
        prepare()
    assert not (ROOT / "labels.csv").exists()
    write_photos(table="cat/001.jpg,cat\ndog\\001.jpg,dog\n2.jpg.jpg,dog\n")
    prepare()
    assert read_image_list(ROOT / "train.txt") == ["2.jpg", "cat_001", "dog_001"]


def test_most_photos_without_a_class():
    write_photos("0.jpg", "1.jpg", "2.jpg", "3.jpg", table="0.jpg,cat\n")
    with pytest.raises(UserError, match=r"labels\.csv.*3 of 4.*--accept_labels"):
        prepare()
    assert not (ROOT / "classes.txt").exists()
    prepare("--accept_labels")
    assert read_image_list(ROOT / "train.txt") == ["0"]
    with pytest.raises(UserError, match="3 of 4"):
        prepare(labels=None)  # those in root


def test_names_that_differ_in_signs():
    lines = "0.jpg,vitamin A+\n1.jpg,vitamin A-\n2.jpg,size 1-2\n3.jpg,size 12\n4.jpg,Size 12 \n"
    write_photos(*(f"{n}.jpg" for n in range(5)), table=lines)
    prepare()
    assert (ROOT / "classes.txt").read_text() == "size 1-2\nsize 12\nvitamin A+\nvitamin A-\n"
    labels = Dataset(ROOT).image_labels("01234", "train.txt")
    assert [label.argmax() for label in labels.values()] == [2, 3, 0, 1, 1]


def test_devkit_with_classes_of_its_own(capsys):
    """Lists lie in the root; masks with VOC's values 7 and 15, which are no labels of three classes, are named."""
    root, _ = write_voc_and_sbd(Path())
    (root / "classes.txt").write_text("person\ncar\naeroplane\n")
    (root / "SegmentationClass/2007_000004.png").write_bytes(b"")
    prepare_voc(["--voc12_root", str(root), "--epochs", "2"])
    out = capsys.readouterr().out
    assert "3 masks with values other than 0..3" in out and "1 mask that cannot be used" in out and "SBD" not in out
    data = Dataset(root)
    labels = data.image_labels(["2007_000001", "2007_000003"], root / "train.txt")
    assert [label.tolist() for label in labels.values()] == [[1, 0, 1], [0, 1, 0]]
    assert {c for *_, c in data.read_pairs(root / "EDAM_train.txt")} <= {0, 1, 2}
    with pytest.raises(UserError, match=r"classes.*--sbd_root"):
        prepare_voc(["--voc12_root", str(root), "--sbd_root", "x"])


def test_networks_have_the_outputs_of_the_classes(monkeypatch):
    four = Classes(tuple(names(4)))
    args = infer_cls.get_parser().parse_args(["--weights", "w", "--network", "tests.small_net"])
    assert infer_cls.make_edam(args, four).num_classes == 4
    flags = ["--voc12_root", "V", "--label_dir", "L", "--network", "tests.small_deeplab"]
    args, make = train_deeplab.get_parser().parse_args(flags), small_deeplab.Net
    assert train_deeplab.make_network(args, Namespace(classes=four)).num_labels == 5
    monkeypatch.setattr(small_deeplab, "Net", lambda num_labels: make())  # 21 of them
    with pytest.raises(UserError, match=r"tests\.small_deeplab: has 21 outputs.* 5"):
        train_deeplab.make_network(args, Namespace(classes=four))


def saved(name: str, module: str, **options) -> Path:
    save_network(Path(name), make_net(module, **options))
    return Path(name)


@pytest.mark.parametrize(
    ("module", "counts"), [("tests.small_net", {"num_classes": 2}), ("tests.small_deeplab", {"num_labels": 3})]
)
def test_checkpoint_of_other_classes_is_rejected(module, counts):
    pets, toys = PETS.options(**counts), Classes(("ball", "doll")).options(**counts)
    twenty = Classes(tuple(names(20))).options(**{name: value + 18 for name, value in counts.items()})
    path = saved("pets.pth", module, **pets)
    state = torch.load(path, weights_only=True)
    assert state.classes == ["cat", "Guinea pig"]
    make_net(module, **pets).load_state_dict(state, strict=True)  # all that the published code does with it
    assert not load_weights(make_net(module, **pets), path).missing
    for file, options, keyword in (
        (path, toys, "Guinea pig.*ball"),
        (path, {}, "Guinea pig.*VOC"),
        (saved("voc.pth", module), pets, "VOC.*Guinea pig"),
        (saved("20.pth", module, **twenty), {}, "Ding 00.*VOC"),
    ):
        with pytest.raises(UserError, match=rf"{file.name}.*{keyword}"):
            load_weights(make_net(module, **options), file)
