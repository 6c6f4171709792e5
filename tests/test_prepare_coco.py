"""voc12/prepare_coco.py on COCO 2014 in miniature: labels and masks against pycocotools' own decoding."""

import io
import json
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO
from voc12_devkit import contents, running_server

from tool.cli import UserError
from voc12 import prepare_coco
from voc12.dataset import Dataset
from voc12.images import load_label, load_photo
from voc12.lists import read_image_list

H, W = 30, 40
CATEGORIES = ((1, "person"), (18, "dog"), (3, "traffic light"), (90, "toothbrush"))  # ids with gaps, in no order
NAMES = ("person", "traffic light", "dog", "toothbrush")


def box(left: int, top: int, right: int, bottom: int) -> list[list[float]]:
    return [[left, top, right, top, right, bottom, left, bottom]]


def run_lengths(rows: slice, columns: slice) -> dict:
    """Return an uncompressed run-length code, as COCO's crowds have."""
    pixels = np.zeros((H, W), np.uint8)
    pixels[rows, columns] = 1
    flat = pixels.ravel(order="F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *changes, flat.size]).tolist()
    return {"size": [H, W], "counts": counts if flat[0] == 0 else [0, *counts]}


def objects(split: str) -> dict[int, list[tuple]]:
    """Return image number -> (category, segmentation, crowd)."""
    many = [
        (1, box(5, 5, 15, 15), 0),  # small and first: on top of the larger ones that follow
        (18, box(2, 2, 30, 28), 0),
        (3, [*box(10, 10, 20, 20), *box(30, 2, 38, 8)], 0),  # two polygons
        (1, run_lengths(slice(0, 12), slice(0, 40)), 1),
    ]
    two = [(90, [[3.2, 4.7, 20.9, 6.1, 12.4, 25.3]], 0), (3, [[2.5, 3.5, 33.3, 20.2, 9.8, 28.9]], 0)]
    shown = {
        1: many,
        2: [],
        3: [(1, run_lengths(slice(3, 9), slice(4, 30)), 1)],
        4: two,
        5: [(18, box(0, 0, 40, 30), 0)],
    }
    return shown if split == "val" else {**shown, 6: two, 7: many}


def write_coco(root: Path) -> Path:
    (root / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        images, annotations = [], []
        (root / f"{split}2014").mkdir()
        for number, shown in objects(split).items():
            name = f"COCO_{split}2014_{number:012d}.jpg"
            images.append({"id": number, "file_name": name, "height": H, "width": W})
            photo = Image.new("L", (W, H), 90) if number == 4 else Image.new("RGB", (W, H), (20 * number, 90, 30))
            photo.save(root / f"{split}2014" / name)
            for category, segmentation, crowd in shown:
                found = {"image_id": number, "category_id": category, "segmentation": segmentation, "iscrowd": crowd}
                annotations.append(found | {"id": len(annotations) + 1, "area": 1.0, "bbox": [0, 0, 1, 1]})
        content = {"images": images, "annotations": annotations}
        content["categories"] = [{"id": number, "name": name, "supercategory": "x"} for number, name in CATEGORIES]
        (root / f"annotations/instances_{split}2014.json").write_text(json.dumps(content))
    return root


@pytest.fixture
def coco(tmp_path) -> Path:
    return write_coco(tmp_path / "coco")


def main(root: Path, *more: object) -> None:
    prepare_coco.main(["--coco_root", *map(str, (root, "--epochs", 2, *more))])


def expected_mask(index: COCO, number: int) -> np.ndarray:
    """Return the smallest instance at each pixel, else void where there is a crowd."""
    found = index.loadAnns(index.getAnnIds(imgIds=[number]))
    decoded = [rle.decode(index.annToRLE(one)) for one in found]
    label = np.zeros((H, W), np.uint8)
    for y in range(H):
        for x in range(W):
            here = [(d.sum(), one) for one, d in zip(found, decoded, strict=True) if d[y, x]]
            instances = [(size, one["category_id"]) for size, one in here if not one["iscrowd"]]
            if instances:
                label[y, x] = NAMES.index(dict(CATEGORIES)[min(instances)[1]]) + 1
            elif here:
                label[y, x] = 255
    return label


def test_lists_labels_and_masks(coco, capsys):
    main(coco)
    out = capsys.readouterr().out.splitlines()
    assert "  train              6   (published: 82081)" in out and "  val                4   (published: 40137)" in out
    assert out[-1].startswith(f"  python train_EDAM_cls.py --voc12_root {coco} --train_list {coco}/EDAM_train.txt")
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
    seen = [set(np.unique(masks[image_id]).tolist()) for image_id in ids["val"]]
    assert seen == [{0, 1, 2, 3, 255}, {0, 255}, {0, 2, 4}, {3}]
    assert load_photo(data.photo_path("COCO_val2014_000000000004")).mode == "RGB"
    pairs = data.read_pairs(coco / "EDAM_train.txt")
    assert len(pairs) == 2 * 3 and all(labels[a][c] and labels[b][c] for a, b, c in pairs)


def test_rerun_writes_only_what_is_missing(coco, capsys):
    main(coco)
    before = contents(coco)
    (coco / "SegmentationClass/COCO_val2014_000000000001.png").unlink()
    kept = (coco / "SegmentationClass/COCO_val2014_000000000003.png").stat()
    capsys.readouterr()
    main(coco)
    assert (coco / "SegmentationClass/COCO_val2014_000000000003.png").stat().st_ino == kept.st_ino
    assert ": written" not in capsys.readouterr().out
    assert contents(coco) == before


def remove_toothbrushes(content: dict) -> None:
    content["annotations"] = [found for found in content["annotations"] if found["category_id"] != 90]


@pytest.mark.parametrize(
    ("split", "damage", "keywords"),
    [
        ("train", None, "instances_train2014.json: .*Unpack"),
        ("train", lambda content: content["categories"][0].pop("name"), "instances_train2014.json: .*Unpack"),
        ("train", lambda content: content["annotations"][0].update(category_id=7), "instances_train2014.json: .*7"),
        ("val", lambda content: content["annotations"][0].update(segmentation=[[1, 2]]), "annotation 1 is damaged"),
        ("val", lambda content: content["categories"][0].update(name="cat"), "annotations: .*categories"),
        ("train", remove_toothbrushes, "annotations: .*toothbrush"),
    ],
)
def test_damaged_annotations_are_errors(coco, split, damage, keywords):
    path = coco / f"annotations/instances_{split}2014.json"
    content = json.loads(path.read_text())
    if damage:
        damage(content)
    path.write_text(json.dumps(content) if damage else "{")
    with pytest.raises(UserError, match=keywords):
        main(coco)


def test_missing_folder_and_missing_pycocotools_are_errors(coco, monkeypatch):
    shutil.rmtree(coco / "val2014")
    with pytest.raises(UserError, match=rf"--coco_root {coco}: no folder val2014.*val2014\.zip"):
        main(coco)
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    with pytest.raises(UserError, match=r"pycocotools: .*requirements-coco\.txt"):
        prepare_coco.Annotations(coco / "annotations/instances_val2014.json")


def test_missing_photos_and_other_sizes_are_reported(coco, capsys):
    (coco / "train2014/COCO_train2014_000000000001.jpg").unlink()
    Image.new("RGB", (W + 1, H)).save(coco / "val2014/COCO_val2014_000000000005.jpg")
    main(coco)
    lines = capsys.readouterr().out.splitlines()
    assert "  1 image of train without a photo, left out: COCO_train2014_000000000001" in lines
    assert any("another size" in line and line.endswith(": COCO_val2014_000000000005") for line in lines)


def test_missing_folders_are_downloaded(coco, tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with running_server() as server:
        for part in ("train2014", "val2014", "annotations"):
            with zipfile.ZipFile(data := io.BytesIO(), "w") as archive:
                for path in sorted((coco / part).iterdir()):
                    archive.write(path, f"{part}/{path.name}")
            server.files[f"{part}.zip"] = data.getvalue()
            monkeypatch.setitem(prepare_coco.URLS, part, f"{server.address}/{part}.zip")
        server.cut.add("val2014.zip")
        words = ["--download", str(tmp_path / "new"), "--epochs", "2"]
        with pytest.raises(UserError, match=r"val2014\.zip"):
            prepare_coco.main(words)
        server.cut.clear()
        prepare_coco.main(words)
        assert server.served.count("train2014.zip") == 1
    assert len(read_image_list(tmp_path / "new/train.txt")) == 6
