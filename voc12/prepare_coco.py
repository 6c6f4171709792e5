"""Prepare MS COCO for training: a dataset of its categories in VOC's layout, in COCO's own folder or in another one.

    python voc12/prepare_coco.py --coco_root ROOT         with train2014, val2014 and annotations in ROOT
    python voc12/prepare_coco.py --download ROOT          with none of them: 19 GB from the official servers

Photos with an object are used, as in the field: 82,081 to train on and 40,137 of val, which get masks to score labels with.
COCO 2017 and photos in ROOT/images are read, too. Files that are right are kept, so rerun after an interruption.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # Run as a script, Python searches voc12/ for modules; ours are found from the repository's root.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from tool.script import run_script

import numpy as np
from tqdm import tqdm

from tool import VOID, cli
from tool.cli import UserError, nearest_path, summarize_ids
from tool.files import back_up, check_writable, make_folder, remove_leftovers
from voc12.classes import make_classes
from voc12.dataset import Files, check_inputs, photos
from voc12.download import fetch
from voc12.images import save_label, size_of
from voc12.labels import LABELS_FILE
from voc12.lists import CLASSES_FILE, check_id, format_image_list, format_pairs, read_classes, write_text
from voc12.masks import OWN
from voc12.pairs import PAIRS_FILE, add_flags, make_pairs
from voc12.prepare import link, write_labels, write_texts
from voc12.report import Findings, count_classes, list_lines, next_command

YEARS = (2014, 2017)
PARTS = ("train{}", "val{}", "annotations/instances_train{}.json", "annotations/instances_val{}.json")
PUBLISHED = {"train": 82081, "val": 40137}
"""Images of COCO 2014 with an object."""
URLS = {
    "annotations": "http://images.cocodataset.org/annotations/annotations_trainval2014.zip",
    "train2014": "http://images.cocodataset.org/zips/train2014.zip",
    "val2014": "http://images.cocodataset.org/zips/val2014.zip",
}


class Annotations:
    """Instance annotations in a file such as instances_val2014.json; those that cannot be used become findings.

    Attributes:
        names: of the categories in order of their ids.
        objects: id, the photo's name without ending -> (class, is a crowd, polygons or run-length code) of its objects.
        sizes: id -> (H, W).
        summary: line with the numbers of all and of the used annotations and images.
    """

    def __init__(self, path: Path, findings: Findings) -> None:
        try:
            from pycocotools import mask
        except ModuleNotFoundError as error:
            raise UserError("pycocotools: not installed. Run pip install -r requirements-coco.txt.") from error
        self.objects: dict[str, list[tuple[int, bool, Any]]] = {}
        self.sizes: dict[str, tuple[int, int]] = {}
        self._images: dict[int, dict[str, Any]] = {}
        self._coder, self._findings, self._kind = mask, findings, f"annotations of {path.name} that cannot be used"
        try:
            content = json.loads(path.read_bytes())
            categories = {category["id"]: category["name"] for category in content["categories"]}
            self._class_of = {number: c for c, number in enumerate(sorted(categories))}
            self.names = make_classes([categories[number] for number in self._class_of], str(path)).names
            for image in content["images"]:
                if self._images.setdefault(image["id"], image)["file_name"] != image["file_name"]:
                    raise UserError(f"{path}: two photos have the image id {image['id']}. Give each its own.")
            # A list, not a dict of ids: merged files repeat these. Those that are no numbers come first.
            found = [one if isinstance(one, dict) else {} for one in content["annotations"]]
            found.sort(key=lambda one: [isinstance(one.get(key), int) and one[key] for key in ("image_id", "id")])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: no instance annotations in COCO's form ({error!r}). Unpack it again.") from error
        used = sum(map(self._add, found))
        counts = f"{used} of {len(found)} annotations, {len(self.objects)} of {len(self._images)} images"
        self.summary = f"  {path.name}: {counts} with an object"
        if not used:
            reasons = findings.lines()[-1].strip() if found else "Take COCO's instances."
            raise UserError(f"{path}: none of {len(found)} annotations can be used. {reasons}")

    def _add(self, annotation: dict[str, Any]) -> bool:
        """Add an annotation to the objects. Return False if it cannot be used."""
        try:
            for key, known in (("image_id", self._images), ("category_id", self._class_of)):
                if annotation.get(key) not in known:
                    raise ValueError(f"unknown {key} {annotation.get(key)}")
            image, outline = self._images[annotation["image_id"]], annotation.get("segmentation")
            size = image["height"], image["width"]
            if isinstance(outline, dict):
                counts = outline["counts"]
                if tuple(outline["size"]) != size or (isinstance(counts, list) and sum(counts) != size[0] * size[1]):
                    raise ValueError("run-length code of another size than its image")
            else:
                outline = [polygon for polygon in outline or () if len(polygon) >= 6 and len(polygon) % 2 == 0]
                if not outline:
                    raise ValueError("no polygon of three points")
            image_id = check_id(Path(image["file_name"]).stem, "file_name")
        except (UserError, ValueError, KeyError, TypeError) as error:
            self._findings.add(self._kind, f"{annotation.get('id')} ({error})")
            return False
        self.sizes.setdefault(image_id, size)
        c, is_crowd = self._class_of[annotation["category_id"]], bool(annotation.get("iscrowd"))
        self.objects.setdefault(image_id, []).append((c, is_crowd, outline))
        return True

    def label(self, image_id: str) -> np.ndarray:
        """Return the multi-hot label (C,) float32 of an image; crowds of a class count."""
        label = np.zeros(len(self.names), np.float32)
        label[[c for c, *_ in self.objects[image_id]]] = 1
        return label

    def mask(self, image_id: str, values: Mapping[int, int]) -> np.ndarray:
        """Return the label map uint8 (H, W), 0 background; the smaller of overlapping instances wins.

        Of two equal ones the later wins. Pixels of crowds are void where no instance is.

        Args:
            values: class -> value of its pixels; others are background.
        """
        label = np.zeros(self.sizes[image_id], np.uint8)
        instances = []
        for c, is_crowd, outline in self.objects[image_id]:
            if c not in values:
                continue
            try:
                pixels = self._decode(outline, *label.shape)
            except (ValueError, TypeError, OverflowError) as error:  # of damaged polygons and run-length codes
                self._findings.add(self._kind, f"one of {image_id} ({error})")
                continue
            if is_crowd:
                label[pixels] = VOID
            else:
                instances.append((pixels, values[c]))
        for pixels, value in sorted(instances, key=lambda instance: -np.count_nonzero(instance[0])):
            label[pixels] = value
        return label

    def _decode(self, outline: Any, height: int, width: int) -> np.ndarray:
        """Return the pixels, bool (H, W), of polygons or a run-length code."""
        if isinstance(outline, list):
            outline = self._coder.merge(self._coder.frPyObjects(outline, height, width))
        elif isinstance(outline["counts"], list):
            outline = self._coder.frPyObjects(outline, height, width)
        pixels = self._coder.decode(outline)
        if pixels.max() > 1:  # a code that is too short leaves pixels uninitialised
            raise ValueError("damaged run-length code")
        return pixels.astype(bool)


def main(argv: list[str] | None = None) -> None:
    args = get_parser().parse_args(argv)
    year, (*folders, train, val) = locate(args)
    out, findings = args.out or args.coco_root or args.download, Findings()
    files = photos(link_photos(out, folders))
    lists: dict[str, list[str]] = {}
    labels: dict[str, np.ndarray] = {}
    names: dict[str, tuple[str, ...]] = {}
    report = []
    for split, path in (("train", train), ("val", val)):  # one after the other: train takes some GB of memory
        annotations = Annotations(path, findings)
        report.append(annotations.summary)
        names[split], lists[split] = annotations.names, check_photos(files, annotations, findings)
        labels |= {image_id: annotations.label(image_id) for image_id in lists[split]}
    if names["train"] != names["val"]:
        raise UserError(f"{out}/annotations: other categories in train than in val. Take both from one year.")
    if not lists["train"]:
        raise UserError(f"{train}: no photo can be used. {findings.lines()[-1].strip()}")
    shown = np.any([labels[image_id] for image_id in lists["train"]], 0)  # (C,)
    for name in np.array(names["train"])[~shown].tolist():
        findings.add("category names without a photo of train, left out", name)
    labels = {image_id: label[shown] for image_id, label in labels.items() if label[shown].any()}
    lists = {split: [image_id for image_id in ids if image_id in labels] for split, ids in lists.items()}
    trained = {image_id: labels[image_id] for image_id in lists["train"]}
    write_classes(out, np.array(names["train"])[shown].tolist())
    write_masks(out / OWN, lists["val"], annotations, np.flatnonzero(shown).tolist())
    pairs = make_pairs(trained, args.epochs, args.seed)

    texts = {out / f"{name}.txt": format_image_list(ids, name == "val", OWN) for name, ids in lists.items()}
    write_texts(texts | {out / PAIRS_FILE: format_pairs(pairs)})
    write_labels(out / LABELS_FILE, labels)
    report += list_lines(lists | {"pairs": pairs}, PUBLISHED if year == 2014 else None)
    report += [count_classes(trained, read_classes(out), out / CLASSES_FILE), *findings.lines()]
    print("\n".join(["", *report, *next_command(out, out / PAIRS_FILE, len(pairs))]))


def get_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(__doc__)
    add = parser.add_argument
    add("--coco_root", type=Path, metavar="DIR", help="folder that holds train2014, val2014 and annotations")
    get = "fetch what --coco_root, or this folder, lacks of them (13, 6 and 0.2 GB) and unpack it there"
    add("--download", type=Path, metavar="DIR", help=get)
    out = "folder for links to the photos, masks, lists and labels (default: --coco_root, else --download)"
    add("--out", type=Path, metavar="DIR", help=out)
    add_flags(parser)
    return parser


def locate(args: argparse.Namespace) -> tuple[int, list[Path]]:
    """Return COCO's year and the paths of PARTS, fetched if --download asks for it. UserError: one is missing."""
    roots = [root for root in (args.coco_root, args.download) if root is not None]
    if not roots:
        raise UserError("--coco_root: missing. Give it, or --download ROOT to fetch COCO 2014.")
    places = [place for root in roots for place in (root, root / "images")]
    year = next((year for year in YEARS if any((place / f"train{year}").is_dir() for place in places)), YEARS[0])
    for part, url in URLS.items():
        if args.download and year == YEARS[0] and not any((place / part).is_dir() for place in places):
            fetch(args.download, url, part)
    paths = []
    for part in PARTS:
        found = [place / part.format(year) for place in places if (place / part.format(year)).exists()]
        if not found:
            there = [path for inner in ("*", "annotations/*", "images/*") for path in sorted(roots[0].glob(inner))]
            held = summarize_ids([str(path.relative_to(roots[0])) for path in there])
            held = held or f"nothing{nearest_path(roots[0])}"
            problem = f"it holds {held}, but no {part.format(year)}"
            raise UserError(f"--coco_root {roots[0]}: {problem}. Unpack it there, or give --download DIR.")
        paths.append(found[0])
    return year, paths


