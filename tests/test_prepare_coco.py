"""voc12/prepare_coco.py on COCO 2014 in miniature: labels and masks against pycocotools' own decoding."""

import json
import os
import re
import shutil
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO
from voc12_devkit import contents, running_server

from tool.cli import UserError
from voc12 import prepare_coco
from voc12.dataset import Dataset
from voc12.images import load_label
from voc12.lists import read_image_list

H, W = 30, 40
CATEGORIES = ((1, "person"), (18, "dog"), (3, "traffic light"), (90, "toothbrush"))  # ids with gaps, in no order
NAMES = ("person", "traffic light", "dog", "toothbrush")


def box(left: int, top: int, right: int, bottom: int) -> list[list[float]]:
    return [[left, top, right, top, right, bottom, left, bottom]]


MANY = [
    (1, box(5, 5, 15, 15), 0),  # small and first: on top of the larger ones that follow
    (18, box(2, 2, 30, 28), 0),
    (3, [*box(10, 10, 20, 20), *box(30, 2, 38, 8)], 0),  # two polygons
    (1, {"size": [H, W], "counts": [0, *[12, 18] * W]}, 1),  # the first 12 rows
]
TWO = [(90, [[3.2, 4.7, 20.9, 6.1, 12.4, 25.3]], 0), (3, [[2.5, 3.5, 33.3, 20.2, 9.8, 28.9]], 0)]
CROWD = [(1, {"size": [H, W], "counts": [123, *[6, 24] * 25, 6, 321]}, 1)]  # rows 3 to 8 of columns 4 to 29
# Of each photo (category, segmentation, crowd); val has the first five.
OBJECTS = (MANY, [], CROWD, TWO, [(18, box(0, 0, 40, 30), 0)], TWO, MANY)


@pytest.fixture
def coco(tmp_path) -> Path:
    root = tmp_path / "coco"
    (root / "annotations").mkdir(parents=True)
    for split, count in (("train", 7), ("val", 5)):
        images, annotations = [], []
        (root / f"{split}2014").mkdir()
        for number, objects in enumerate(OBJECTS[:count], 1):
            name = f"COCO_{split}2014_{number:012d}.jpg"
            Image.new("RGB", (W, H), (20 * number, 90, 30)).save(root / f"{split}2014" / name)
            images.append({"id": number, "file_name": name, "height": H, "width": W})
            for category, outline, crowd in objects:
                found = {"id": len(annotations) + 1, "image_id": number, "category_id": category}
                annotations.append({**found, "segmentation": outline, "iscrowd": crowd})
        categories = [{"id": number, "name": name} for number, name in CATEGORIES]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / f"annotations/instances_{split}2014.json").write_text(json.dumps(content))
    return root


def main(root: Path, *more: object) -> None:
    prepare_coco.main(["--coco_root", *map(str, (root, "--epochs", 2, *more))])


def expected_mask(index: COCO, number: int) -> np.ndarray:
    """Return the smallest instance at each pixel, else void where there is a crowd."""
    found = index.loadAnns(index.getAnnIds(imgIds=[number]))
    decoded = [rle.decode(index.annToRLE(one)) for one in found]
    label = np.zeros((H, W), np.uint8)
    for place in np.ndindex(H, W):
        here = [(pixels.sum(), one) for one, pixels in zip(found, decoded, strict=True) if pixels[place]]
        instances = [(size, one["category_id"]) for size, one in here if not one["iscrowd"]]
        if instances:
            label[place] = NAMES.index(dict(CATEGORIES)[min(instances)[1]]) + 1
        elif here:
            label[place] = 255
    return label


