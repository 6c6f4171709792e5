"""Draw pseudo labels: in VOC's palette, or over their photos; and a contact sheet of the first of them.

Palette PNGs:   python colorful.py --img_path OUT_CRF_PRED --out_path COLOURS
Grey PNGs:      python colorful.py --img_path OUT_CRF_PRED --out_path GREY --grey
Over photos:    python colorful.py --img_path OUT_CRF_PRED --out_path COLOURS --img_root VOC2012 --sheet sheet.png
"""

import argparse
import re
import sys
from pathlib import Path
from tool.script import run_script

import numpy as np
from tqdm import tqdm

from pseudo_label.manifest import claim_folder, read_manifest
from pseudo_label.visualise import contact_sheet, overlay
from tool import VOID, cli
from tool.cli import UserError, counted
from tool.files import check_writable
from voc12.classes import PALETTE, VOC
from voc12.dataset import check_inputs, label_maps, photos, read_image_list, report_problems
from voc12.images import check_values, load_label, load_photo, save_label, save_rgb
from voc12.lists import make_classes, read_classes

SHEET_IMAGES = 24


def get_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(__doc__)
    add = parser.add_argument
    add("--img_path", required=True, metavar="DIR", type=Path, help="label PNGs, <id>.png: 0, class + 1, or 255")
    add("--out_path", required=True, metavar="DIR", type=Path, help="folder for the pictures, <id>.png")
    add("--img_root", metavar="DIR", type=Path, help="dataset, or folder of photos <id>.jpg: draw over the photos")
    add("--opacity", type=cli.number(float, 0, 1), default=0.6, help="of the labels over the photo, 0..1")
    add("--gt_path", metavar="DIR", type=Path, help="ground truth <id>.png, a third column of the sheet")
    add("--sheet", metavar="FILE", type=Path, help=f"contact sheet of the first {SHEET_IMAGES}; needs --img_root")
    add("--grey", action="store_true", help="write class values as grey PNGs, as the published code does")
    add("--list", metavar="FILE", help="images to draw (default: every PNG of --img_path)")
    add("--limit", type=cli.count(1), metavar="N", help="only the first N images (default: all)")
    return parser


def main() -> None:
    # Commands copied from the published README have an em dash for `--`, or its UTF-8 bytes read as Windows-1252.
    args = get_parser().parse_args([re.sub("^(\u2014|\u00e2\u20ac\u201d)", "--", word) for word in sys.argv[1:]])
    if args.sheet and args.img_root is None:
        raise UserError("--sheet: shows the photos, too. Give their folder with --img_root.")
    if args.grey and args.img_root is not None:
        raise UserError("--grey: writes class values, --img_root draws over photos. Give one of them.")
    if args.gt_path and not args.sheet:
        raise UserError("--gt_path: is a column of the contact sheet. Name its file with --sheet.")
    if args.sheet:
        check_writable(args.sheet)
    inputs = [args.img_path, args.gt_path, args.img_root, args.img_root and args.img_root / "JPEGImages"]
    if args.out_path.resolve() in [folder.resolve() for folder in inputs if folder]:
        raise UserError(f"--out_path {args.out_path}: holds files that this run reads. Name another folder.")
    labels = label_maps(args.img_path)
    ids = list(dict.fromkeys(read_image_list(args.list)) if args.list else labels.ids())[: args.limit]
    if not ids:
        labels.check()
    devkit = (args.img_root or Path()) / "JPEGImages"
    photo_files = photos(devkit if devkit.is_dir() else args.img_root) if args.img_root else None
    truths = label_maps(args.gt_path, "ground truth") if args.gt_path else None
    problems = check_inputs(ids, [photo_files, labels] if photo_files else [labels])
    problems += check_inputs(ids[:SHEET_IMAGES], [labels, truths]) if truths else []
    report_problems(problems, ids, None, "drawn")

    classes, made_for = read_classes(args.img_root), read_manifest(args.img_path).get("classes")
    names = (make_classes(made_for, str(args.img_path)) if made_for and classes == VOC else classes).labels
    output = {"output": "grey labels" if args.grey else "overlays" if args.img_root else "colours"}
    output |= {name: str(path.resolve()) for name in ("img_path", "img_root") if (path := getattr(args, name))}
    claim_folder(args.out_path, output)
    rows: list[list[np.ndarray]] = []
    shown: set[int] = set()
    for image_id in tqdm(ids, unit="image", desc="colorful", disable=None):
        in_sheet = args.sheet and len(rows) < SHEET_IMAGES
        drawn = []
        for files in [labels, truths] if truths and in_sheet else [labels]:
            path = files.find(image_id)
            drawn.append(load_label(path))
            values = check_values(path, drawn[-1], len(names))
            shown.update(values if in_sheet else ())
        if photo_files is None:
            save_label(args.out_path / f"{image_id}.png", drawn[0], args.grey)
            continue
        photo = np.array(load_photo(photo_files.find(image_id)))
        pictures = [overlay(photo, label, PALETTE, args.opacity) for label in drawn]
        save_rgb(args.out_path / f"{image_id}.png", pictures[0])
        if in_sheet:
            rows.append([photo, *pictures])
    print(f"{counted(len(ids), 'pictures')} in {args.out_path}")
    if args.sheet:
        headings = ["photo", "pseudo label", "ground truth"][: len(rows[0])]
        key = {names[value]: PALETTE[value] for value in sorted(shown - {0, VOID})}
        save_rgb(args.sheet, contact_sheet(rows, headings, ids, key))
        print(f"contact sheet of {counted(len(rows), 'images')}: {args.sheet}")


if __name__ == "__main__":
    run_script(main)