def link_photos(out: Path, folders: Sequence[Path]) -> Path:
    """Return JPEGImages in `out` with a link to each folder. UserError: it cannot be written."""
    try:
        check_writable(make_folder(out) / CLASSES_FILE)
        remove_leftovers(out)
        for folder in folders:
            inside = Path("..", folder.relative_to(out)) if folder.is_relative_to(out) else folder.resolve()
            link(make_folder(out / "JPEGImages") / folder.name, inside)
    except UserError as error:
        raise UserError(f"{str(error).rstrip('.')}. --out DIR writes to another disk.") from error
    return out / "JPEGImages"


def check_photos(files: Files, annotations: Annotations, findings: Findings) -> list[str]:
    """Return the ids whose photo can be read and is as large as its annotations say; the others become findings."""

    def check_size(image_id: str) -> None:
        path, (height, width) = files.find(image_id), annotations.sizes[image_id]
        if size_of(path) != (height, width):
            raise UserError(f"{path}: not of {width}x{height} pixels, as its annotations")

    problems = dict(check_inputs(list(annotations.objects), [files], check_size))
    for message in problems.values():
        findings.add("photos that cannot be used, left out", message)
    return [image_id for image_id in annotations.objects if image_id not in problems]


def write_classes(out: Path, names: Sequence[str]) -> None:
    """Write the names of the classes. If there were others, back up the masks, whose values mean these."""
    path, text = out / CLASSES_FILE, "".join(f"{name}\n" for name in names)
    if path.exists() and path.read_text(encoding="utf-8") != text and (backup := back_up(out / OWN)):
        print(f"{out / OWN}: of other classes, kept as {backup}")
    write_text(path, text)


def write_masks(folder: Path, ids: Sequence[str], annotations: Annotations, classes: Sequence[int]) -> None:
    """Write the masks that are missing; pixels of the n-th of `classes`, from 1, have the value n."""
    remove_leftovers(make_folder(folder))
    values = {c: value for value, c in enumerate(classes, 1)}
    for image_id in tqdm(ids, "masks", disable=None):
        path = folder / f"{image_id}.png"
        if not path.is_file():
            save_label(path, annotations.mask(image_id, values))


if __name__ == "__main__":
    run_script(main)
