"""From the official MS COCO 2014 to ready to train: a dataset of 80 classes in VOC's layout, in the same folder.

    python coco14/prepare.py --coco_root ROOT         with train2014, val2014 and annotations in ROOT
    python coco14/prepare.py --download ROOT          with none of them: 19 GB from the official servers

Photos with an object are taken, as the field does: 82081 to train on and 40137 of val. Those of val get masks to score labels with:
classes in the order of their category ids, the smaller of overlapping instances on top, crowds void. What is already there is left
as it is, so an interrupted run is simply started again.
"""

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":
    # Run as `python coco14/prepare.py`, Python looks for modules in coco14/; ours are found from the repository's root.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
from tqdm import tqdm

from coco14.annotations import Annotations
from tool import cli
from tool.cli import UserError, run_script
from tool.files import make_folder, remove_leftovers
from voc12.folders import photos_below
from voc12.images import save_label, size_of
from voc12.labels import LABELS_FILE
from voc12.lists import CLASSES_FILE, format_image_list, photo_folder, photo_path, write_text
from voc12.masks import OWN
from voc12.pairs import EPOCHS, SEED, make_pairs, write_pairs
from voc12.prepare import PAIRS_FILE, say, write_labels
from voc12.report import Findings, check_every_class, list_table, next_command

SPLITS = ("train", "val")
PUBLISHED = {"train": 82081, "val": 40137}
"""Images with an object."""
_URLS = {
    "annotations": "http://images.cocodataset.org/annotations/annotations_trainval2014.zip",
    "train2014": "http://images.cocodataset.org/zips/train2014.zip",
    "val2014": "http://images.cocodataset.org/zips/val2014.zip",
}


def main(argv: list[str] | None = None) -> None:
    args = get_parser().parse_args(argv)
    root, findings = locate(args), Findings()
    remove_leftovers(root)
    for split in SPLITS:
        link_photos(root, f"{split}2014")
    photos = photos_below(photo_folder(root))
    lists: dict[str, list[str]] = {}
    labels: dict[str, np.ndarray] = {}
    for split in SPLITS:  # one after the other: of train the annotations take some GB of memory
        annotations = Annotations(root / f"annotations/instances_{split}2014.json")
        lists[split] = [image_id for image_id in annotations.images if image_id in photos]
        for image_id in annotations.images.keys() - photos.keys():
            findings.add(f"images of {split} without a photo, left out", image_id)
        labels |= {image_id: annotations.label(image_id) for image_id in lists[split]}
        classes = annotations.classes
        if split == "train":
            names = "".join(f"{name}\n" for name in classes.names)
        elif names != "".join(f"{name}\n" for name in classes.names):
            raise UserError(
                f"{annotations.path} has other categories than instances_train2014.json: are they of one year?"
            )
        else:
            write_masks(root, lists[split], annotations, findings)
    trained = {image_id: labels[image_id] for image_id in lists["train"]}
    check_every_class(trained, classes, root / "annotations")
    pairs = make_pairs(trained, args.epochs, args.seed)

    say(root / CLASSES_FILE, write_text(root / CLASSES_FILE, names))
    for split, ids in lists.items():
        text = format_image_list(ids, with_mask=split == "val", folder=OWN)
        say(root / f"{split}.txt", write_text(root / f"{split}.txt", text))
    say(root / LABELS_FILE, write_labels(root / LABELS_FILE, labels))
    say(root / PAIRS_FILE, write_pairs(root / PAIRS_FILE, pairs))
    report = [*list_table(lists, PUBLISHED, "COCO 2014"), f"classes: {len(classes)}, pairs: {len(pairs)}"]
    print("\n".join(["", *report, *findings.lines(), *next_command(root, root / PAIRS_FILE, len(pairs))]))


def get_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(__doc__)
    add = parser.add_argument
    add("--coco_root", type=Path, metavar="DIR", help="folder that holds train2014, val2014 and annotations")
    fetch = "fetch what --coco_root, or this folder, lacks of them (13, 6 and 0.2 GB) and unpack it there"
    add("--download", type=Path, metavar="DIR", help=fetch)
    add("--epochs", type=cli.count(1), default=EPOCHS, help=f"epochs in {PAIRS_FILE}")
    add("--seed", type=cli.count(), default=SEED, help="same seed, same pairs")
    return parser


def locate(args: argparse.Namespace) -> Path:
    """The folder of COCO, with what is missing fetched if that was asked for. UserError: something is missing."""
    root = args.coco_root or args.download
    if root is None:
        raise UserError("give --coco_root ROOT, or --download ROOT to fetch COCO 2014")
    for part, url in _URLS.items():
        if (root / part).is_dir():
            continue
        if args.download is None:
            raise UserError(
                f"--coco_root {root} has no folder {part}: unpack {url} there, or --download {root} fetches it"
            )
        from tool.download import fetch  # takes seconds to import, as torch comes with it

        if fetch(url, None, url.rsplit("/", 1)[1], part, args.download) != root / part:
            (root / part).symlink_to((args.download / part).resolve(), target_is_directory=True)
    return root


def link_photos(root: Path, part: str) -> None:
    """A link to the folder of photos within JPEGImages."""
    link = make_folder(photo_folder(root)) / part
    if link.exists():
        return
    try:
        link.symlink_to(Path("..") / part, target_is_directory=True)
    except OSError as error:
        raise UserError(f"cannot link {link} to {root / part}: {error.strerror}") from error


def write_masks(root: Path, ids: list[str], annotations: Annotations, findings: Findings) -> None:
    """Masks that are not there yet, <id>.png; an image whose photo has another size becomes a finding."""
    folder = make_folder(root / OWN)
    remove_leftovers(folder)
    for image_id in tqdm(ids, "masks", disable=None):
        path = folder / f"{image_id}.png"
        if path.is_file():
            continue
        mask = annotations.mask(image_id)
        if mask.shape != size_of(photo_path(root, image_id)):
            findings.add("images whose annotations are of another size than their photo", image_id)
        save_label(path, mask)


if __name__ == "__main__":
    run_script(main)
