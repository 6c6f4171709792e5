"""Prepare VOC 2012 for training: lists, masks, labels and training pairs.

    python voc12/prepare.py --voc12_root ROOT --sbd_root SBD     with VOC 2012 and SBD at hand
    python voc12/prepare.py --download DIR                       with neither: both official archives are fetched

Files that are right are kept, so rerun after an interruption.
"""

import argparse
import os
import shlex
import sys
from collections.abc import Container, Mapping, Sequence
from pathlib import Path

if __name__ == "__main__":  # a script's modules are searched for in its own folder, not in the repository's root
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from tool.script import run_script

import numpy as np
from tqdm import tqdm

from tool import cli
from tool.cli import UserError
from tool.files import make_folder, remove_leftovers
from voc12.classes import VOC
from voc12.dataset import Dataset, label_maps
from voc12.download import SBD, VOC_2012, fetch
from voc12.labels import IGNORE_FOREIGN, read_annotation
from voc12.lists import CLASSES_FILE, format_image_list, read_classes, read_image_list
from voc12.masks import AUG, SBD_PAGE, check_images, complete_masks, mask_folder
from voc12.pairs import add_flags
from voc12.prepare_steps import Findings, finish

PUBLISHED = {"train": 1464, "val": 1449, "test": 1456, "train_aug": 10582}  # images per list, train_aug with SBD
Lists = dict[str, list[str]]


def main(argv: list[str] | None = None) -> None:
    args = get_parser().parse_args(argv)
    out, root, sbd_root = locate(args)
    data, findings = Dataset(root, args.ignore_foreign), Findings(list)
    remove_leftovers(out)
    masks = complete_masks(data, sbd_root, findings, args.repair)
    lists = make_lists(data, masks, findings)
    ids = sorted({*lists["train_aug"], *lists["train"], *lists["val"]})
    labels = {}
    for image_id in tqdm(ids, "labels", disable=None):
        try:
            path = data.annotations.find(image_id)
            labels[image_id] = read_annotation(path, data.ignore_foreign, data.classes)
        except UserError as error:
            findings["photos without a usable XML, so in no pair"].append(str(error))
    check_images(data, ids, labels, masks, findings)
    is_whole = data.classes == VOC and not args.per_class
    if is_whole and mask_folder(root) != AUG and len(data.photos.ids()) > len(ids):  # SBD has masks of the others
        command = shlex.join(["python", "voc12/prepare.py", "--voc12_root", str(root), "--download", "DIR"])
        findings[f"folder missing, so train_aug equals train. `{command}` makes it from SBD ({SBD_PAGE})"].append(AUG)
    if args.per_class:
        lists = first_of_each_class(lists, labels, args.per_class)
    trained = {image_id: labels[image_id] for image_id in lists["train_aug"] if image_id in labels}
    if not trained:
        raise UserError(f"{root / 'Annotations'}: no label for any image of train_aug. Are these its XML files?")
    texts = {out / f"{name}.txt": format_image_list(ids, with_mask=name != "test") for name, ids in lists.items()}
    if args.label_dir:
        texts |= deeplab_lists(root, args.label_dir, lists, findings)
    finish(args, data, texts, trained, findings, labels, PUBLISHED if is_whole else {})


def get_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(__doc__)
    add = parser.add_argument
    add("--voc12_root", type=Path, metavar="DIR", help="VOC2012 folder of the devkit, which holds JPEGImages")
    add("--sbd_root", type=Path, metavar="DIR", help=f"SBD, unpacked: gives the masks that {AUG} lacks")
    add("--download", type=Path, metavar="DIR", help="fetch what is missing of VOC (2 GB) and SBD (1.4 GB) into DIR")
    add("--repair", action="store_true", help=f"rewrite damaged or coloured masks of {AUG}; keep <id>.png.1")
    add("--label_dir", type=Path, metavar="DIR", help="label PNGs: also write the lists of kazuto1011/deeplab-pytorch")
    add("--ignore_foreign", action="store_true", help=IGNORE_FOREIGN)
    add("--per_class", type=cli.count(1), metavar="N", help="shorter lists: the first N photos of each class")
    add("--out_dir", type=Path, metavar="DIR", help="folder of lists and labels (default: voc12/, or the root)")
    add_flags(parser)
    return parser


