"""Prepare VOC 2012 for training: lists, masks, labels and training pairs.

    python voc12/prepare.py --voc12_root ROOT --sbd_root SBD     with VOC 2012 and SBD at hand
    python voc12/prepare.py --download DIR                       with neither: both official archives are fetched

Files that are right are kept, so rerun after an interruption.
"""

import argparse
import contextlib
import os
import shlex
import sys
from collections.abc import Container, Mapping, Sequence
from pathlib import Path

if __name__ == "__main__":
    # Run as a script, Python searches voc12/ for modules; ours are found from the repository's root.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from tool.script import run_script

import numpy as np
from tqdm import tqdm

from tool import cli
from tool.cli import UserError, nearest_path
from tool.files import back_up, load_npy_dict, make_folder, remove_leftovers, save_npy_dict
from voc12.classes import VOC
from voc12.dataset import Dataset, check_inputs, deeper_root, label_maps
from voc12.download import SBD, VOC_2012, fetch
from voc12.labels import IGNORE_FOREIGN, LABELS_FILE, read_annotation
from voc12.lists import CLASSES_FILE, format_image_list, format_pairs, read_classes, read_image_list, write_text
from voc12.masks import AUG, OWN, complete_masks, count_aug, find_all
from voc12.pairs import PAIRS_FILE, add_flags, make_pairs
from voc12.report import PUBLISHED, Findings, compare_masks, count_classes, list_lines, next_command
from voc12.sbd import SBD_PAGE

DEEPLAB_LISTS = "ImageSets/SegmentationAug"


def main(argv: list[str] | None = None) -> None:
    args = get_parser().parse_args(argv)
    out, root, sbd_root = locate(args)
    data, findings = Dataset(root, args.ignore_foreign), Findings()
    label_folder = relative_label_dir(root, args.label_dir) if args.label_dir else None
    remove_leftovers(out)

    masks = complete_masks(data, sbd_root, findings, args.repair)
    lists = make_lists(data, masks, findings)
    ids = sorted({*lists["train_aug"], *lists["train"], *lists["val"]})
    labels = read_labels(data, ids, findings)
    check_photos(data, ids, masks, findings)
    if args.per_class:
        lists = first_of_each_class(lists, labels, args.per_class)
    trained = {image_id: labels[image_id] for image_id in lists["train_aug"] if image_id in labels}
    if not trained:
        raise UserError(f"{root / 'Annotations'}: no label for any image of train_aug. Are these its XML files?")
    counts = count_classes(trained, data.classes, root / CLASSES_FILE)
    pairs = make_pairs(trained, args.epochs, args.seed)
    texts = {out / f"{name}.txt": format_image_list(ids, with_mask=name != "test") for name, ids in lists.items()}
    texts[out / PAIRS_FILE] = format_pairs(pairs)
    if label_folder:
        texts |= deeplab_lists(root, label_folder, lists, findings)

    compared = compare_masks(root / (AUG if count_aug(root) else OWN), labels, masks, findings)
    write_texts(texts)
    write_labels(out / LABELS_FILE, labels)
    whole = data.classes == VOC and not args.per_class
    if whole and not count_aug(root) and len(data.photos().ids()) > len(ids):  # SBD has masks of the others
        command = shlex.join(["python", "voc12/prepare.py", "--voc12_root", str(root), "--download", "DIR"])
        findings.add(f"folder missing, so train_aug equals train. `{command}` makes it from SBD ({SBD_PAGE})", AUG)
    report = [*list_lines(lists | {"pairs": pairs}, PUBLISHED if whole else None), counts, compared]
    report += [*findings.lines(), *next_command(root, out / PAIRS_FILE, None if whole else len(pairs))]
    print("\n".join(["", *report]))


