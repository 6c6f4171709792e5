"""From a folder of photos and a table of what they show to ready to train: a dataset in VOC's layout, with classes of its own.

    python voc12/prepare_photos.py --photos PHOTOS --labels labels.csv --out ROOT

labels.csv has a line `id,class;class` for each photo, its file name as the id. ROOT gets a link to the photos, classes.txt (which may
be there already, for another order than the alphabet's), labels.csv, train.txt and EDAM_train.txt. Ground truth to score labels with
goes into ROOT/SegmentationClass, <id>.png of label values: run the command again then, and it makes with_mask.txt as well.
What is already right is left as it is.
"""

import argparse
import csv
import io
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

if __name__ == "__main__":
    # Run as `python voc12/prepare_photos.py`, Python looks for modules in voc12/; ours are found from the repository's root.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from tool import cli
from tool.cli import UserError, run_script
from tool.files import make_folder, remove_leftovers
from voc12.classes import fold
from voc12.folders import photos_below
from voc12.label_csv import CSV_FILE, read_label_csv
from voc12.labels import IGNORE_FOREIGN, load_labels, read_table
from voc12.lists import CLASSES_FILE, check_id, format_image_list, make_classes, photo_folder, read_classes, write_text
from voc12.masks import complete_masks
from voc12.pairs import EPOCHS, SEED, make_pairs, write_pairs
from voc12.prepare import PAIRS_FILE, check_photos, say
from voc12.report import Findings, check_every_class, list_table, next_command, per_class

TRAIN, SCORED = "train.txt", "with_mask.txt"


def main(argv: list[str] | None = None) -> None:
    args = get_parser().parse_args(argv)
    root, findings = args.out, Findings()
    ids = find_photos(args.photos)
    if root.resolve().is_relative_to(args.photos.resolve()):
        raise UserError(
            f"--out {root} lies within --photos {args.photos}: name a folder outside, the photos stay as they are"
        )
    make_folder(root)
    remove_leftovers(root)
    if args.labels:
        write_table(args.labels, root, set(ids), args.ignore_foreign, findings)
    link_photos(args.photos, photo_folder(root))
    classes = read_classes(root)
    failures: list[tuple[str, str]] = []
    labels = load_labels(ids, root, failures=failures, ignore_foreign=args.ignore_foreign)
    if not labels:
        raise UserError(f"no photo of {args.photos} has a label; the first: {failures[0][1]}")
    for image_id, _ in failures:
        findings.add("photos that no label says a class of, left out", image_id)
    check_every_class(labels, classes, root / CLASSES_FILE)
    masks = complete_masks(root, None, findings, count=len(classes))
    check_photos(root, list(labels), masks, findings)
    pairs = make_pairs(labels, args.epochs, args.seed)

    lists = {TRAIN: list(labels), SCORED: [image_id for image_id in labels if masks.get(image_id)]}
    lists = {name: ids for name, ids in lists.items() if ids}
    for name, listed in lists.items():
        say(root / name, write_text(root / name, format_image_list(listed, with_mask=False)))
    say(root / PAIRS_FILE, write_pairs(root / PAIRS_FILE, pairs))
    of_pairs = np.bincount([label for *_, label in pairs], minlength=len(classes))
    counts = zip(classes.names, per_class(labels, labels, len(classes)), of_pairs, strict=True)
    report = [*list_table(lists), "photos and pairs per class:"]
    report += [f"  {name:<20}{photos:>8}{number:>8}" for name, photos, number in counts]
    print("\n".join(["", *report, *findings.lines(), *next_command(root, root / PAIRS_FILE, len(pairs))]))


def get_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(__doc__)
    add = parser.add_argument
    add(
        "--photos",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of photos, .jpg or .png, in sub-folders as well",
    )
    table = "what each photo shows, `id,class;class`; without it the labels are those in --out: labels.csv, .npy or XML"
    add("--labels", type=Path, metavar="FILE", help=table)
    add("--out", type=Path, required=True, metavar="ROOT", help="folder of the dataset, made if missing")
    add("--ignore_foreign", action="store_true", help=IGNORE_FOREIGN)
    add("--epochs", type=cli.count(1), default=EPOCHS, help=f"epochs in {PAIRS_FILE}")
    add("--seed", type=cli.count(), default=SEED, help="same seed, same pairs")
    return parser


def find_photos(folder: Path) -> list[str]:
    """The ids of the photos in a folder and below. UserError: none, two of one id, or a file name that can be no id."""
    if not folder.is_dir():
        raise UserError(f"--photos {folder}: no such folder")
    found = photos_below(folder)
    if not found:
        raise UserError(f"--photos {folder} holds no photo (.jpg, .jpeg, .png)")
    for image_id, names in sorted(found.items()):
        check_id(image_id, str(folder / names[0]))
        if len(names) > 1:
            raise UserError(
                f"{folder} holds {' and '.join(names[:3])}: which is the photo {image_id}? Rename the others"
            )
    return sorted(found)


def link_photos(photos: Path, link: Path) -> None:
    """Make `link` a link to the folder of the photos. UserError: something else is there."""
    if link.exists() and link.resolve() == photos.resolve():
        return
    try:
        link.symlink_to(photos.resolve(), target_is_directory=True)
    except OSError as error:
        raise UserError(
            f"cannot link {link} to {photos}: {error.strerror}; remove what is there, or copy the photos there and give it as --photos"
        ) from error


def write_table(path: Path, root: Path, ids: set[str], ignore_foreign: bool, findings: Findings) -> None:
    """Write the lines of the table at `path` that belong to photos to labels.csv in `root`, and classes.txt if it is not there.

    UserError: the table can't be read or names a class that is not in classes.txt; nothing is written then.
    """
    rows: dict[str, list[str]] = {}
    spellings: dict[str, str] = {}
    for _, image_id, names in read_label_csv(path):
        rows.setdefault(image_id, []).extend(names)
        for name in names if image_id in ids else ():
            spellings.setdefault(fold(name), name)
    for image_id in rows.keys() - ids:
        findings.add(f"lines of {path} without a photo, left out", image_id)
    if (root / CLASSES_FILE).exists():
        read_table(path, read_classes(root), ignore_foreign)  # an unknown name is an error that says its line
    else:
        if not spellings:
            raise UserError(
                f"{path}: no line is of a photo; a line is `id,class;class`, the id a photo's name without its ending"
            )
        classes = make_classes([spellings[key] for key in sorted(spellings)], str(path))
        say(root / CLASSES_FILE, write_text(root / CLASSES_FILE, "".join(f"{name}\n" for name in classes.names)))
    target = root / CSV_FILE
    if path.resolve() != target.resolve():
        kept = ((image_id, rows[image_id]) for image_id in sorted(rows.keys() & ids))
        say(target, write_text(target, format_table(kept)))


def format_table(rows: Iterable[tuple[str, Sequence[str]]]) -> str:
    """The text of a labels.csv."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "classes"])
    writer.writerows((image_id, ";".join(dict.fromkeys(names))) for image_id, names in rows)
    return text.getvalue()


if __name__ == "__main__":
    run_script(main)
