"""Pseudo labels in colour: the VOC palette, or drawn over their photos; and a contact sheet of the first of them.

Palette PNGs:   python colorful.py --img_path OUT_CRF_PRED --out_path COLOURS
Grey PNGs:      python colorful.py --img_path OUT_CRF_PRED --out_path GREY --grey
Over photos:    python colorful.py --img_path OUT_CRF_PRED --out_path COLOURS --img_root VOC2012 --sheet sheet.png
"""

import argparse
import re
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

from pseudo_label.manifest import claim_folder, classes_of
from pseudo_label.metrics import out_of_range
from pseudo_label.visualise import contact_sheet, overlay
from tool import VOID, cli
from tool.cli import UserError, counted, nearest_path, run_script, summarize_problems
from voc12 import inputs
from voc12.classes import PALETTE, VOC, Classes
from voc12.folders import LABEL_ENDINGS, PHOTO_ENDINGS, files_of, find_file
from voc12.images import load_label, load_photo, save_label, save_rgb
from voc12.lists import make_classes, read_classes, read_image_list
from voc12.palette import explain

SHEET_IMAGES = 24


def get_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(__doc__)
    add = parser.add_argument
    add("--img_path", required=True, metavar="DIR", type=Path, help="label PNGs, <id>.png: 0, class + 1, or 255")
    add(
        "--out_path", required=True, metavar="DIR", type=Path, help="folder for the pictures, <id>.png; made if missing"
    )
    add(
        "--img_root",
        metavar="DIR",
        type=Path,
        help="folder of the dataset, or a folder of photos <id>.jpg: draw over the photos",
    )
    add("--opacity", type=cli.number(float, 0, 1), default=0.6, help="of the labels over the photo, 0..1")
    add("--gt_path", metavar="DIR", type=Path, help="ground truth <id>.png, a third column of the sheet")
    add(
        "--sheet",
        metavar="FILE",
        type=Path,
        help=f"contact sheet PNG of the first {SHEET_IMAGES} images; needs --img_root",
    )
    grey = (
        "write class values as grey PNGs, the form of the published code, which cv2.imread(FILE, 0) reads as they are"
    )
    add("--grey", action="store_true", help=grey)
    add("--list", metavar="FILE", help="the images to draw, as infer_cls.py's list (default: every PNG of --img_path)")
    add("--limit", type=cli.count(1), metavar="N", help="only the first N images (default: all)")
    return parser


def find_classes(args: argparse.Namespace) -> Classes:
    """Those of the dataset in --img_root, or those that the labels were made for."""
    classes, names = read_classes(args.img_root), classes_of(args.img_path)
    return make_classes(names, str(args.img_path)) if names and classes == VOC else classes


def read_label(path: Path, count: int) -> np.ndarray:
    """A label map of `count` labels. UserError: it holds other values."""
    label = load_label(path)
    if values := out_of_range(np.where(label == VOID, 0, label), count):
        most = count - 1
        raise UserError(
            f"{path} holds the value {values[0]}; label maps hold 0..{most}, and {VOID} for void{explain(label, count)}"
        )
    return label


def find_ids(args: argparse.Namespace) -> list[str]:
    """Check flags and folders and return the ids to draw; raise UserError where there are none."""
    if args.sheet and args.img_root is None:
        raise UserError("--sheet shows the photos too: give their folder with --img_root")
    if args.grey and args.img_root is not None:
        raise UserError("--grey writes class values, --img_root draws over photos: give one of them")
    if args.gt_path and not args.sheet:
        raise UserError("--gt_path is a column of the contact sheet: name its file with --sheet")
    for flag, folder in (("--img_path", args.img_path), ("--img_root", args.img_root), ("--gt_path", args.gt_path)):
        if folder is not None and not folder.is_dir():
            raise UserError(f"{flag} folder {folder} does not exist{nearest_path(folder)}")
        if folder is not None and args.out_path.resolve() in (folder.resolve(), (folder / "JPEGImages").resolve()):
            raise UserError(f"--out_path is the {flag} folder too; name another one")
    if args.list:
        return read_image_list(args.list)[: args.limit]
    ids = sorted(files_of(args.img_path, LABEL_ENDINGS))
    if not ids:
        raise UserError(f"--img_path folder {args.img_path} holds no .png file")
    return ids[: args.limit]


def photo_folder(args: argparse.Namespace) -> Path | None:
    devkit = args.img_root and args.img_root / "JPEGImages"
    return devkit if devkit and devkit.is_dir() else args.img_root


def check_files(ids: list[str], args: argparse.Namespace) -> None:
    """UserError naming the files that are missing or of another size than their label map, before the first is drawn."""
    labels, folder = inputs.label_maps(args.img_path), photo_folder(args)
    problems = inputs.check_inputs(ids, [*([inputs.photos(folder)] if folder else []), labels])
    if args.gt_path:
        sound = [image_id for image_id in ids[:SHEET_IMAGES] if image_id not in dict(problems)]
        problems += inputs.check_inputs(sound, [labels, inputs.label_maps(args.gt_path, "ground truth")])
    if problems:
        raise UserError(summarize_problems(problems))


def main() -> None:
    # The published page has a long dash in place of two hyphens, some copies of it the dash's UTF-8 bytes read as Windows-1252.
    args = get_parser().parse_args([re.sub("^(\u2014|\u00e2\u20ac\u201d)", "--", word) for word in sys.argv[1:]])
    ids = find_ids(args)
    check_files(ids, args)
    labels = find_classes(args).labels
    output = {"output": "grey labels" if args.grey else "overlays" if args.img_root else "colours"}
    output |= {name: str(path.resolve()) for name in ("img_path", "img_root") if (path := getattr(args, name))}
    claim_folder(args.out_path, output, overwrite=False, remedy="name another folder")
    photos = photo_folder(args)

    rows: list[list[np.ndarray]] = []
    shown: set[int] = set()
    for image_id in tqdm(ids, unit="image", desc="colorful", disable=None):
        label = read_label(find_file(args.img_path, image_id, LABEL_ENDINGS), len(labels))
        if photos is None:
            save_label(args.out_path / f"{image_id}.png", label, args.grey)
            continue
        photo = np.array(load_photo(find_file(photos, image_id, PHOTO_ENDINGS)))
        drawn = overlay(photo, label, PALETTE, args.opacity)
        save_rgb(args.out_path / f"{image_id}.png", drawn)
        if args.sheet and len(rows) < SHEET_IMAGES:
            rows.append([photo, drawn])
            shown |= set(np.unique(label).tolist())
            if args.gt_path:
                truth = read_label(find_file(args.gt_path, image_id, LABEL_ENDINGS), len(labels))
                rows[-1].append(overlay(photo, truth, PALETTE, args.opacity))
                shown |= set(np.unique(truth).tolist())
    print(f"{counted(len(ids), 'pictures')} in {args.out_path}")
    if args.sheet:
        headings = ["photo", "pseudo label", "ground truth"][: len(rows[0])]
        across = 1 if len(rows) < 4 else 2
        key = {labels[value]: PALETTE[value] for value in sorted(shown - {0, VOID})}
        save_rgb(args.sheet, contact_sheet(rows, headings, ids[: len(rows)], key=key, across=across))
        print(f"contact sheet of {counted(len(rows), 'images')}: {args.sheet}")


if __name__ == "__main__":
    run_script(main)
