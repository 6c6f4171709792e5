"""Prepare a folder of photos and a table of what they show for training: a dataset in VOC's layout with its own classes.

    python voc12/prepare_photos.py --photos PHOTOS --labels labels.csv --out ROOT

labels.csv is a table `photo,classes` with lines `1.jpg,cat;dog`, or `photo,cat,dog` with lines `1.jpg,1,1`. Photos in a folder for
each class need none: give --labels folders. If several folders hold the same file name, ids are <folder>_<name>. ROOT gets a link to
the photos, classes.txt (write it yourself for another order than the alphabet's), labels.csv, train.txt and EDAM_train.txt.
Ground truth to score labels with goes into ROOT/SegmentationClass, as <id>.png of label values: rerun the command
then, and it writes with_mask.txt, too.
Files that are right are kept, so rerun after an interruption.
"""

import argparse
import csv
import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

if __name__ == "__main__":  # a script's modules are searched for in its own folder, not in the repository's root
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from tool.script import run_script

from tool import cli
from tool.cli import UserError, summarize_ids
from tool.files import make_folder, remove_leftovers
from voc12.classes import NO_CLASS, fold, make_classes
from voc12.dataset import Dataset, Files, photos
from voc12.images import PHOTO_ENDINGS
from voc12.labels import ACCEPT, CSV_FILE, FORMS, IGNORE_FOREIGN, multi_hot, read_label_csv, report_suspicion
from voc12.lists import CLASSES_FILE, check_id, format_image_list, read_classes, write_text
from voc12.masks import check_images, complete_masks
from voc12.pairs import add_flags
from voc12.prepare_steps import Findings, finish, link

TRAIN, SCORED = "train.txt", "with_mask.txt"


def main(argv: list[str] | None = None) -> None:
    args = get_parser().parse_args(argv)
    root, findings = args.out, Findings(list)
    files = photos(args.photos)
    files.warn_of_others()
    files.check()
    for image_id in files.names:
        check_id(image_id, str(files.find(image_id)))
    if root.resolve().is_relative_to(args.photos.resolve()):
        raise UserError(f"--out {root}: lies within --photos {args.photos}. Name a folder outside of it.")
    remove_leftovers(make_folder(root))
    if args.labels:
        write_table(args, files, findings)
    link(root / "JPEGImages", args.photos.resolve())
    data = Dataset(root, args.ignore_foreign)
    failures: list[tuple[str, str]] = []
    labels = data.image_labels(files.ids(), root / TRAIN, failures)
    if not labels:
        raise UserError(f"{root}: no photo has a label. Give --labels; the first: {failures[0][1]}")
    if not args.labels:
        check_unlabelled([image_id for image_id, _ in failures], files, root, args.accept_labels)
    for image_id, _ in failures:
        findings["photos without a class in the labels, left out"].append(image_id)
    masks = complete_masks(data, None, findings)
    check_images(data, list(labels), labels, masks, findings)

    lists = {root / TRAIN: list(labels), root / SCORED: [image_id for image_id in labels if masks.get(image_id)]}
    texts = {path: format_image_list(ids, with_mask=False) for path, ids in lists.items() if ids}
    finish(args, data, texts, labels, findings)


def get_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(__doc__)
    add = parser.add_argument
    photo_dir = f"folder of photos ({', '.join(PHOTO_ENDINGS)}), also in sub-folders"
    add("--photos", type=Path, required=True, metavar="DIR", help=photo_dir)
    table = "table of what each photo shows, or `folders`: the name of a photo's folder is its class (default: the labels in --out)"
    add("--labels", type=Path, metavar="FILE", help=table)
    add("--accept_labels", action="store_true", help=ACCEPT)
    add("--out", type=Path, required=True, metavar="ROOT", help="folder of the dataset, made if missing")
    add("--ignore_foreign", action="store_true", help=IGNORE_FOREIGN)
    add_flags(parser)
    return parser


def write_table(args: argparse.Namespace, files: Files, findings: Findings) -> None:
    """Write the classes of the photos to labels.csv in --out, and classes.txt if it is missing.

    UserError, before anything is written: the table is unreadable, names a class that is not in classes.txt, or lacks most photos.
    """
    root, path = args.out, args.labels
    classes = read_classes(root) if (root / CLASSES_FILE).exists() else None
    rows: dict[str, list[str]] = {}
    spellings: dict[str, str] = {}
    dropped: list[str] = []
    for where, image_id, shown in read_rows(args, files, dropped):
        if image_id not in files.names:
            findings[f"lines of {path} without a photo, left out"].append(image_id)
            continue
        if classes:
            multi_hot(shown, classes, where, args.ignore_foreign)
        rows.setdefault(image_id, []).extend(shown)
        for name in shown:
            spellings.setdefault(fold(name), name)
    for name in dropped:
        findings[f"names in {path} left out, because they mean no class"].append(name)
    if not spellings:
        raise UserError(f"--labels {path}: names no photo with a class. {FORMS}, 1.jpg being the photo's file name.")
    names = (classes or make_classes([spellings[key] for key in sorted(spellings)], str(path))).names
    check_unlabelled([image_id for image_id in files.ids() if not rows.get(image_id)], files, path, args.accept_labels)
    if classes is None:
        write_text(root / CLASSES_FILE, "".join(f"{name}\n" for name in names))
    if path.resolve() != (root / CSV_FILE).resolve():
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["id", "classes"])
        writer.writerows((image_id, ";".join(dict.fromkeys(rows[image_id]))) for image_id in sorted(rows))
        write_text(root / CSV_FILE, text.getvalue())


def read_rows(args: argparse.Namespace, files: Files, dropped: list[str]) -> Iterator[tuple[str, str, list[str]]]:
    """Yield (place for messages, image id, class names) of the table or of each photo's folder. dropped: see `read_label_csv`."""
    if str(args.labels) == "folders":
        for image_id, (path, *_) in files.names.items():
            name = Path(path).parent.name
            if fold(name) in NO_CLASS:
                dropped.append(f"{name} ({image_id})")
                name = ""
            yield str(args.photos / path), image_id, [name] if name else []
        return
    has_classes = (args.out / CLASSES_FILE).exists()
    for number, image_id, names in read_label_csv(args.labels, files.names, dropped, has_classes):
        where = f"{args.labels}, line {number}"
        if image_id in files.by_name and image_id not in files.names:
            problem = f"{image_id} may be {' and '.join(files.by_name[image_id][:2])}"
            raise UserError(f"{where}: {problem}. Write their folders in the table, or give --labels folders.")
        yield where, image_id, names


def check_unlabelled(ids: Sequence[str], files: Files, where: Path, accept: bool) -> None:
    """Raise UserError if most photos have no class, those of `ids`, and `accept` is not set."""
    if 2 * len(ids) > len(files.names):
        problem = f"gives no class to {len(ids)} of {len(files.names)} photos ({summarize_ids(ids)})"
        report_suspicion(f"{where}: {problem}", accept)


if __name__ == "__main__":
    run_script(main)
