"""From a folder of own photos and a table of labels to a dataset; checkpoints that name their classes."""

import io
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from own_dataset import draw, image_id, names
from PIL import Image
from voc12_devkit import REPO, contents, write_voc_and_sbd

from network import make_net
from network.weights import load_weights
from tool.checkpoint import save_network
from tool.cli import UserError
from voc12 import prepare_photos
from voc12.classes import Classes
from voc12.dataset import Dataset
from voc12.labels import read_label_csv
from voc12.lists import read_image_list
from voc12.prepare import main as prepare_voc

PETS = Classes(("cat", "Guinea pig"))
PREPARE = ("voc12/prepare_photos.py", "--photos", "in", "--out", "root", "--labels")


def prepare(folder: Path, *more: str) -> None:
    table = ("--labels", str(folder / "labels.csv"))
    prepare_photos.main(["--photos", str(folder / "in"), *table, "--out", str(folder / "root"), *more])


def test_from_a_folder_to_lists(tmp_path, capsys):
    root = draw(tmp_path, 3, 6) / "root"
    (tmp_path / "labels.csv").open("a").write(f'\nlost.jpg,Ding 00\n"{image_id(0)}",N/A\n')
    prepare(tmp_path, "--epochs", "2")
    out = capsys.readouterr().out
    assert "labels.csv without a photo" in out and "lost" in out and f"N/A ({image_id(0)})" in out
    command = out.splitlines()[-1].split()
    assert command[:6] == f"python train_EDAM_cls.py --voc12_root {root} --train_list {root}/EDAM_train.txt".split()
    assert command[-4:] == ["--warmup_steps", "0", "--session_name", "root"]
    assert (root / "classes.txt").read_text() == "DING 00\nDING 01\nDING 02\n"
    assert read_image_list(root / "train.txt") == sorted(image_id(n) for n in range(6))
    assert len(Dataset(root).read_pairs(root / "EDAM_train.txt")) == 6
    assert not (root / "with_mask.txt").exists()

    before = contents(root)
    shutil.copytree(tmp_path / "masks", root / "SegmentationClass")
    (root / "SegmentationClass" / f"{image_id(5)}.png").unlink()
    prepare(tmp_path, "--epochs", "2")
    assert all(contents(root)[name] == data for name, data in before.items())
    assert read_image_list(root / "with_mask.txt") == [image_id(n) for n in range(5)]
    (root / "classes.txt").write_text("ding 02\nding 00\nding 01\n")  # another order, which is kept
    prepare(tmp_path)
    assert Dataset(root).image_labels([image_id(0)], "train.txt")[image_id(0)].tolist() == [0, 1, 1]


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
def test_folder_of_photos_with_a_fault(tmp_path, path, text, keyword):
    draw(tmp_path, 3, 6)
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_text(text)
    with pytest.raises(UserError, match=keyword):
        prepare(tmp_path)


def photos_in(folder: Path, *paths: str) -> None:
    """Draw photos of these names in `in`."""
    for path in paths:
        (folder / "in" / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20)).save(folder / "in" / path, "PNG")


def labels_in(root: Path) -> dict[str, list[str]]:
    """Return id -> names of the classes in the dataset's labels.csv."""
    return {image_id: names for _, image_id, names in read_label_csv(root / "labels.csv", classes_known=True)}


def test_folder_for_each_class(tmp_path, commands):
    photos_in(tmp_path, "cat/001.jpg", "cat/002.jpg", "7/001.jpg", "x/7/003.jpg", "004.jpg", "unknown/005.jpg")
    stdout = commands.run(tmp_path, *PREPARE, "folders").stdout
    expected = {"cat_001": ["cat"], "7_001": ["7"], "002": ["cat"], "003": ["7"], "004": [], "005": []}
    assert labels_in(tmp_path / "root") == expected and "004" in stdout and "unknown (005)" in stdout
    assert (tmp_path / "root/classes.txt").read_text() == "7\ncat\n"
    data = Dataset(tmp_path / "root")
    assert data.photos.find("7_001") == tmp_path / "root/JPEGImages/7/001.jpg"
    assert read_image_list(tmp_path / "root/train.txt") == ["002", "003", "7_001", "cat_001"]
    before = contents(tmp_path / "root")
    commands.run(tmp_path, *PREPARE, "folders")
    commands.run(tmp_path, *PREPARE, "root/labels.csv")
    assert contents(tmp_path / "root") == before
    command = shlex.split(stdout.splitlines()[-1])
    assert (tmp_path / command[1]).samefile(REPO / "train_EDAM_cls.py")  # from where it was typed
    assert all((tmp_path / command[place]).exists() for place in (3, 5))


def test_table_of_equal_names(tmp_path, commands):
    photos_in(tmp_path, "cat/001.jpg", "dog/001.jpg", "dog/2.jpg.jpg")
    (tmp_path / "t.csv").write_text("photo,classes\n001.jpg,cat\n")
    line = commands.run(tmp_path, *PREPARE, "t.csv", status=1).stderr[-1]
    assert "t.csv, line 2" in line and "--labels folders" in line and not (tmp_path / "root/labels.csv").exists()
    (tmp_path / "t.csv").write_text("photo,classes\ncat/001.jpg,cat\ndog\\001.jpg,dog\n2.jpg.jpg,dog\n")
    commands.run(tmp_path, *PREPARE, "t.csv")
    assert read_image_list(tmp_path / "root/train.txt") == ["2.jpg", "cat_001", "dog_001"]