def get_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(__doc__)
    add = parser.add_argument
    add("--voc12_root", type=Path, metavar="DIR", help="VOC2012 folder of the devkit, which holds JPEGImages")
    add("--sbd_root", type=Path, metavar="DIR", help=f"SBD, unpacked: gives the masks that {AUG} lacks")
    fetch = "fetch what is missing of VOC 2012 (2 GB) and SBD (1.4 GB) and unpack it in DIR"
    add("--download", type=Path, metavar="DIR", help=fetch)
    repair = f"rewrite masks of {AUG} that are damaged or hold colours; old files are kept as <id>.png.1"
    add("--repair", action="store_true", help=repair)
    deeplab = f"also write lists to {DEEPLAB_LISTS}: kazuto1011/deeplab-pytorch trains with them on these label PNGs"
    add("--label_dir", type=Path, metavar="DIR", help=deeplab)
    add("--ignore_foreign", action="store_true", help=IGNORE_FOREIGN)
    few = "shorter lists for a quick look: the first photos with N of each class; train_aug equals train"
    add("--per_class", type=cli.count(1), metavar="N", help=few)
    out = "folder for lists, labels and pairs (default: voc12/; for other classes than VOC's --voc12_root)"
    add("--out_dir", type=Path, metavar="DIR", help=out)
    add_flags(parser)
    return parser


def locate(args: argparse.Namespace) -> tuple[Path, Path, Path | None]:
    """Return the output folder, the devkit and the SBD folder (None without one), fetched if --download asks for it.

    UserError: flags that exclude each other, or no devkit.
    """
    root, sbd_root = args.voc12_root, args.sbd_root
    classes = read_classes(root)
    if classes != VOC and (sbd_root or args.download):
        raise UserError(f"{root / CLASSES_FILE}: other classes than VOC's. Remove --sbd_root and --download.")
    if args.per_class and (args.label_dir or not args.out_dir):
        raise UserError("--per_class: needs --out_dir, another folder than that of the whole lists, and no --label_dir")
    # Before hours of download. Lists of VOC belong to this repository, those of another dataset to its folder.
    out = make_folder(args.out_dir or (Path(__file__).parent if classes == VOC else root))
    if args.download is not None:
        if root is None or not (root / "JPEGImages").is_dir():
            root = fetch(args.download, *VOC_2012)
        if sbd_root is None and count_aug(root) < PUBLISHED["train_aug"] + PUBLISHED["val"]:
            sbd_root = fetch(args.download, *SBD)
    if root is None:
        raise UserError("--voc12_root: missing. Give it, or --download DIR to fetch VOC 2012.")
    for part in ("JPEGImages", "Annotations", "ImageSets/Segmentation/train.txt", "ImageSets/Segmentation/val.txt"):
        if not (root / part).exists():
            hint = deeper_root(root, "Give the folder VOC2012, or --download DIR to fetch it.")
            raise UserError(f"--voc12_root {root}: no VOC 2012 devkit, it has no {part}{nearest_path(root)}. {hint}")
    return out, root, sbd_root


def make_lists(data: Dataset, masks: Mapping[str, object], findings: Findings) -> dict[str, list[str]]:
    """Return list name -> ids with a photo, sorted; `test` only if the devkit has that list."""
    photos, lists, has_aug = find_all(data.photos(), findings), {}, count_aug(data.root)
    for name in ("train", "val", "test"):
        path = data.root / "ImageSets" / "Segmentation" / f"{name}.txt"
        if name == "test" and not path.exists():  # comes in an archive of its own
            continue
        ids = sorted(set(read_image_list(path, "Unpack the devkit again")))
        lists[name] = _keep(ids, photos, f"images of {name}.txt without a photo, left out", findings)
        if name != "test" and has_aug:
            _keep(lists[name], masks, f"images of {name}.txt without a mask", findings)
    for image_id in sorted(set(lists["train"]) & set(lists["val"])):
        findings.add("images in both train.txt and val.txt", image_id)
    # Without the folder it is unknown which images SBD would add.
    augmented = _keep(list(masks) if has_aug else [], photos, "masks without a photo, left out", findings)
    lists["train_aug"] = sorted(set(augmented or lists["train"]) - set(lists["val"]))
    return lists


def first_of_each_class(
    lists: Mapping[str, list[str]], labels: Mapping[str, np.ndarray], most: int
) -> dict[str, list[str]]:
    """Return shorter train and val: photos of which one class has been taken less than `most` times. train_aug is train."""
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


