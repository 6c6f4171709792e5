"""COCO 2014 in miniature, in the official JSON form: labels and masks against pycocotools' own decoding; each fault's line."""

import io
import json
import shutil
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO
from test_prepare_download import Server
from voc12_devkit import contents

from coco14 import prepare
from coco14.annotations import Annotations
from tool.cli import UserError
from voc12.images import load_label, load_photo
from voc12.labels import load_labels
from voc12.lists import photo_path, read_classes, read_image_list, read_pairs

H, W = 30, 40
CATEGORIES = ((1, "person"), (18, "dog"), (3, "traffic light"), (90, "toothbrush"))  # ids with gaps, in no order
NAMES = ("person", "traffic light", "dog", "toothbrush")


def box(left: int, top: int, right: int, bottom: int) -> list[list[float]]:
    return [[left, top, right, top, right, bottom, left, bottom]]


def run_lengths(rows: slice, columns: slice) -> dict:
    """An uncompressed run-length code, as COCO's crowds have."""
    pixels = np.zeros((H, W), np.uint8)
    pixels[rows, columns] = 1
    flat = pixels.ravel(order="F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *changes, flat.size]).tolist()
    return {"size": [H, W], "counts": counts if flat[0] == 0 else [0, *counts]}


def objects(split: str) -> dict[int, list[tuple]]:
    """Image number -> (category, segmentation, crowd)."""
    many = [
        (1, box(5, 5, 15, 15), 0),  # small and first: it lies on top of the larger ones after it
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
    prepare.main(["--coco_root", *map(str, (root, "--epochs", 2, *more))])


def expected_mask(index: COCO, number: int) -> np.ndarray:
    """Pixel by pixel: the smallest instance there, else void where there is a crowd."""
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
    out = capsys.readouterr().out
    assert "  train            6   (COCO 2014: 82081)" in out and "  val              4   (COCO 2014: 40137)" in out
    assert out.splitlines()[-1].startswith(
        f"  python train_EDAM_cls.py --voc12_root {coco} --train_list {coco}/EDAM_train.txt"
    )
    assert read_classes(coco).names == NAMES
    ids = {split: read_image_list(coco / f"{split}.txt") for split in ("train", "val")}
    assert ids["train"] == [f"COCO_train2014_{n:012d}" for n in (1, 3, 4, 5, 6, 7)]
    assert ids["val"] == [f"COCO_val2014_{n:012d}" for n in (1, 3, 4, 5)]
    labels = load_labels(ids["train"] + ids["val"], coco)
    shown = {1: [1, 1, 1, 0], 3: [1, 0, 0, 0], 4: [0, 1, 0, 1], 5: [0, 0, 1, 0], 6: [0, 1, 0, 1], 7: [1, 1, 1, 0]}
    assert all(labels[image_id].tolist() == shown[int(image_id[-2:])] for image_id in labels)
    index = COCO(str(coco / "annotations/instances_val2014.json"))
    masks = {path.stem: load_label(path) for path in (coco / "SegmentationClass").iterdir()}
    assert sorted(masks) == ids["val"]
    for image_id, mask in masks.items():
        assert np.array_equal(mask, expected_mask(index, int(image_id[-2:]))), image_id
    seen = [set(np.unique(masks[image_id]).tolist()) for image_id in ids["val"]]
    assert seen == [{0, 1, 2, 3, 255}, {0, 255}, {0, 2, 4}, {3}]
    assert load_photo(photo_path(coco, "COCO_val2014_000000000004")).mode == "RGB"
    pairs = read_pairs(coco / "EDAM_train.txt", read_classes(coco))
    assert len(pairs) == 2 * 3 and all(labels[a][c] and labels[b][c] for a, b, c in pairs)


def test_a_rerun_writes_what_is_missing_and_no_more(coco, capsys):
    main(coco)
    before = contents(coco)
    (coco / "SegmentationClass/COCO_val2014_000000000001.png").unlink()
    kept = (coco / "SegmentationClass/COCO_val2014_000000000003.png").stat()
    capsys.readouterr()
    main(coco)
    assert (coco / "SegmentationClass/COCO_val2014_000000000003.png").stat().st_ino == kept.st_ino
    assert ": written" not in capsys.readouterr().out
    assert contents(coco) == before


def damage(coco: Path, split: str, change) -> None:
    path = coco / f"annotations/instances_{split}2014.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("folder", "has no folder val2014: unpack http://images.cocodataset.org/zips/val2014.zip there, or --download"),
        ("file", "cannot read the annotations"),
        ("json", "instances_train2014.json is damaged or holds no annotations of COCO's form: unpack it again"),
        (
            "form",
            "instances_train2014.json holds no instance annotations of COCO's form (KeyError('name')): unpack it again",
        ),
        ("category", "annotation 1 is of category 7, which is not listed"),
        ("polygon", "annotation 1 cannot be decoded ("),
        ("year", "instances_val2014.json has other categories than instances_train2014.json: are they of one year?"),
        ("class", "annotations: no photo to train on shows toothbrush; label some, or"),
    ],
)
def test_each_fault(coco, fault, message):
    if fault == "folder":
        shutil.rmtree(coco / "val2014")
    elif fault == "file":
        (coco / "annotations/instances_train2014.json").unlink()
    elif fault == "json":
        (coco / "annotations/instances_train2014.json").write_text("{")
    elif fault == "form":
        damage(coco, "train", lambda content: content["categories"][0].pop("name"))
    elif fault == "category":
        damage(coco, "train", lambda content: content["annotations"][0].update(category_id=7))
    elif fault == "polygon":
        damage(coco, "val", lambda content: content["annotations"][0].update(segmentation=[[1, 2]]))
    elif fault == "year":
        damage(coco, "val", lambda content: content["categories"][0].update(name="cat"))
    else:
        shown = json.loads((coco / "annotations/instances_train2014.json").read_text())["annotations"]
        damage(coco, "train", lambda c: c.update(annotations=[one for one in shown if one["category_id"] != 90]))
    with pytest.raises(UserError) as error:
        main(coco)
    assert message in str(error.value)


