"""From a bare VOC 2012 devkit, or from nothing, to ready to train: lists, masks, labels and training pairs.

    python voc12/prepare.py --voc12_root ROOT --sbd_root SBD     with VOC 2012 and SBD at hand
    python voc12/prepare.py --download DIR                       with neither: both official archives are fetched

What is already right is left as it is, so an interrupted run is simply started again.
"""

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

if __name__ == "__main__":
    # Run as `python voc12/prepare.py`, Python looks for modules in voc12/; ours are found from the repository's root.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
from tqdm import tqdm

from tool import cli
from tool.cli import UserError, nearest_path, run_script
from tool.files import load_npy_dict, make_folder, remove_leftovers, save_npy_dict
from voc12.classes import VOC, Classes
from voc12.folders import LABEL_ENDINGS, PHOTO_ENDINGS, files_of
from voc12.images import size_of
from voc12.labels import IGNORE_FOREIGN, LABELS_FILE, annotation_path, read_annotation
from voc12.lists import (
    CLASSES_FILE,
    UNPACK_AGAIN,
    deeper_devkit,
    format_image_list,
    photo_path,
    read_classes,
    read_image_list,
    tell_aside,
    write_text,
)
from voc12.masks import AUG, OWN, Mask, complete_masks, count_aug, files_by_id
from voc12.pairs import EPOCHS, SEED, make_pairs, write_pairs
from voc12.report import PUBLISHED, Findings, check_every_class, class_table, list_table, next_command
from voc12.sbd import SBD_PAGE

PAIRS_FILE = "EDAM_train.txt"
DEEPLAB_LISTS = "ImageSets/SegmentationAug"


def main(argv: list[str] | None = None) -> None:
    args = get_parser().parse_args(argv)
    classes = read_classes(args.voc12_root)
    if classes != VOC and (args.sbd_root or args.download):
        raise UserError(
            f"{args.voc12_root / CLASSES_FILE} names other classes than VOC's: leave out --sbd_root and --download"
        )
    if args.per_class and not args.out_dir:
        raise UserError(f"--per_class {args.per_class}: give --out_dir, another folder than that of the whole lists")
    if args.per_class and args.label_dir:
        raise UserError("--label_dir writes lists of all photos into the devkit: leave out --per_class, or --label_dir")
    # Before hours of download. VOC's lists are this repository's, another dataset's stay with it.
    out = make_folder(args.out_dir or (Path(__file__).parent if classes == VOC else args.voc12_root))
    root, sbd_root = locate(args)
    check_devkit(root)
    label_folder = within(root, args.label_dir) if args.label_dir else None
    remove_leftovers(out)

    findings = Findings()
    masks = complete_masks(root, sbd_root, findings, args.repair, len(classes))
    lists = make_lists(root, masks, findings)
    ids = sorted({*lists["train_aug"], *lists["train"], *lists["val"]})
    labels = read_labels(root, ids, findings, args.ignore_foreign, classes)
    check_photos(root, ids, masks, findings)
    published = PUBLISHED if classes == VOC else {}
    if args.per_class:
        lists, published = first_of_each_class(lists, labels, args.per_class), {}
    paired = {image_id: labels[image_id] for image_id in lists["train_aug"] if image_id in labels}
    if not paired:
        raise UserError(
            f"no image of train_aug has a label in {root / 'Annotations'}, so there is nothing to train on: are these its XML files?"
        )
    if classes != VOC:
        check_every_class(paired, classes, root / CLASSES_FILE)
    pairs = make_pairs(paired, args.epochs, args.seed)
    texts = {out / f"{name}.txt": format_image_list(ids, with_mask=name != "test") for name, ids in lists.items()}
    if label_folder:
        texts |= deeplab_lists(root, label_folder, lists, findings)

    for path, text in texts.items():
        make_folder(path.parent)
        say(path, write_text(path, text))
    say(out / LABELS_FILE, write_labels(out / LABELS_FILE, labels))
    say(out / PAIRS_FILE, write_pairs(out / PAIRS_FILE, pairs))

    if not count_aug(root) and not args.per_class:
        findings.add("folders missing, so train_aug is no more than train (see below)", AUG)
    shown = {image_id: mask.classes for image_id, mask in masks.items() if mask is not None}
    report = [*list_table(lists, published), *class_table(lists, labels, shown, pairs, findings, classes)]
    report.append(f"pairs: {len(pairs) // args.epochs} per epoch, {args.epochs} epochs, {len(pairs)} in all")
    print("\n".join(["", *report, *findings.lines(), *closing(root, out, lists, classes, len(pairs), args.per_class)]))