def test_most_photos_without_a_class(tmp_path, commands):
    photos_in(tmp_path, *(f"{n}.jpg" for n in range(4)))
    (tmp_path / "t.csv").write_text("photo,classes\n0.jpg,cat\n")
    line = commands.run(tmp_path, *PREPARE, "t.csv", status=1).stderr[-1]
    assert "t.csv" in line and "3 of 4" in line and "--accept_labels" in line
    assert not (tmp_path / "root/classes.txt").exists()
    commands.run(tmp_path, *PREPARE, "t.csv", "--accept_labels")
    assert read_image_list(tmp_path / "root/train.txt") == ["0"]
    assert "3 of 4" in commands.run(tmp_path, *PREPARE[:-1], status=1).stderr[-1]  # the labels in root


def test_names_that_differ_in_signs(tmp_path):
    photos_in(tmp_path, *(f"{n}.jpg" for n in range(5)))
    lines = "0.jpg,vitamin A+\n1.jpg,vitamin A-\n2.jpg,size 1-2\n3.jpg,size 12\n4.jpg,Size 12 \n"
    (tmp_path / "labels.csv").write_text(f"photo,classes\n{lines}")
    prepare(tmp_path)
    assert (tmp_path / "root/classes.txt").read_text() == "size 1-2\nsize 12\nvitamin A+\nvitamin A-\n"
    labels = Dataset(tmp_path / "root").image_labels("01234", "train.txt")
    assert [label.argmax() for label in labels.values()] == [2, 3, 0, 1, 1]


def test_photos_of_other_formats(tmp_path, capsys):
    paths = ["a.webp", "b.tif", "c.TIFF", "d.bmp", "e.jpg", "f.jfif"]
    photos_in(tmp_path, *paths, "x/f.gif", "g.GIF", "h.heic", "i.avif")
    (tmp_path / "labels.csv").write_text("photo,classes\n" + "".join(f"{path},cat\n" for path in paths))
    for name in paths[:4]:
        Image.new("RGB", (20, 20)).save(tmp_path / "in" / name)
    prepare(tmp_path)
    out, err = capsys.readouterr()
    assert read_image_list(tmp_path / "root/train.txt") == list("abcdef")
    assert len(err.splitlines()) == 1 and "in: 2 .gif, 1 .avif, 1 .heic" in err and "cannot be used" not in out


def test_devkit_with_classes_of_its_own(tmp_path, capsys):
    """Lists lie in the root; masks with VOC's values 7 and 15, which are no labels of three classes, are named."""
    root, _ = write_voc_and_sbd(tmp_path)
    (root / "classes.txt").write_text("person\ncar\naeroplane\n")
    prepare_voc(["--voc12_root", str(root), "--epochs", "2"])
    out = capsys.readouterr().out
    assert "4 masks with values other than 0..3" in out and "SBD" not in out
    assert f"--train_list {root}/EDAM_train.txt" in out.splitlines()[-1]
    data = Dataset(root)
    labels = data.image_labels(["2007_000001", "2007_000003"], root / "train.txt")
    assert [label.tolist() for label in labels.values()] == [[1, 0, 1], [0, 1, 0]]
    assert {c for *_, c in data.read_pairs(root / "EDAM_train.txt")} <= {0, 1, 2}
    with pytest.raises(UserError, match=r"classes.*--sbd_root"):
        prepare_voc(["--voc12_root", str(root), "--sbd_root", "x"])


def saved(path: Path, module: str, **options) -> Path:
    save_network(path, make_net(module, **options))
    return path


def test_checkpoint_of_vocs_classes_is_flat(tmp_path):
    net = make_net("tests.small_net")
    save_network(tmp_path / "a.pth", net)
    torch.save({name: tensor.cpu() for name, tensor in net.state_dict().items()}, flat := io.BytesIO())
    assert (tmp_path / "a.pth").read_bytes() == flat.getvalue()


@pytest.mark.parametrize(
    ("module", "counts"), [("tests.small_net", {"num_classes": 2}), ("tests.small_deeplab", {"num_labels": 3})]
)
def test_checkpoint_of_other_classes_is_rejected(tmp_path, module, counts):
    pets, toys = PETS.options(**counts), Classes(("ball", "doll")).options(**counts)
    twenty = {name: 20 + value - 2 for name, value in counts.items()}
    path = saved(tmp_path / "pets.pth", module, **pets)
    state = torch.load(path, weights_only=True)
    assert state.classes == ["cat", "Guinea pig"]
    make_net(module, **pets).load_state_dict(state, strict=True)  # all that the published code does with it
    assert not load_weights(make_net(module, **pets), path).missing
    for file, options, keyword in (
        (path, toys, "Guinea pig.*ball"),
        (path, {}, "Guinea pig.*VOC"),
        (saved(tmp_path / "voc.pth", module), pets, "VOC.*Guinea pig"),
        (saved(tmp_path / "20.pth", module, **Classes(tuple(names(20))).options(**twenty)), {}, "Ding 00.*VOC"),
    ):
        with pytest.raises(UserError, match=rf"{file.name}.*{keyword}"):
            load_weights(make_net(module, **options), file)
