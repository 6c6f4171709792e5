"""Prepare MS COCO for training: a dataset of its categories in VOC's layout, in COCO's own folder or in another one.

    python voc12/prepare_coco.py --coco_root ROOT         with train2014, val2014 and annotations in ROOT
    python voc12/prepare_coco.py --download ROOT          with none of them: 19 GB from the official servers

Photos with an object are used: 82,081 to train on and 40,137 of val, which get masks to score labels with. COCO 2017 and photos in
ROOT/images are read, too. Files that are right are kept, so rerun after an interruption.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

if __name__ == "__main__":  # a script's modules are searched for in its own folder, not in the repository's root
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from tool.script import run_script

import numpy as np
from pycocotools import mask as coder
from tqdm import tqdm

from tool import VOID, cli
from tool.cli import UserError, nearest_path, summarize_ids
from tool.files import back_up, make_folder, remove_leftovers
from voc12.classes import make_classes
from voc12.dataset import Dataset, Files, check_inputs, photos
from voc12.download import fetch
from voc12.images import save_label, size_of
from voc12.lists import CLASSES_FILE, check_id, format_image_list, write_text
from voc12.masks import OWN
from voc12.pairs import add_flags
from voc12.prepare_steps import Findings, finish, link

YEARS = (2014, 2017)
PARTS = ("train{}", "val{}", "annotations/instances_train{}.json", "annotations/instances_val{}.json")
PUBLISHED = {"train": 82081, "val": 40137}  # images of COCO 2014 with an object
SERVER = "http://images.cocodataset.org"
ZIPS = {"annotations": "annotations/annotations_trainval2014", "train2014": "zips/train2014", "val2014": "zips/val2014"}


class Photo(NamedTuple):
    """Photo of (H, W) pixels, and (category's name, is a crowd, run-length code) of each of its objects."""

    size: tuple[int, int]
    objects: list[tuple[str, bool, Any]]


def main(argv: list[str] | None = None) -> None:
    args = get_parser().parse_args(argv)
    year, (*folders, train_file, val_file) = locate(args)
    out, findings = args.out or args.coco_root or args.download, Findings(list)
    for folder in folders:
        inside = Path("..", folder.relative_to(out)) if folder.is_relative_to(out) else folder.resolve()
        link(out / "JPEGImages" / folder.name, inside)
    remove_leftovers(out)
    names, train = read_annotations(train_file, findings)
    val_names, val = read_annotations(val_file, findings)
    if val_names != names:
        raise UserError(f"{val_file}: other categories than in {train_file.name}. Take both from one year.")
    sound = check_photos(photos(out / "JPEGImages"), train | val, findings)
    shown = {name for image_id in train.keys() & sound.keys() for name, *_ in sound[image_id].objects}
    if not shown:
        first = findings["photos that cannot be used, left out"][0]
        raise UserError(f"{train_file}: none of its photos can be used, the first: {first}.")
    findings["images in both train and val"] += sorted(train.keys() & val.keys())
    findings["category names without a photo of train, left out"] += [name for name in names if name not in shown]
    classes = [name for name in names if name in shown]
    labels = {}
    for image_id, photo in sound.items():
        held = {name for name, *_ in photo.objects}  # crowds, too
        if held & shown:
            labels[image_id] = np.array([name in held for name in classes], np.float32)
    splits = {"train": train, "val": val}
    lists = {name: [image_id for image_id in found if image_id in labels] for name, found in splits.items()}
    write_masks(out, classes, {image_id: val[image_id] for image_id in lists["val"]})

    texts = {out / f"{name}.txt": format_image_list(ids, name == "val", OWN) for name, ids in lists.items()}
    trained = {image_id: labels[image_id] for image_id in lists["train"]}
    finish(args, Dataset(out), texts, trained, findings, labels, PUBLISHED if year == YEARS[0] else {})


def get_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(__doc__)
    add = parser.add_mutually_exclusive_group(required=True).add_argument
    add("--coco_root", type=Path, metavar="DIR", help="folder that holds train2014, val2014 and annotations")
    add("--download", type=Path, metavar="DIR", help="download the missing parts of COCO 2014 (19 GB) into DIR")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the dataset (default: that of COCO)")
    add_flags(parser)
    return parser


def locate(args: argparse.Namespace) -> tuple[int, list[Path]]:
    """Return COCO's year and the paths of PARTS, fetched if --download asks for it. UserError: one is missing."""
    root = args.coco_root or args.download
    places = (root, root / "images")
    year = next((year for year in YEARS if any((place / f"train{year}").is_dir() for place in places)), YEARS[0])
    for part, archive in ZIPS.items():
        if args.download and year == YEARS[0] and not any((place / part).is_dir() for place in places):
            fetch(args.download, f"{SERVER}/{archive}.zip", part)
    paths = []
    for part in (part.format(year) for part in PARTS):
        found = [place / part for place in places if (place / part).exists()]
        if not found:
            there = [path for inner in ("*", "annotations/*", "images/*") for path in sorted(root.glob(inner))]
            held = summarize_ids([str(path.relative_to(root)) for path in there]) or "nothing"
            problem = f"holds {held}, but no {part}" if root.is_dir() else f"does not exist{nearest_path(root)}"
            raise UserError(f"--coco_root {root}: {problem}. Unpack COCO there, or give --download DIR.")
        paths += found[:1]
    return year, paths


def read_annotations(path: Path, findings: Findings) -> tuple[tuple[str, ...], dict[str, Photo]]:
    """Return the categories' names in order of their ids, and id (name without ending) -> photo of those with an object.

    Unusable annotations become findings. UserError: all are such, or the file has another form than COCO's.
    """
    try:
        content = json.loads(path.read_bytes())
        categories = {category["id"]: category["name"] for category in content["categories"]}
        names = make_classes([categories[number] for number in sorted(categories)], str(path)).names
        images = {image["id"]: image for image in content["images"]}
        if len({(image["id"], image["file_name"]) for image in content["images"]}) > len(images):
            raise UserError(f"{path}: two photos have one image id. Give each its own.")
        annotations = content["annotations"]  # merged files repeat their ids; those that are no numbers come first
        annotations.sort(key=lambda one: [isinstance(one.get(key), int) and one[key] for key in ("image_id", "id")])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: no instance annotations in COCO's form ({error!r}). Unpack it again.") from error
    found: dict[str, Photo] = {}
    bad = []
    for annotation in tqdm(annotations, path.stem, disable=None):
        try:
            for key, known in (("image_id", images), ("category_id", categories)):
                if annotation.get(key) not in known:
                    raise ValueError(f"unknown {key} {annotation.get(key)}")
            image, name = images[annotation["image_id"]], categories[annotation["category_id"]]
            image_id, size = check_id(Path(image["file_name"]).stem, "file_name"), (image["height"], image["width"])
            code = encode(annotation.get("segmentation") or (), *size)
        except (UserError, ValueError, KeyError, TypeError, OverflowError) as error:
            bad.append(f"{annotation.get('id')} ({error})")
            continue
        found.setdefault(image_id, Photo(size, [])).objects.append((name, bool(annotation.get("iscrowd")), code))
    counts = f"{len(annotations) - len(bad)} of {len(annotations)} annotations, {len(found)} of {len(images)} images"
    if not found:
        raise UserError(f"{path}: {counts} can be used ({summarize_ids(bad)}). Take COCO's instances.")
    print(f"{path.name}: {counts} with an object")
    findings[f"annotations of {path.name} that cannot be used"] += bad
    return names, found


def encode(outline: Any, height: int, width: int) -> Any:
    """Return polygons, or any run-length code, as a compressed one. ValueError: it is damaged or of another size."""
    if not isinstance(outline, dict):
        polygons = [polygon for polygon in outline if len(polygon) >= 6 and len(polygon) % 2 == 0]
        if not polygons or not all(max(map(abs, polygon)) < 1e6 for polygon in polygons):  # larger: pycocotools crashes
            raise ValueError("no polygon of three points within an image")
        return coder.merge(coder.frPyObjects(polygons, height, width))
    counts = outline["counts"]
    if tuple(outline["size"]) != (height, width) or (isinstance(counts, list) and sum(counts) != height * width):
        raise ValueError("run-length code of another size than its image")
    code = coder.frPyObjects(outline, height, width) if isinstance(counts, list) else outline
    if coder.decode(code).max() > 1:  # a code that is too short leaves pixels uninitialised
        raise ValueError("damaged run-length code")
    return code


def check_photos(files: Files, found: Mapping[str, Photo], findings: Findings) -> dict[str, Photo]:
    """Return the photos that can be read and are as large as their annotations say; the others become findings."""

    def check_size(image_id: str) -> None:
        path, (height, width) = files.find(image_id), found[image_id].size
        if size_of(path) != (height, width):
            raise UserError(f"{path}: not {width}x{height} pixels, as annotated")

    problems = dict(check_inputs(list(found), [files], check_size))
    findings["photos that cannot be used, left out"] += problems.values()
    return {image_id: photo for image_id, photo in found.items() if image_id not in problems}


def draw_mask(photo: Photo, classes: Sequence[str]) -> np.ndarray:
    """Return the label map uint8 (H, W): of overlapping instances the smallest, of equals the last.

    Crowds are void where no instance is; other categories than `classes` are background.
    """
    label = np.zeros(photo.size, np.uint8)
    known = [(is_crowd, coder.area(code), name, code) for name, is_crowd, code in photo.objects if name in classes]
    for is_crowd, _, name, code in sorted(known, key=lambda found: found[:2], reverse=True):
        label[coder.decode(code) == 1] = VOID if is_crowd else classes.index(name) + 1
    return label


def write_masks(out: Path, classes: Sequence[str], found: Mapping[str, Photo]) -> None:
    """Write classes.txt and missing masks. If the classes changed, back up the old masks, whose values mean the old classes."""
    path, folder, text = out / CLASSES_FILE, out / OWN, "".join(f"{name}\n" for name in classes)
    if path.exists() and path.read_bytes() != text.encode() and (backup := back_up(folder)):
        print(f"{folder}: of other classes, kept as {backup}")
    write_text(path, text)
    remove_leftovers(make_folder(folder))
    for image_id, photo in tqdm(found.items(), "masks", disable=None):
        if not (folder / f"{image_id}.png").is_file():
            save_label(folder / f"{image_id}.png", draw_mask(photo, classes))


if __name__ == "__main__":
    run_script(main)
