"""Prepare a folder of photos and a table of what they show for training: a dataset in VOC's layout with its own classes.

    python voc12/prepare_photos.py --photos PHOTOS --labels labels.csv --out ROOT

labels.csv is a table `photo,classes` with lines `1.jpg,cat;dog`, or `photo,cat,dog` with lines `1.jpg,1,1`. Photos in a folder for
each class need none: give --labels folders. If several folders hold the same file name, ids are <folder>_<name>. ROOT gets a link to
the photos, classes.txt (write it yourself for another order than the alphabet's), labels.csv, train.txt and EDAM_train.txt. Put ground
truth, <id>.png of label values, into ROOT/SegmentationClass and rerun: with_mask.txt lists it. Files that are right are kept.
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
from voc12.labels import ACCEPT, CSV_FILE, FORMS, IGNORE_FOREIGN, multi_hot, read_label_csv, report_suspicion
from voc12.lists import CLASSES_FILE, check_id, format_image_list, read_classes, write_text
from voc12.masks import check_images, complete_masks
from voc12.pairs import add_flags
from voc12.prepare_steps import Findings, finish, link


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
    labels = data.image_labels(files.ids(), root / "train.txt", failures)
    if not labels:
        raise UserError(f"{root}: no photo has a label. Give --labels.")
    unlabelled = [image_id for image_id, _ in failures]
    if not args.labels:
        check_unlabelled(unlabelled, files, root, args.accept_labels)
    findings["photos without a class in the labels, left out"] += unlabelled
    masks = complete_masks(data, None, findings)
    check_images(data, list(labels), labels, masks, findings)

    lists = {"train": list(labels), "with_mask": [image_id for image_id in labels if masks.get(image_id)]}
    texts = {root / f"{name}.txt": format_image_list(ids, with_mask=False) for name, ids in lists.items() if ids}
    finish(args, data, texts, labels, findings, None, {})


def get_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(__doc__)
    add = parser.add_argument
    add("--photos", type=Path, required=True, metavar="DIR", help="folder of photos; sub-folders are searched, too")
    add("--labels", type=Path, metavar="FILE", help="table of what photos show, or `folders` (default: that in --out)")
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
    dropped = findings[f"names in {path} left out, because they mean no class"]
    for where, image_id, shown in read_rows(path, files, dropped, classes is not None):
        if image_id not in files.names:
            if image_id in files.by_name:
                problem = f"{image_id} may be {' or '.join(files.by_name[image_id][:2])}"
                raise UserError(f"{where}: {problem}. Write their folders in the table, or give --labels folders.")
            findings[f"lines of {path} without a photo, left out"].append(image_id)
            continue
        if classes:
            multi_hot(shown, classes, where, args.ignore_foreign)
        rows.setdefault(image_id, []).extend(shown)
        for name in shown:
            spellings.setdefault(fold(name), name)
    if not spellings:
        raise UserError(f"--labels {path}: names no photo with a class. {FORMS}, 1.jpg being the photo's file name.")
    names = (classes or make_classes([spellings[key] for key in sorted(spellings)], str(path))).names
    check_unlabelled([image_id for image_id in files.ids() if not rows.get(image_id)], files, path, args.accept_labels)
    if classes is None:
        write_text(root / CLASSES_FILE, "".join(f"{name}\n" for name in names))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "classes"])
    writer.writerows((image_id, ";".join(dict.fromkeys(rows[image_id]))) for image_id in sorted(rows))
    write_text(root / CSV_FILE, text.getvalue())


def read_rows(table: Path, files: Files, dropped: list[str], known: bool) -> Iterator[tuple[str, str, list[str]]]:
    """Yield (place for messages, image id, class names) of a table, or of folders. known: as `classes_known`."""
    if str(table) != "folders":
        for number, image_id, names in read_label_csv(table, files.names, dropped, known):
            yield f"{table}, line {number}", image_id, names
        return
    for image_id, (path, *_) in files.names.items():
        name = Path(path).parent.name
        is_class = fold(name) not in NO_CLASS
        if not is_class:
            dropped.append(f"{name} ({image_id})")
        yield str(files.folder / path), image_id, [name] if name and is_class else []


def check_unlabelled(ids: Sequence[str], files: Files, where: Path, accept: bool) -> None:
    """Raise UserError if `ids`, photos without a class, exceed half and not `accept`."""
    if 2 * len(ids) > len(files.names):
        problem = f"gives no class to {len(ids)} of {len(files.names)} photos ({summarize_ids(ids)})"
        report_suspicion(f"{where}: {problem}", accept)


if __name__ == "__main__":
    run_script(main)