def test_lists_labels_and_masks(coco, capsys):
    main(coco)
    assert f"{coco}/train.txt: 6 lines (published: 82081), written" in capsys.readouterr().out
    data = Dataset(coco)
    assert data.classes.names == NAMES
    ids = {split: read_image_list(coco / f"{split}.txt") for split in ("train", "val")}
    assert ids["train"] == [f"COCO_train2014_{n:012d}" for n in (1, 3, 4, 5, 6, 7)]
    assert ids["val"] == [f"COCO_val2014_{n:012d}" for n in (1, 3, 4, 5)]
    labels = data.image_labels(ids["train"] + ids["val"], coco / "train.txt")
    shown = {1: [1, 1, 1, 0], 3: [1, 0, 0, 0], 4: [0, 1, 0, 1], 5: [0, 0, 1, 0], 6: [0, 1, 0, 1], 7: [1, 1, 1, 0]}
    assert all(labels[image_id].tolist() == shown[int(image_id[-2:])] for image_id in labels)
    index = COCO(str(coco / "annotations/instances_val2014.json"))
    masks = {path.stem: load_label(path) for path in (coco / "SegmentationClass").iterdir()}
    assert sorted(masks) == ids["val"]
    for image_id, mask in masks.items():
        assert np.array_equal(mask, expected_mask(index, int(image_id[-2:]))), image_id
    assert len(data.read_pairs(coco / "EDAM_train.txt")) == 2 * 3

    before = contents(coco)
    (coco / f"SegmentationClass/{ids['val'][0]}.png").unlink()
    main(coco)
    assert ", written" not in capsys.readouterr().out and contents(coco) == before


def change(root: Path, split: str, edit) -> None:
    path = root / f"annotations/instances_{split}2014.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("split", "edit", "keywords"),
    [
        ("train", lambda content: content.clear(), "instances_train2014.json: .*Unpack"),
        ("train", lambda content: content["images"][1].update(id=1), "instances_train2014.json: two photos"),
        ("val", lambda content: content.update(annotations=[{}]), "instances_val2014.json: 0 of 1 ann.*image_id"),
        ("val", lambda content: content["categories"][0].update(name="cat"), "instances_val2014.json: .*categories"),
    ],
)
def test_damaged_files_are_errors(coco, split, edit, keywords):
    change(coco, split, edit)
    with pytest.raises(UserError, match=keywords):
        main(coco)


@pytest.mark.parametrize(
    ("changes", "keyword"),
    [
        ({"segmentation": None}, "no polygon"),
        ({"segmentation": [[1, 2, 3, 4]]}, "no polygon"),  # two points
        ({"segmentation": [[0, 0, 1e9, 0, 1e9, 1e9]]}, "no polygon"),
        ({"segmentation": {"size": [H, W + 1], "counts": [H * (W + 1)]}}, "size"),
        ({"segmentation": {"size": [H, W], "counts": [5, 10]}}, "size"),
        ({"segmentation": {"size": [H, W], "counts": "abc"}}, "RLE"),
        ({"image_id": 77}, "unknown image_id 77"),
        ({"category_id": [7]}, "list"),
    ],
)
def test_bad_annotation_is_left_out_and_counted(coco, capsys, changes, keyword):
    change(coco, "val", lambda content: content["annotations"][0].update(changes))  # the small person of photo 1
    main(coco)
    out = capsys.readouterr().out
    assert "instances_val2014.json: 7 of 8 annotations, 4 of 5 images" in out
    assert "  1 annotation of instances_val2014.json that cannot be used: 1 (" in out and keyword in out
    assert load_label(coco / "SegmentationClass/COCO_val2014_000000000001.png")[13, 7] == NAMES.index("dog") + 1


def test_image_in_both_train_and_val_is_named(coco, capsys):
    change(coco, "val", lambda content: content["images"][0].update(file_name="COCO_train2014_000000000001.jpg"))
    main(coco)
    assert "1 image in both train and val: COCO_train2014_000000000001" in capsys.readouterr().out


def test_repeated_annotation_ids_lose_nothing(coco, capsys):
    main(coco)
    whole = contents(coco / "SegmentationClass")
    change(coco, "val", lambda content: [found.update(id=1) for found in content["annotations"]])
    shutil.rmtree(coco / "SegmentationClass")
    main(coco)
    out = capsys.readouterr().out
    assert out.count("instances_val2014.json: 8 of 8 annotations, 4 of 5 images") == 2
    assert contents(coco / "SegmentationClass") == whole