def get_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(__doc__)
    add = parser.add_argument
    add("--voc12_root", type=Path, metavar="DIR", help="VOC2012 folder of the devkit, the one that holds JPEGImages")
    add("--sbd_root", type=Path, metavar="DIR", help=f"SBD, unpacked: gives the masks that {AUG} lacks")
    fetch = "fetch what is missing of VOC 2012 (2 GB) and SBD (1.4 GB) and unpack it in DIR"
    add("--download", type=Path, metavar="DIR", help=fetch)
    repair = f"rewrite masks of {AUG} that are damaged, or colours instead of class values; the old files are kept in {AUG}.old"
    add("--repair", action="store_true", help=repair)
    deeplab = "for kazuto1011/deeplab-pytorch: also write the lists with which it trains on these label PNGs within --voc12_root, in "
    add("--label_dir", type=Path, metavar="DIR", help=f"{deeplab}{DEEPLAB_LISTS}")
    add("--ignore_foreign", action="store_true", help=IGNORE_FOREIGN)
    few = "for a quick look: shorter train and val, their first photos with N of each class, and train_aug no more than train"
    add("--per_class", type=cli.count(1), metavar="N", help=few)
    add("--epochs", type=cli.count(1), default=EPOCHS, help=f"epochs in {PAIRS_FILE}")
    add("--seed", type=cli.count(), default=SEED, help="same seed, same pairs")
    out = "folder for the lists, labels and pairs; otherwise voc12/ of this repository, for other classes than VOC's --voc12_root"
    add("--out_dir", type=Path, metavar="DIR", help=out)
    return parser


def locate(args: argparse.Namespace) -> tuple[Path, Path | None]:
    """The devkit and the SBD folder (None where there is none), fetched if that was asked for and is needed."""
    root, sbd_root = args.voc12_root, args.sbd_root
    if args.download is None:
        if root is None:
            raise UserError("give --voc12_root ROOT, or --download DIR to fetch VOC 2012")
        return root, sbd_root
    from voc12.download import download_sbd, download_voc  # takes seconds to import, as torch comes with it

    if root is None or not (root / "JPEGImages").is_dir():
        if root is not None:
            print(f"{root} holds no devkit, so the one in {args.download} is used")
        root = download_voc(args.download)
    if sbd_root is None and count_aug(root) < PUBLISHED["train_aug"] + PUBLISHED["val"]:
        sbd_root = download_sbd(args.download)
    return root, sbd_root


def check_devkit(root: Path) -> None:
    """UserError naming the first thing that a devkit has and `root` has not."""
    for part in ("JPEGImages", "Annotations", "ImageSets/Segmentation/train.txt", "ImageSets/Segmentation/val.txt"):
        if (root / part).exists():
            continue
        hint = deeper_devkit(root, "give the folder VOC2012, or --download DIR to fetch it")
        raise UserError(f"--voc12_root {root} is no VOC 2012 devkit, it has no {part}{nearest_path(root)}: {hint}")


def make_lists(root: Path, masks: Mapping[str, Mask | None], findings: Findings) -> dict[str, list[str]]:
    """list name -> ids in order, only those with a photo; `test` only where the devkit has that list."""
    photos = files_by_id(root / "JPEGImages", PHOTO_ENDINGS, findings)
    splits = {}
    for name in ("train", "val", "test"):
        path = root / "ImageSets" / "Segmentation" / f"{name}.txt"
        if name == "test" and not path.exists():  # comes with an archive of its own
            continue
        ids = sorted(set(read_image_list(path, UNPACK_AGAIN)))
        splits[name] = _keep(ids, photos, f"images of {name}.txt without a photo, left out", findings)
        if name != "test" and count_aug(root):
            _keep(splits[name], masks, f"images of {name}.txt without a mask", findings)
    for image_id in sorted(set(splits["train"]) & set(splits["val"])):
        findings.add("images in both train.txt and val.txt", image_id)
    # Without the folder there is nothing to tell which images SBD would add.
    augmented = _keep(sorted(masks), photos, "masks without a photo, left out", findings) if count_aug(root) else ()
    splits["train_aug"] = sorted(set(augmented or splits["train"]) - set(splits["val"]))
    return splits


def first_of_each_class(
    lists: Mapping[str, list[str]], labels: Mapping[str, np.ndarray], most: int
) -> dict[str, list[str]]:
    """Shorter train and val: a photo is taken where one of its classes has been taken less than `most` times; train_aug is train."""
    chosen = dict(lists)
    for name in ("train", "val"):
        taken: np.ndarray | int = 0
        chosen[name] = []
        for image_id in lists[name]:
            label = labels.get(image_id)
            if label is not None and (label * most > taken).any():
                taken = taken + label
                chosen[name].append(image_id)
    return chosen | {"train_aug": chosen["train"]}


