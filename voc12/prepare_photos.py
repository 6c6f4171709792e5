"""Prepare a folder of photos and a table of what they show for training: a dataset in VOC's layout with its own classes.

    python voc12/prepare_photos.py --photos PHOTOS --labels labels.csv --out ROOT

labels.csv is a table `photo,classes` with lines `1.jpg,cat;dog`, or `photo,cat,dog` with lines `1.jpg,1,1`. Photos in a folder for
each class need none: give --labels folders. Of equal names in several folders, the ids are <folder>_<name>. ROOT gets a link to
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

if __name__ == "__main__":
    # Run as a script, Python searches voc12/ for modules; ours are found from the repository's root.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from tool.script import run_script

from tool import cli
from tool.cli import UserError, summarize_ids
from tool.files import make_folder, remove_leftovers
from voc12.classes import fold, make_classes
from voc12.dataset import Dataset
from voc12.folders import Files, photos
from voc12.images import PHOTO_ENDINGS
from voc12.label_check import ACCEPT, report_suspicion
from voc12.labels import CSV_FILE, IGNORE_FOREIGN, multi_hot
from voc12.lists import CLASSES_FILE, check_id, format_image_list, format_pairs, read_classes, write_text
from voc12.masks import complete_masks
from voc12.pairs import PAIRS_FILE, add_flags, make_pairs
from voc12.prepare import check_photos, link, write_texts
from voc12.report import Findings, compare_masks, count_classes, list_lines, next_command
from voc12.tables import FORMS, read_label_csv

TRAIN, SCORED = "train.txt", "with_mask.txt"


def main(argv: list[str] | None = None) -> None:
    args = get_parser().parse_args(argv)
    root, findings = args.out, Findings()
    files = find_photos(args.photos)
    ids = files.ids()
    if root.resolve().is_relative_to(args.photos.resolve()):
        raise UserError(f"--out {root}: lies within --photos {args.photos}. Name a folder outside of it.")
    make_folder(root)
    remove_leftovers(root)
    if args.labels:
        write_table(args, files, findings)
    link(root / "JPEGImages", args.photos.resolve())
    data = Dataset(root, args.ignore_foreign)
    failures: list[tuple[str, str]] = []
    labels = data.image_labels(ids, root / TRAIN, failures)
    if not labels:
        raise UserError(f"--photos {args.photos}: no photo has a label; the first: {failures[0][1]}")
    check_unlabelled([image_id for image_id, _ in failures], len(ids), root, args.accept_labels)
    for image_id, _ in failures:
        findings.add("photos without a class in the labels, left out", image_id)
    counts = count_classes(labels, data.classes, root / CLASSES_FILE)
    masks = complete_masks(data, None, findings)
    check_photos(data, list(labels), masks, findings)
    compared = [compare_masks(data.mask_dir, labels, masks, findings)] if masks else []
    pairs = make_pairs(labels, args.epochs, args.seed)

    lists = {TRAIN: list(labels), SCORED: [image_id for image_id in labels if masks.get(image_id)]}
    lists = {name: listed for name, listed in lists.items() if listed}
    texts = {root / name: format_image_list(listed, with_mask=False) for name, listed in lists.items()}
    write_texts(texts | {root / PAIRS_FILE: format_pairs(pairs)})
    report = [*list_lines(lists | {"pairs": pairs}), counts, *compared, *findings.lines()]
    print("\n".join(["", *report, *next_command(root, root / PAIRS_FILE, len(pairs))]))


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


def find_photos(folder: Path) -> Files:
    """Return the photos in a folder and below. UserError: none, two of one id, or a file name that is no id."""
    files = photos(folder)
    files.check()
    files.warn_of_others()
    for image_id, names in files.names.items():
        check_id(image_id, str(folder / names[0]))
        if len(names) > 1:
            raise UserError(
                f"--photos {folder}: {' and '.join(names[:3])} have one id, {image_id}. Rename all but one."
            )
    return files


def read_rows(args: argparse.Namespace, files: Files, dropped: list[str]) -> Iterator[tuple[str, str, list[str]]]:
    """Yield (place for messages, image id, class names) of the table or of each photo's folder. dropped: see `read_label_csv`."""
    if str(args.labels) == "folders":
        for image_id, (path, *_) in files.names.items():
            yield str(args.photos / path), image_id, [Path(path).parent.name] if "/" in path else []
        return
    for number, image_id, names in read_label_csv(args.labels, files.names, dropped):
        where = f"{args.labels}, line {number}"
        if image_id in files.by_name and image_id not in files.names:
            equal = " and ".join(files.by_name[image_id][:2])
            raise UserError(
                f"{where}: {image_id} may be {equal}. Write their folders in the table, or give --labels folders."
            )
        yield where, image_id, names


def write_table(args: argparse.Namespace, files: Files, findings: Findings) -> None:
    """Write the classes of the photos to labels.csv in --out, and classes.txt if it is missing.

    UserError, before anything is written: the table is unreadable, names a class that is not in classes.txt, or lacks most photos.
    """
    root, path = args.out, args.labels
    classes = read_classes(root) if (root / CLASSES_FILE).exists() else None
    rows: dict[str, list[str]] = {}
    spellings: dict[str, str] = {}
    dropped: list[str] = []
    for where, image_id, names in read_rows(args, files, dropped):
        if classes:
            multi_hot(names, classes, where, args.ignore_foreign)
        if image_id not in files.names:
            findings.add(f"lines of {path} without a photo, left out", image_id)
            continue
        rows.setdefault(image_id, []).extend(names)
        for name in names:
            spellings.setdefault(fold(name), name)
    for name in dropped:
        findings.add(f"names in {path} that mean no class, left out", name)
    if not spellings:
        raise UserError(f"{path}: no line names a photo and a class. {FORMS}, 1.jpg being the photo's file name.")
    is_new = classes is None
    classes = classes or make_classes([spellings[key] for key in sorted(spellings)], str(path))
    unlabelled = [image_id for image_id in files.ids() if not rows.get(image_id)]
    check_unlabelled(unlabelled, len(files.names), path, args.accept_labels)
    if is_new:
        write_text(root / CLASSES_FILE, "".join(f"{name}\n" for name in classes.names))
    target = root / CSV_FILE
    if path.resolve() != target.resolve():
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["id", "classes"])
        writer.writerows((image_id, ";".join(dict.fromkeys(rows[image_id]))) for image_id in sorted(rows))
        write_text(target, text.getvalue())


def check_unlabelled(ids: Sequence[str], count: int, where: Path, accept: bool) -> None:
    """Raise UserError if most of `count` photos have no class, those of `ids`, and `accept` is not set."""
    if 2 * len(ids) > count:
        report_suspicion(f"{where}: gives no class to {len(ids)} of {count} photos ({summarize_ids(ids)})", accept)


if __name__ == "__main__":
    run_script(main)