def test_category_without_photos_is_left_out_and_old_masks_are_backed_up(coco, capsys):
    main(coco)
    path = coco / "annotations/instances_train2014.json"
    path.write_text(path.read_text().replace('"category_id": 1,', '"category_id": 18,'))
    main(coco)
    out = capsys.readouterr().out
    assert "  1 category name without a photo of train, left out: person" in out and "SegmentationClass.1" in out
    assert (coco / "classes.txt").read_text() == "traffic light\ndog\ntoothbrush\n"
    labels = Dataset(coco).image_labels(read_image_list(coco / "val.txt"), coco / "val.txt")
    assert {int(i[-2:]): label.tolist() for i, label in labels.items()} == {1: [1, 1, 0], 4: [1, 0, 1], 5: [0, 1, 0]}
    assert set(np.unique(load_label(coco / "SegmentationClass/COCO_val2014_000000000005.png"))) == {2}


def test_other_years_and_folders(coco, capsys):
    (coco / "images").mkdir()
    for split in ("train", "val"):
        (coco / f"{split}2014").rename(coco / f"images/{split}2017")
        (coco / f"annotations/instances_{split}2014.json").rename(coco / f"annotations/instances_{split}2017.json")
    main(coco)
    ids = read_image_list(coco / "train.txt")
    assert len(ids) == 6 and Dataset(coco).photos.find(ids[0]).is_file() and "published" not in capsys.readouterr().out
    assert os.readlink(coco / "JPEGImages/train2017") == "../images/train2017"


def test_missing_parts(coco):
    (coco / "annotations/instances_val2014.json").rename(coco / "elsewhere")
    with pytest.raises(UserError, match=rf"{coco}: .*train2014.* no annotations/instances_val2014\.json.*--download"):
        main(coco)
    with pytest.raises(UserError, match=r"--coco_root .*cocoa: does not exist .*coco\?"):
        main(coco.with_name("cocoa"))


def test_out_leaves_the_root_alone(coco, tmp_path, monkeypatch):
    before = contents(coco)
    main(coco, "--out", tmp_path / "out")
    assert contents(coco) == before
    assert Dataset(tmp_path / "out").photos.find(read_image_list(tmp_path / "out/train.txt")[5]).is_file()

    monkeypatch.setattr(Path, "symlink_to", Mock(side_effect=PermissionError))
    with pytest.raises(UserError, match=r"JPEGImages/train2014: .*--out DIR"):
        main(coco)


def test_unusable_photos_are_left_out(coco, capsys):
    (coco / "train2014/COCO_train2014_000000000003.jpg").write_bytes(b"<!DOCTYPE html><html>404</html>")
    Image.new("RGB", (W + 1, H)).save(coco / "val2014/COCO_val2014_000000000005.jpg")
    main(coco)
    out = capsys.readouterr().out
    assert re.search(f"2 photos that cannot be used, .*train2014_0+3.jpg: .*web page.*val2014_0+5.jpg: .*{W}x{H}", out)
    assert [int(image_id[-2:]) for image_id in read_image_list(coco / "train.txt")] == [1, 4, 5, 6, 7]
    assert [int(image_id[-2:]) for image_id in read_image_list(coco / "val.txt")] == [1, 3, 4]
    assert [int(path.stem[-2:]) for path in sorted((coco / "SegmentationClass").iterdir())] == [1, 3, 4]


def test_missing_folders_are_downloaded_and_a_cut_file_is_resumed(coco, tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with running_server() as server:
        monkeypatch.setattr(prepare_coco, "SERVER", server.address)
        for part, name in prepare_coco.ZIPS.items():
            archive = shutil.make_archive(str(tmp_path / part), "zip", coco, part)
            server.files[f"{name}.zip"] = Path(archive).read_bytes()
        flags, cut = ["--download", str(tmp_path / "new"), "--epochs", "2"], "zips/train2014.zip"
        server.cut.add(cut)
        with pytest.raises(UserError, match=r"train2014\.zip: .*resumes"):
            prepare_coco.main(flags)
        server.cut.clear()
        prepare_coco.main(flags)
    assert [start for name, start in server.served if name == cut] == [0, len(server.files[cut]) // 2]
    assert len(read_image_list(tmp_path / "new/train.txt")) == 6
