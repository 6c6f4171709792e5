"""Score predictions against ground truth over all pixels that are not void: IoU of each label, TP / (T + P - TP), and more.

Label PNGs:  python eval.py --voc12_root VOC2012 --predict_dir OUT_CRF_PRED
Class maps:  python eval.py --voc12_root VOC2012 --predict_dir OUT_CAM --type npy --curve
Dense CRF:   python eval.py --voc12_root VOC2012 --predict_dir OUT_CRF --type npy --crf --sal_path SALIENCY --theta 0.2
DeepLab-v2:  python eval.py --voc12_root VOC2012 --predict_dir PRED --list voc12/val.txt
Saliency:    python eval.py --saliency --gt_dir DUTS-TE-Mask --predict_dir SALIENCY

mIoU is over the labels that occur in ground truth or prediction. "DeepLab's mIoU", mean accuracy (TP / T) and frequency-weighted
IoU (weights T) are over those of the ground truth; pixel accuracy is the share correct. --json holds all, in percent.
Saliency maps get, in 0..1, the mean absolute error, and the maximum F-measure (beta^2 = 0.3) of the precisions and recalls at
256 thresholds, means over the images. Ground truth is grey masks, salient above one half, or the devkit's label maps.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tool.script import run_script

from pseudo_label.evaluate import Score, evaluate, report_labels, report_saliency, score_labels, score_saliency
from pseudo_label.fusion import check_fusion
from pseudo_label.manifest import check_classes, read_manifest
from tool import VOID, cli
from tool.cli import UserError, counted
from tool.files import atomic_write, check_writable
from voc12.dataset import Dataset, Files, check_inputs, label_maps, report_problems, saliency_maps
from voc12.labels import find_suspicion, report_suspicion
from voc12.lists import read_classes, read_image_list

# What a folder holds by its manifest -> the flags to evaluate it.
REMEDIES = {
    "out_cam": "--type npy",
    "out_crf": "--type npy --crf",
    "out_sal": "--saliency",
    "out_prob": "the folder of --out_pred",
}


def get_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(__doc__)
    add, number = parser.add_argument, cli.number(float)
    add("--predict_dir", required=True, metavar="DIR", type=Path, help="predictions: <id>.png or <id>.npy")
    add("--voc12_root", metavar="DIR", type=Path, help="dataset's folder; its SegmentationClass holds the ground truth")
    add("--gt_dir", metavar="DIR", type=Path, help="ground truth <id>.png, instead of the dataset's SegmentationClass")
    listed = "images to evaluate (default: voc12/train.txt; with --saliency and --gt_dir alone every mask there)"
    add("--list", metavar="FILE", help=listed)
    add("--saliency", action="store_true", help="score saliency maps (no --voc12_root: against grey masks)")
    add("--type", choices=("png", "npy"), default="png", help="png: label maps; npy: class maps")
    add("--crf", action="store_true", help="npy: the files hold CRF probabilities, background included (--out_crf)")
    add("--theta", type=number, default=0.5, help="npy: background score; with --sal_path: saliency limit / 100")
    add("--sal_path", metavar="DIR", type=Path, help="npy: grey saliency maps <id>.png, fused as in infer_cls.py")
    add("--alpha", type=number, default=0.0, help="npy with --sal_path: scores below it are out")
    add("--beta", type=number, default=1.0, help="npy with --sal_path: scores above it win")
    add("--curve", action="store_true", help="npy: every theta from 0.00 to 0.99; prints each mIoU and the best")
    add("--skip_errors", action="store_true", help="skip images whose files are missing or wrong, and name them")
    add("--json", metavar="FILE", help="also write the result to this file, as JSON")
    add("--logfile", metavar="FILE", help="append the result to this file (default with --comment: evallog.txt)")
    add("--comment", default="", metavar="TEXT", help="a title for the entry in the log file")
    add("--num_workers", type=cli.count(1), default=min(8, os.cpu_count() or 1), metavar="N", help="processes")
    return parser


def make_source(args: argparse.Namespace, data: Dataset | None) -> tuple[Score, Callable, list[Files]]:
    """Return how to score and to report, and the files of each image: ground truth, prediction, and saliency map to fuse.

    UserError: flags contradict each other or what the folder holds.
    """
    if args.saliency and args.type == "npy":
        raise UserError("--saliency: cannot be used with --type npy")
    if args.type == "png" and (args.crf or args.curve or args.sal_path):
        raise UserError("--crf, --curve and --sal_path: turn scores into labels. They need --type npy.")
    if args.curve and args.crf and args.sal_path is None:
        raise UserError("--curve: the CRF has its own background, without a threshold. Give --sal_path too.")
    gt_dir = args.gt_dir or (data.masks.folder if data else None)
    if gt_dir is None:
        raise UserError("the ground truth is missing. Give --voc12_root, or its label PNGs with --gt_dir.")
    given = "--saliency" if args.saliency else f"--type {args.type}{' --crf' * args.crf}"
    output = read_manifest(args.predict_dir).get("output")
    if output in REMEDIES and REMEDIES[output] != given:
        raise UserError(f"--predict_dir {args.predict_dir}: was written with --{output}. Give {REMEDIES[output]}.")
    names = (data.classes if data else read_classes(gt_dir.parent)).labels
    if args.saliency:
        truth = label_maps if data else saliency_maps
        files = [truth(gt_dir, "ground truth"), saliency_maps(args.predict_dir)]
        return partial(score_saliency, len(names) if data else None), report_saliency, files
    if args.sal_path or (args.type == "npy" and not args.crf):
        check_fusion(args.theta, args.alpha, args.beta, saliency=args.sal_path is not None)
    check_classes(args.predict_dir, names[1:])
    scores = Files("score file", args.predict_dir, (".npy",))
    files = [label_maps(gt_dir, "ground truth"), scores if args.type == "npy" else label_maps(args.predict_dir)]
    files += [saliency_maps(args.sal_path)] if args.sal_path else []
    return partial(score_labels, names, args), partial(report_labels, names, args), files


def warn_unused(args: argparse.Namespace) -> None:
    """Print which of the fusion's flags were given although they have no effect."""
    used = {"alpha", "beta"} if args.sal_path else set()
    if args.type == "npy" and not args.curve and (args.sal_path or not args.crf):
        used.add("theta")
    unused = [name for name in ("theta", "alpha", "beta") if name not in used]
    cli.warn_unused_flags(args, get_parser(), unused, "with these flags; see --help")