def test_photos_and_sizes_that_do_not_fit_are_named(coco, capsys):
    (coco / "train2014/COCO_train2014_000000000001.jpg").unlink()
    Image.new("RGB", (W + 1, H)).save(coco / "val2014/COCO_val2014_000000000005.jpg")
    main(coco)
    lines = capsys.readouterr().out.splitlines()
    assert "  1 image of train without a photo, left out: COCO_train2014_000000000001" in lines
    assert "  1 image whose annotations are of another size than their photo: COCO_val2014_000000000005" in lines


def test_without_pycocotools_the_command_is_said(coco, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    with pytest.raises(UserError, match=r"are read with pycocotools: pip install -r requirements-coco\.txt$"):
        Annotations(coco / "annotations/instances_val2014.json")


def test_it_fetches_what_is_missing(coco, tmp_path, monkeypatch, capsys):
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        for part in ("train2014", "val2014", "annotations"):
            with zipfile.ZipFile(data := io.BytesIO(), "w") as archive:
                for path in sorted((coco / part).iterdir()):
                    archive.write(path, f"{part}/{path.name}")
            server.files[f"{part}.zip"] = data.getvalue()
            monkeypatch.setitem(prepare._URLS, part, f"http://127.0.0.1:{server.server_port}/{part}.zip")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        server.cut.add("val2014.zip")
        words = ["--download", str(tmp_path / "new"), "--epochs", "2"]
        with pytest.raises(UserError, match=r"could not fetch and unpack .*val2014\.zip"):
            prepare.main(words)
        server.cut.clear()
        prepare.main(words)  # goes on
        assert server.served.count("train2014.zip") == 1
        server.shutdown()
    assert len(read_image_list(tmp_path / "new/train.txt")) == 6