def within(root: Path, folder: Path) -> str:
    """A folder of label PNGs as a path relative to the devkit. UserError: it lies elsewhere, holds none, or has blanks in its name."""
    for path, base in ((folder.absolute(), root.absolute()), (folder.resolve(), root.resolve())):
        if ".." in path.parts or not path.is_relative_to(base):
            continue
        if not files_of(folder, LABEL_ENDINGS):
            raise UserError(f"--label_dir {folder} holds no label PNG: give the folder that infer_cls.py wrote")
        relative = path.relative_to(base).as_posix()
        if len(relative.split()) != 1:
            raise UserError(f"--label_dir {folder}: deeplab-pytorch reads no list with blanks in it; rename the folder")
        return relative
    raise UserError(f"--label_dir {folder} is not within {root}, where deeplab-pytorch reads: move or copy it there")


def deeplab_lists(
    root: Path, label_folder: str, lists: Mapping[str, Sequence[str]], findings: Findings
) -> dict[Path, str]:
    """path -> text of the lists of kazuto1011/deeplab-pytorch: train_aug on the labels in `label_folder`, val on ground truth."""
    labels, folder = files_of(root / label_folder, LABEL_ENDINGS), root / DEEPLAB_LISTS
    missing = f"images of train_aug without a label in {label_folder}, left out of {folder / 'train_aug.txt'}"
    return {
        folder / "train_aug.txt": format_image_list(
            _keep(lists["train_aug"], labels, missing, findings), folder=label_folder
        ),
        folder / "val.txt": format_image_list(lists["val"], folder=AUG if count_aug(root) else OWN),
    }


def _keep(ids: Sequence[str], known: Mapping[str, object], otherwise: str, findings: Findings) -> list[str]:
    """Those of `ids` that are known; the others become findings."""
    for image_id in ids:
        if image_id not in known:
            findings.add(otherwise, image_id)
    return [image_id for image_id in ids if image_id in known]


def read_labels(
    root: Path, ids: Sequence[str], findings: Findings, ignore_foreign: bool, classes: Classes = VOC
) -> dict[str, np.ndarray]:
    """id -> label (C,) float32 of each image with a sound XML; the others become findings."""
    labels = {}
    for image_id in tqdm(ids, "labels", disable=None):
        try:
            path = annotation_path(root, image_id)
            if not path.exists():
                findings.add("photos without XML, so without label and in no pair", image_id)
                continue
            labels[image_id] = read_annotation(path, ignore_foreign, classes)
        except UserError as error:
            findings.add("XML files without a usable label, so their photos are in no pair", str(error))
    return labels


def check_photos(root: Path, ids: Sequence[str], masks: Mapping[str, Mask | None], findings: Findings) -> None:
    """Find photos that are cut off, and masks of another size than their photo."""
    for image_id in tqdm(ids, "photos", disable=None):
        path = photo_path(root, image_id)
        try:
            size = size_of(path)
        except UserError as error:
            findings.add("photos that cannot be read", str(error))
            continue
        mask = masks.get(image_id)
        if mask is not None and mask.shape != size:
            findings.add("masks of another size than their photo", image_id)


def write_labels(path: Path, labels: Mapping[str, np.ndarray]) -> bool:
    """Write the labels as the family's repositories read them. False: the file held the same already."""
    try:
        old = load_npy_dict(path)
    except UserError:
        old = {}
    if list(old) == list(labels) and all(
        old[key].dtype == np.float32 and np.array_equal(old[key], labels[key]) for key in labels
    ):
        return False
    tell_aside(path)
    save_npy_dict(path, labels)
    return True


def say(path: Path, written: bool) -> None:
    print(f"{path}: {'written' if written else 'already right'}")


def closing(
    root: Path, out: Path, lists: Mapping[str, Sequence[str]], classes: Classes, pairs: int, per_class: int | None
) -> list[str]:
    """What is missing, where it comes from, and the command to type next."""
    lines = []
    whole = classes == VOC and not per_class
    if not count_aug(root) and whole:
        lines += [
            "",
            f"{root / AUG} is missing, so train_aug is no more than train ({len(lists['train_aug'])} images).",
            f"It is made from SBD ({SBD_PAGE}); to fetch SBD, 1.4 GB, and make it:",
            f"  {shlex.join(['python', 'voc12/prepare.py', '--voc12_root', str(root), '--download', 'DIR'])}",
        ]
    return [*lines, *next_command(root, out / PAIRS_FILE, None if whole else pairs)]


if __name__ == "__main__":
    run_script(main)