def main() -> None:
    args = get_parser().parse_args()
    data = Dataset(args.voc12_root, need_photos=False) if args.voc12_root else None
    score, report, files = make_source(args, data)
    warn_unused(args)
    if args.saliency and not args.list and data is None:
        files[0].check()
        ids = files[0].ids()
    else:
        args.list = args.list or "voc12/train.txt"
        ids = list(dict.fromkeys(read_image_list(args.list)))
    logfile = args.logfile or ("evallog.txt" if args.comment else None)
    for path in filter(None, (args.json, logfile)):  # fail now, not after the work
        check_writable(path)

    left = report_problems(check_inputs(ids, files), ids, args.skip_errors, "evaluated")
    total, values, empty, problems = evaluate(left, files, score, args.num_workers)
    left = report_problems(problems, left, args.skip_errors, "evaluated")
    labels = data.find_labels(left, args.list) if data else {}
    report_suspicion(find_suspicion(files[0].folder, values, labels), None)
    objects = sum(not {0, VOID}.issuperset(held) for held in values.values())
    is_baseline = read_manifest(args.predict_dir).get("output") == "baseline_background"
    if 0 < 0.9 * objects <= empty and not is_baseline:
        problem = f"{empty} of the {objects} predictions for photos with objects are background only"
        remedy = f"Check the weights, labels, --theta and saliency of {args.predict_dir}."
        print(f"note: {problem}. {remedy}", file=sys.stderr)
    lines, figures = report(total, len(left))
    text = "\n".join([*lines, f"{counted(len(left), 'images')} of {args.predict_dir} against {files[0].folder}"])
    print(text)
    if args.json:
        skipped = sorted(set(ids).difference(left), key=ids.index)
        with atomic_write(args.json, "w") as file:
            json.dump(figures | {"skipped": skipped}, file, indent=1)
    if logfile:
        settings = " ".join(f"--{name} {value}" for name, value in vars(args).items() if value not in (None, "", False))
        with open(logfile, "a", encoding="utf-8") as file:
            file.write(f"== {time.strftime('%Y-%m-%d %H:%M:%S')}  {args.comment}\n{settings}\n{text}\n\n")


if __name__ == "__main__":
    run_script(main)