def locate(args: argparse.Namespace) -> tuple[Path, Path, Path | None]:
    """Return the output folder, the devkit and the SBD folder (None without one), fetched if --download asks for it."""
    root, sbd_root = args.voc12_root, args.sbd_root
    classes = read_classes(root)
    if classes != VOC and (sbd_root or args.download):
        raise UserError(f"{root / CLASSES_FILE}: other classes than VOC's. Remove --sbd_root and --download.")
    if args.per_class and (args.label_dir or not args.out_dir):
        raise UserError("--per_class: needs --out_dir, not the folder of the full lists, and excludes --label_dir")
    # Fail before the download. VOC's lists belong to this repository, those of another dataset to its folder.
    out = make_folder(args.out_dir or (os.path.relpath(Path(__file__).parent) if classes == VOC else root))
    if args.download is not None:
        if root is None or not (root / "JPEGImages").is_dir():
            root = fetch(args.download, *VOC_2012)
        if sbd_root is None and len(label_maps(root / AUG).names) < PUBLISHED["train_aug"] + PUBLISHED["val"]:
            sbd_root = fetch(args.download, *SBD)
    if root is None:
        raise UserError("--voc12_root: missing. Give it, or --download DIR to fetch VOC 2012.")
    return out, root, sbd_root


def make_lists(data: Dataset, masks: Mapping[str, object], findings: Findings) -> Lists:
    """Return list name -> ids with exactly one photo, sorted; `test` only if the devkit has that list."""
    photos = {image_id for image_id, paths in data.photos.names.items() if len(paths) == 1}
    has_aug = mask_folder(data.root) == AUG
    lists: Lists = {}
    for name in ("train", "val", "test"):
        path = data.root / "ImageSets" / "Segmentation" / f"{name}.txt"
        if name == "test" and not path.exists():  # comes in an archive of its own
            continue
        ids = sorted(set(read_image_list(path, "Unpack the devkit again")))
        lists[name] = _keep(ids, photos, f"images of {name}.txt without exactly one photo, left out", findings)
        if name == "train" and not lists[name]:
            raise UserError(f"{path}: no photo of it is in {data.photos.folder}. Is it a list of image ids?")
        if name != "test" and has_aug:
            _keep(lists[name], masks, f"images of {name}.txt without a mask", findings)
    findings["images in both train.txt and val.txt"] += sorted(set(lists["train"]) & set(lists["val"]))
    # Without the folder it is unknown which images SBD would add.
    augmented = _keep(sorted(masks) if has_aug else [], photos, "masks without exactly one photo, left out", findings)
    lists["train_aug"] = sorted(set(augmented or lists["train"]) - set(lists["val"]))
    return lists


def _keep(ids: Sequence[str], known: Container[str], otherwise: str, findings: Findings) -> list[str]:
    """Return those of `ids` that are known; add the others to the findings."""
    findings[otherwise] += [image_id for image_id in ids if image_id not in known]
    return [image_id for image_id in ids if image_id in known]


def first_of_each_class(lists: Lists, labels: Mapping[str, np.ndarray], most: int) -> Lists:
    """Return shorter train and val: photos with a class taken less than `most` times before. train_aug is train."""
    chosen: Lists = {"train": [], "val": []}
    for name, ids in chosen.items():
        taken = np.zeros(len(next(iter(labels.values()), ())))
        for image_id in lists[name]:
            if image_id in labels and (taken < most)[labels[image_id] > 0].any():
                taken += labels[image_id]
                ids.append(image_id)
    return {**lists, **chosen, "train_aug": chosen["train"]}


def deeplab_lists(root: Path, folder: Path, lists: Lists, findings: Findings) -> dict[Path, str]:
    """Return path -> text of deeplab-pytorch's lists: train_aug with the label PNGs in `folder`, val with ground truth."""
    relative, made = Path(os.path.relpath(folder, root)).as_posix(), label_maps(folder).names
    if not made or relative.startswith("..") or len(relative.split()) > 1:
        raise UserError(f"--label_dir {folder}: must hold label PNGs, and lie within {root} in a path without blanks.")
    train, val = (root / f"ImageSets/SegmentationAug/{name}.txt" for name in ("train_aug", "val"))
    missing = f"images of train_aug without a label in {relative}, left out of {train}"
    ids = _keep(lists["train_aug"], made, missing, findings)
    truth = mask_folder(root)
    return {train: format_image_list(ids, folder=relative), val: format_image_list(lists["val"], folder=truth)}


if __name__ == "__main__":
    run_script(main)
