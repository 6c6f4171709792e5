"""Two baselines for a table of results: label PNGs made from image-level labels and saliency alone, without any network.

    python experiment/baselines.py --voc12_root VOC2012 --infer_list voc12/train.txt --sal_path SALIENCY \\
        --out_guess FOLDER --out_background FOLDER

guess: every salient pixel gets one class, the one of the photo's labels whose objects are the largest over the list.
background: every pixel is background. Both are scored by eval.py, as any pseudo labels are.
"""

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":
    # Run as `python experiment/baselines.py`, Python looks for modules in experiment/; ours are found from the repository's root.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
from scipy.optimize import nnls

from pseudo_label.fusion import background_from_saliency, check_fusion
from pseudo_label.manifest import claim_folder, output_of
from tool import cli
from tool.cli import UserError, counted, run_script, summarize_problems
from voc12.folders import SALIENCY_ENDINGS, find_file
from voc12.images import load_grey, save_label
from voc12.inputs import check_inputs, saliency_maps
from voc12.labels import IGNORE_FOREIGN, load_labels
from voc12.lists import read_classes, read_image_list


def class_areas(labels: np.ndarray, salient: np.ndarray) -> np.ndarray:
    """Mean salient area of each of C classes, (C,) >= 0: the least-squares areas that add up to each photo's.

    labels: (N, C) multi-hot. salient: (N,) share of each photo that is salient, 0..1. No pixel label is used.
    """
    return nnls(labels.astype(np.float64), salient.astype(np.float64))[0]


def largest_class(label: np.ndarray, areas: np.ndarray) -> int:
    """Value 1..C of the largest class, by `areas` (C,), of a photo with multi-hot `label` (C,); 0 if it has none."""
    return int(np.argmax(np.where(label > 0, areas, -1.0))) + 1 if label.any() else 0


def salient_pixels(sal_path: Path, image_id: str, theta: float) -> np.ndarray:
    """Where a pseudo label with saliency may be foreground: bool (H, W)."""
    return background_from_saliency(load_grey(find_file(sal_path, image_id, SALIENCY_ENDINGS)), theta) == 0


def write_baselines(
    ids: list[str],
    labels: dict[str, np.ndarray],
    sal_path: Path,
    theta: float,
    out_guess: Path | None,
    out_background: Path | None,
) -> None:
    """Write `<id>.png` of each photo to the folders given. Pixels of saliency up to `theta * 100` are background."""
    ids = list(dict.fromkeys(ids))
    areas = class_areas(
        np.stack([labels[i] for i in ids]), np.array([salient_pixels(sal_path, i, theta).mean() for i in ids])
    )
    for image_id in ids:
        salient = salient_pixels(sal_path, image_id, theta)
        if out_guess is not None:
            guess = salient.astype(np.uint8) * np.uint8(largest_class(labels[image_id], areas))
            save_label(out_guess / f"{image_id}.png", guess)
        if out_background is not None:
            save_label(out_background / f"{image_id}.png", np.zeros(salient.shape, np.uint8))


def get_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(__doc__)
    add = parser.add_argument
    add("--voc12_root", required=True, metavar="DIR", help="folder of the dataset, for its labels")
    add("--infer_list", default="voc12/train.txt", metavar="FILE", help="photos to label")
    add("--sal_path", required=True, type=Path, metavar="DIR", help="grey saliency maps <id>.png")
    add("--theta", type=cli.number(float), default=0.2, help="saliency up to theta x 100 is background")
    add("--ignore_foreign", action="store_true", help=IGNORE_FOREIGN)
    add("--out_guess", type=Path, metavar="DIR", help="write label PNGs of the largest-area guess")
    add("--out_background", type=Path, metavar="DIR", help="write label PNGs that are all background")
    return parser


def main() -> None:
    args = get_parser().parse_args()
    check_fusion(args.theta, saliency=True)
    outputs = {"guess": args.out_guess, "background": args.out_background}
    outputs = {name: folder for name, folder in outputs.items() if folder is not None}
    if not outputs:
        raise UserError("no output asked for: give --out_guess, --out_background or both")
    if len({folder.resolve() for folder in outputs.values()}) < len(outputs):
        raise UserError(f"two outputs in {args.out_guess} would mix; give --out_guess and --out_background one each")
    for name, folder in outputs.items():
        if (held := output_of(folder)) not in (None, f"baseline_{name}"):
            raise UserError(f"{folder} holds other labels ({held}); name another folder")
    ids = read_image_list(args.infer_list)
    labels = load_labels(ids, args.voc12_root, ignore_foreign=args.ignore_foreign, listed_in=args.infer_list)
    if problems := check_inputs(ids, [saliency_maps(args.sal_path)]):
        raise UserError(summarize_problems(problems))
    names = read_classes(args.voc12_root).options().get("class_names", ())
    classes = {"classes": list(names)} if names else {}
    for name, folder in outputs.items():
        claim_folder(folder, {"output": f"baseline_{name}", **classes}, overwrite=False)
    write_baselines(ids, labels, args.sal_path, args.theta, args.out_guess, args.out_background)
    print(f"baselines of {counted(len(labels), 'photos')} written to {' and '.join(map(str, outputs.values()))}")


if __name__ == "__main__":
    run_script(main)
