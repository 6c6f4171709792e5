"""Prepare a folder of photos and a table of what they show for training: a dataset in VOC's layout with its own classes.

    python voc12/prepare_photos.py --photos PHOTOS --labels labels.csv --out ROOT

labels.csv has a line `id,class;class` for each photo, with its file name as the id. ROOT gets a link to the photos,
classes.txt (write it yourself for another order than the alphabet's), labels.csv, train.txt and EDAM_train.txt.
Ground truth to score labels with goes into ROOT/SegmentationClass, as <id>.png of label values: rerun the command
then, and it writes with_mask.txt, too.
Files that are right are kept, so rerun after an interruption.
"""

import argparse
import csv
import io
import sys
from pathlib import Path

if __name__ == "__main__":
    # Run as a script, Python searches voc12/ for modules; ours are found from the repository's root.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from tool import cli
from tool.cli import UserError, run_script
from tool.files import make_folder, remove_leftovers
from voc12.classes import fold, make_classes
from voc12.dataset import Dataset, photos
from voc12.labels import CSV_FILE, IGNORE_FOREIGN, read_label_csv, read_label_table
from voc12.lists import CLASSES_FILE, check_id, format_image_list, format_pairs, read_classes, write_text
from voc12.masks import complete_masks
from voc12.pairs import PAIRS_FILE, add_flags, make_pairs
from voc12.prepare import check_photos, link, write_texts
from voc12.report import Findings, count_classes, list_lines, next_command

TRAIN, SCORED = "train.txt", "with_mask.txt"


def main(argv: list[str] | None = None) -> None:
    args = get_parser().parse_args(argv)
    root, findings = args.out, Findings()
    ids = find_photos(args.photos)
    if root.resolve().is_relative_to(args.photos.resolve()):
        raise UserError(f"--out {root}: lies within --photos {args.photos}. Name a folder outside of it.")
    make_folder(root)
    remove_leftovers(root)
    if args.labels:
        write_table(args.labels, root, set(ids), args.ignore_foreign, findings)
    link(root / "JPEGImages", args.photos.resolve())
    data = Dataset(root, args.ignore_foreign)
    failures: list[tuple[str, str]] = []
    labels = data.image_labels(ids, root / TRAIN, failures)
    if not labels:
        raise UserError(f"--photos {args.photos}: no photo has a label; the first: {failures[0][1]}")
    for image_id, _ in failures:
        findings.add("photos without a class in the labels, left out", image_id)
    counts = count_classes(labels, data.classes, root / CLASSES_FILE)
    masks = complete_masks(data, None, findings)
    check_photos(data, list(labels), masks, findings)
    pairs = make_pairs(labels, args.epochs, args.seed)

    lists = {TRAIN: list(labels), SCORED: [image_id for image_id in labels if masks.get(image_id)]}
    lists = {name: listed for name, listed in lists.items() if listed}
    texts = {root / name: format_image_list(listed, with_mask=False) for name, listed in lists.items()}
    write_texts(texts | {root / PAIRS_FILE: format_pairs(pairs)})
    report = [*list_lines(lists | {"pairs": pairs}), counts, *findings.lines()]
    print("\n".join(["", *report, *next_command(root, root / PAIRS_FILE, len(pairs))]))


def get_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(__doc__)
    add = parser.add_argument
    photo_dir = "folder of photos, .jpg or .png, also in sub-folders"
    add("--photos", type=Path, required=True, metavar="DIR", help=photo_dir)
    table = "what each photo shows, `id,class;class` (default: the labels in --out: labels.csv, .npy or XML)"
    add("--labels", type=Path, metavar="FILE", help=table)
    add("--out", type=Path, required=True, metavar="ROOT", help="folder of the dataset, made if missing")
    add("--ignore_foreign", action="store_true", help=IGNORE_FOREIGN)
    add_flags(parser)
    return parser


def find_photos(folder: Path) -> list[str]:
    """Return the ids of the photos in a folder and below. UserError: none, two of one id, or a file name that is no id."""
    files = photos(folder)
    files.check()
    for image_id, names in files.names.items():
        check_id(image_id, str(folder / names[0]))
        if len(names) > 1:
            raise UserError(
                f"--photos {folder}: {' and '.join(names[:3])} have one id, {image_id}. Rename all but one."
            )
    return files.ids()


def write_table(path: Path, root: Path, ids: set[str], ignore_foreign: bool, findings: Findings) -> None:
    """Write the lines of a table that belong to photos to labels.csv in `root`, and classes.txt if it is missing.

    UserError, before anything is written: the table is unreadable or names a class that is not in classes.txt.
    """
    rows: dict[str, list[str]] = {}
    for _, image_id, names in read_label_csv(path):
        rows.setdefault(image_id, []).extend(names)
    for image_id in rows.keys() - ids:
        findings.add(f"lines of {path} without a photo, left out", image_id)
    kept = {image_id: rows[image_id] for image_id in sorted(rows.keys() & ids)}
    if (root / CLASSES_FILE).exists():
        read_label_table(
            path, read_classes(root), ignore_foreign
        )  # raises UserError for an unknown name, with its line
    else:
        spellings: dict[str, str] = {}
        for name in (name for image_id, names in rows.items() if image_id in ids for name in names):
            spellings.setdefault(fold(name), name)
        if not spellings:
            raise UserError(
                f"{path}: no line names a photo and a class. Write `id,class;class`, the id a photo's file name."
            )
        classes = make_classes([spellings[key] for key in sorted(spellings)], str(path))
        write_text(root / CLASSES_FILE, "".join(f"{name}\n" for name in classes.names))
    target = root / CSV_FILE
    if path.resolve() != target.resolve():
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["id", "classes"])
        writer.writerows((image_id, ";".join(dict.fromkeys(names))) for image_id, names in kept.items())
        write_text(target, text.getvalue())


if __name__ == "__main__":
    run_script(main)
