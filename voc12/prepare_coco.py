"""Prepare MS COCO 2014 for training: a dataset of 80 classes in VOC's layout, in COCO's own folder.

    python voc12/prepare_coco.py --coco_root ROOT         with train2014, val2014 and annotations in ROOT
    python voc12/prepare_coco.py --download ROOT          with none of them: 19 GB from the official servers

Photos with an object are used, as in the field: 82,081 to train on and 40,137 of val, which get masks to score labels with.
Files that are right are kept, so rerun after an interruption.
"""

import argparse
import contextlib
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # Run as a script, Python searches voc12/ for modules; ours are found from the repository's root.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
from tqdm import tqdm

from tool import VOID, cli
from tool.cli import UserError, run_script
from tool.files import make_folder, remove_leftovers
from voc12.classes import make_classes
from voc12.dataset import Dataset, photos
from voc12.images import save_label, size_of
from voc12.labels import LABELS_FILE
from voc12.lists import CLASSES_FILE, check_id, format_image_list, format_pairs, write_text
from voc12.masks import OWN
from voc12.pairs import PAIRS_FILE, add_flags, make_pairs
from voc12.prepare import link, write_labels, write_texts
from voc12.report import Findings, count_classes, list_lines, next_command

PUBLISHED = {"train": 82081, "val": 40137}
"""Images with an object."""
URLS = {
    "annotations": "http://images.cocodataset.org/annotations/annotations_trainval2014.zip",
    "train2014": "http://images.cocodataset.org/zips/train2014.zip",
    "val2014": "http://images.cocodataset.org/zips/val2014.zip",
}