def relative_label_dir(root: Path, folder: Path) -> str:
    """Return a folder of label PNGs relative to the devkit. UserError: it lies elsewhere, is empty, or has blanks in its name."""
    relative = Path(os.path.relpath(folder, root)).as_posix()
    if relative.startswith(".."):
        raise UserError(f"--label_dir {folder}: not within {root}, where deeplab-pytorch reads. Move or copy it there.")
    if not label_maps(folder).names:
        raise UserError(f"--label_dir {folder}: holds no label PNG. Give the folder that infer_cls.py wrote.")
    if len(relative.split()) != 1:
        raise UserError(f"--label_dir {folder}: deeplab-pytorch reads no list with blanks. Rename the folder.")
    return relative


def deeplab_lists(
    root: Path, label_folder: str, lists: Mapping[str, Sequence[str]], findings: Findings
) -> dict[Path, str]:
    """Return path -> text of deeplab-pytorch's lists: train_aug with the labels in `label_folder`, val with ground truth."""
    train, val = (root / DEEPLAB_LISTS / f"{name}.txt" for name in ("train_aug", "val"))
    missing = f"images of train_aug without a label in {label_folder}, left out of {train}"
    ids = _keep(lists["train_aug"], label_maps(root / label_folder).names, missing, findings)
    truth = AUG if count_aug(root) else OWN
    return {train: format_image_list(ids, folder=label_folder), val: format_image_list(lists["val"], folder=truth)}


def _keep(ids: Sequence[str], known: Container[str], otherwise: str, findings: Findings) -> list[str]:
    """Return those of `ids` that are known; add the others to the findings."""
    for image_id in ids:
        if image_id not in known:
            findings.add(otherwise, image_id)
    return [image_id for image_id in ids if image_id in known]


def read_labels(data: Dataset, ids: Sequence[str], findings: Findings) -> dict[str, np.ndarray]:
    """Return id -> label (C,) float32 of each image with a usable XML; add the others to the findings."""
    labels = {}
    for image_id in tqdm(ids, "labels", disable=None):
        try:
            path = data.annotation_path(image_id)
            labels[image_id] = read_annotation(path, data.ignore_foreign, data.classes)
        except UserError as error:
            findings.add("photos without a usable XML, so in no pair", str(error))
    return labels


def check_photos(data: Dataset, ids: Sequence[str], masks: Mapping[str, object], findings: Findings) -> None:
    """Add photos that cannot be read, and masks of another size than their photo, to the findings."""
    files = label_maps(data.root / AUG if count_aug(data.root) else data.mask_dir)
    with_mask = [image_id for image_id in ids if masks.get(image_id) is not None]
    problems = check_inputs(with_mask, [data.photos(), files])
    problems += check_inputs(sorted(set(ids) - set(with_mask)), [data.photos()])
    for _, message in problems:
        findings.add("photos that cannot be used, or masks of another size", message)


def write_texts(texts: Mapping[Path, str]) -> None:
    """Write texts (path -> text), and print which were right already."""
    for path, text in texts.items():
        make_folder(path.parent)
        print(f"{path}: {'written' if write_text(path, text) else 'already right'}")


def write_labels(path: Path, labels: Mapping[str, np.ndarray]) -> None:
    """Write the labels as PSA, SEAM and IRN read them, unless the file holds the same."""
    with contextlib.suppress(UserError):
        old = load_npy_dict(path)
        if list(old) == list(labels) and all(map(np.array_equal, old.values(), labels.values())):
            print(f"{path}: already right")
            return
    if backup := back_up(path, copy=True):
        print(f"{path}: kept as {backup}")
    save_npy_dict(path, labels)
    print(f"{path}: written")


def link(path: Path, folder: Path) -> None:
    """Make `path` a link to `folder`, absolute or relative to the link. UserError: something else is there."""
    if path.exists() and path.resolve() == (path.parent / folder).resolve():
        return
    try:
        path.symlink_to(folder, target_is_directory=True)
    except OSError as error:
        remedy = "Remove what is there." if os.path.lexists(path) else "Give --out DIR on a disk that has links."
        raise UserError(f"{path}: cannot be linked to {folder} ({error.strerror}). {remedy}") from error


if __name__ == "__main__":
    run_script(main)
