"""Make two baselines for a table of results: label PNGs from image-level labels and saliency alone, without any network.

    python experiment/baselines.py --voc12_root VOC2012 --infer_list voc12/train.txt --sal_path SALIENCY \\
        --out_guess FOLDER --out_background FOLDER

guess: every salient pixel gets one class: of the photo's labels, that of the largest mean area over the list.
background: every pixel is background.
"""

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":
    # Python looks for modules in the script's folder; ours are in the repository's root.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from tool.script import run_script

import numpy as np
from scipy.optimize import nnls

from pseudo_label.fusion import check_fusion
from pseudo_label.manifest import claim_folder
from tool import cli
from tool.cli import counted
from voc12.dataset import Dataset, check_inputs, read_image_list, report_problems, saliency_maps
from voc12.images import load_grey, save_label
from voc12.labels import IGNORE_FOREIGN


def class_areas(labels: np.ndarray, salient: np.ndarray) -> np.ndarray:
    """Return the mean salient area of each of C classes, (C,) >= 0: the least-squares areas that add up to each photo's.

    labels: (N, C) multi-hot. salient: (N,) share of each photo that is salient, 0..1. No pixel label is used.
    """
    return nnls(labels.astype(np.float64), salient.astype(np.float64))[0]


def get_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(__doc__)
    add = parser.add_argument
    add("--voc12_root", required=True, metavar="DIR", help="folder of the dataset, for its labels")
    add("--infer_list", default="voc12/train.txt", metavar="FILE", help="photos to label")
    add("--sal_path", required=True, type=Path, metavar="DIR", help="grey saliency maps <id>.png")
    add("--theta", type=cli.number(float), default=0.2, help="saliency up to theta x 100 is background")
    add("--ignore_foreign", action="store_true", help=IGNORE_FOREIGN)
    add("--out_guess", required=True, type=Path, metavar="DIR", help="label PNGs of the largest-area guess")
    add("--out_background", required=True, type=Path, metavar="DIR", help="label PNGs that are all background")
    return parser


def main() -> None:
    args = get_parser().parse_args()
    check_fusion(args.theta, saliency=True)
    data, saliency = Dataset(args.voc12_root, args.ignore_foreign, need_photos=False), saliency_maps(args.sal_path)
    ids = read_image_list(args.infer_list)
    labels = data.image_labels(ids, args.infer_list)
    report_problems(check_inputs(ids, [saliency]), ids, None, "labelled")
    classes = {"classes": list(names)} if (names := data.classes.options().get("class_names")) else {}
    claim_folder(args.out_guess, {"output": "baseline_guess", **classes})
    claim_folder(args.out_background, {"output": "baseline_background", **classes})
    level = args.theta * 100
    shares = np.array([(load_grey(saliency.find(image_id)) > level).mean() for image_id in labels])
    areas = class_areas(np.stack(list(labels.values())), shares)
    for image_id, label in labels.items():
        largest = np.argmax([-0.5, *np.where(label > 0, areas, -1)])  # 1..C, or 0 for a photo without classes
        salient = load_grey(saliency.find(image_id)) > level
        save_label(args.out_guess / f"{image_id}.png", salient * np.uint8(largest))
        save_label(args.out_background / f"{image_id}.png", np.zeros(salient.shape, np.uint8))
    print(f"baselines of {counted(len(labels), 'photos')} written to {args.out_guess} and {args.out_background}")


if __name__ == "__main__":
    run_script(main)