class Annotations:
    """Instance annotations in a file such as instances_val2014.json.

    Attributes:
        classes: categories in order of their ids: label c + 1 is the c-th of them.
        objects: id, the photo's name without ending -> (class, annotation) of its objects and crowds.
    """

    def __init__(self, path: Path) -> None:
        try:
            from pycocotools.coco import COCO
        except ModuleNotFoundError as error:
            raise UserError("pycocotools: not installed. Run pip install -r requirements-coco.txt.") from error
        self.path = path
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # COCO prints how long it takes
                self._coco = COCO(str(path))
            categories = sorted(self._coco.cats.values(), key=lambda category: category["id"])
            self.classes = make_classes([category["name"] for category in categories], str(path))
            class_of = {category["id"]: c for c, category in enumerate(categories)}
            self.objects: dict[str, list[tuple[int, dict[str, Any]]]] = {}
            for found in sorted(self._coco.anns.values(), key=lambda found: (found["image_id"], found["id"])):
                name = Path(self._coco.imgs[found["image_id"]]["file_name"]).stem
                objects = self.objects.setdefault(check_id(name, str(path)), [])
                objects.append((class_of[found["category_id"]], found))
        except (OSError, ValueError, AssertionError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: no instance annotations in COCO's form ({error!r}). Unpack it again.") from error

    def label(self, image_id: str) -> np.ndarray:
        """Return the multi-hot label (C,) float32 of an image; crowds of a class count."""
        label = np.zeros(len(self.classes), np.float32)
        label[[c for c, _ in self.objects[image_id]]] = 1
        return label

    def mask(self, image_id: str) -> np.ndarray:
        """Return the label map uint8 (H, W), 0 background, class + 1; the smaller of overlapping instances wins.

        Of two equal ones the later wins. Pixels of crowds are void where no instance is.
        """
        image = self._coco.imgs[self.objects[image_id][0][1]["image_id"]]
        label = np.zeros((image["height"], image["width"]), np.uint8)
        instances = []
        for c, found in self.objects[image_id]:
            try:
                pixels = self._coco.annToMask(found).astype(bool)  # (H, W)
                assert pixels.shape == label.shape
            except Exception as error:  # damaged polygons and run-length codes raise many types
                problem = f"annotation {found['id']} is damaged ({error!r})"
                raise UserError(f"{self.path}: {problem}. Unpack it again.") from error
            if found.get("iscrowd"):
                label[pixels] = VOID
            else:
                instances.append((pixels, c + 1))
        for pixels, value in sorted(instances, key=lambda instance: -np.count_nonzero(instance[0])):
            label[pixels] = value
        return label


def main(argv: list[str] | None = None) -> None:
    args = get_parser().parse_args(argv)
    root, findings = locate(args), Findings()
    remove_leftovers(root)
    for part in ("train2014", "val2014"):
        link(make_folder(root / "JPEGImages") / part, Path("..", part))
    known = photos(root / "JPEGImages").names
    lists: dict[str, list[str]] = {}
    labels: dict[str, np.ndarray] = {}
    names: dict[str, tuple[str, ...]] = {}
    for split in ("train", "val"):  # one after the other: annotations of train take some GB of memory
        annotations = Annotations(root / f"annotations/instances_{split}2014.json")
        names[split] = annotations.classes.names
        lists[split] = [image_id for image_id in annotations.objects if image_id in known]
        for image_id in annotations.objects.keys() - known.keys():
            findings.add(f"images of {split} without a photo, left out", image_id)
        labels |= {image_id: annotations.label(image_id) for image_id in lists[split]}
    if names["train"] != names["val"]:
        raise UserError(f"{root}/annotations: other categories in train than in val. Take both from one year.")
    classes, trained = annotations.classes, {image_id: labels[image_id] for image_id in lists["train"]}
    counts = count_classes(trained, classes, root / "annotations")
    write_text(root / CLASSES_FILE, "".join(f"{name}\n" for name in classes.names))
    write_masks(Dataset(root), lists["val"], annotations, findings)
    pairs = make_pairs(trained, args.epochs, args.seed)

    texts = {root / f"{name}.txt": format_image_list(ids, name == "val", OWN) for name, ids in lists.items()}
    write_texts(texts | {root / PAIRS_FILE: format_pairs(pairs)})
    write_labels(root / LABELS_FILE, labels)
    report = [*list_lines(lists | {"pairs": pairs}, PUBLISHED), counts, *findings.lines()]
    print("\n".join(["", *report, *next_command(root, root / PAIRS_FILE, len(pairs))]))


def get_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(__doc__)
    add = parser.add_argument
    add("--coco_root", type=Path, metavar="DIR", help="folder that holds train2014, val2014 and annotations")
    fetch = "fetch what --coco_root, or this folder, lacks of them (13, 6 and 0.2 GB) and unpack it there"
    add("--download", type=Path, metavar="DIR", help=fetch)
    add_flags(parser)
    return parser


def locate(args: argparse.Namespace) -> Path:
    """Return the folder of COCO; fetch what is missing if --download asks for it. UserError: something is missing."""
    root = args.coco_root or args.download
    if root is None:
        raise UserError("--coco_root: missing. Give it, or --download ROOT to fetch COCO 2014.")
    for part, url in URLS.items():
        if (root / part).is_dir():
            continue
        if args.download is None:
            raise UserError(
                f"--coco_root {root}: no folder {part}. Unpack {url} there, or fetch it with --download {root}."
            )
        from voc12.download import fetch  # imports torch, which takes seconds

        if fetch(url, part, args.download) != root / part:
            link(root / part, (args.download / part).resolve())
    return root


def write_masks(data: Dataset, ids: Sequence[str], annotations: Annotations, findings: Findings) -> None:
    """Write the masks that are missing; images of another size than their annotations become findings."""
    folder = make_folder(data.mask_dir)
    remove_leftovers(folder)
    for image_id in tqdm(ids, "masks", disable=None):
        path = folder / f"{image_id}.png"
        if path.is_file():
            continue
        mask = annotations.mask(image_id)
        if mask.shape != size_of(data.photo_path(image_id)):
            findings.add("images whose annotations are of another size than their photo", image_id)
        save_label(path, mask)


if __name__ == "__main__":
    run_script(main)
