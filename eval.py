"""Scores of label maps against the ground truth over all pixels that are not void: per label the IoU, TP / (T + P - TP), and others.

Label PNGs:  python eval.py --voc12_root VOC2012 --predict_dir OUT_CRF_PRED
Class maps:  python eval.py --voc12_root VOC2012 --predict_dir OUT_CAM --type npy --curve
Dense CRF:   python eval.py --voc12_root VOC2012 --predict_dir OUT_CRF --type npy --crf --sal_path SALIENCY --theta 0.2
DeepLab-v2:  python eval.py --voc12_root VOC2012 --predict_dir PRED --list voc12/val.txt
Saliency:    python eval.py --saliency --gt_dir DUTS-TE-Mask --predict_dir SALIENCY

mIoU is the mean over the labels that occur in ground truth or prediction. DeepLab's published tables leave out a label that is only
predicted: where there is one, that mean is printed too, as "DeepLab's mIoU". Mean accuracy (TP / T) and frequency-weighted IoU
(weights T) are over the labels of the ground truth; pixel accuracy is the share of right pixels. --json holds all, in percent.

Of saliency maps it prints, in 0..1, the mean absolute error and the maximum F-measure (beta^2 = 0.3) of the precisions and recalls at
256 thresholds, which are means over the images. Ground truth is grey masks, salient above one half, or the devkit's label maps.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

from pseudo_label.evaluation import evaluate
from pseudo_label.fusion import check_fusion
from pseudo_label.manifest import check_classes, output_of
from pseudo_label.saliency_scores import SaliencySource, saliency_report
from pseudo_label.scoring import Source, report
from tool import VOID, cli
from tool.cli import UserError, nearest_path, run_script, summarize_ids
from tool.files import atomic_write, check_writable
from voc12.folders import SALIENCY_ENDINGS, files_of
from voc12.inputs import Input, check_inputs, grey_masks, label_maps, saliency_maps, score_files
from voc12.lists import deeper_devkit, read_classes, read_image_list

# infer_cls.py's outputs -> --type, --crf
WRITTEN = {
    "out_cam": ("npy", False),
    "out_crf": ("npy", True),
    "out_cam_pred": ("png", False),
    "out_crf_pred": ("png", False),
    "out_plain_pred": ("png", False),
}
NEARLY_ALL = 0.9


def get_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(__doc__)
    add, number = parser.add_argument, cli.number(float)
    add("--predict_dir", required=True, metavar="DIR", type=Path, help="predictions: <id>.png or <id>.npy")
    add("--voc12_root", metavar="DIR", type=Path, help="dataset's folder; its SegmentationClass holds the ground truth")
    add(
        "--gt_dir", metavar="DIR", type=Path, help="ground truth <id>.png, in place of --voc12_root's SegmentationClass"
    )
    listed = "images to evaluate (default: voc12/train.txt; with --saliency and --gt_dir alone every mask there)"
    add("--list", metavar="FILE", help=listed)
    saliency = "score saliency maps, against grey masks in --gt_dir or, with --voc12_root, label maps: any class, void left out"
    add("--saliency", action="store_true", help=saliency)
    add("--type", choices=("png", "npy"), default="png", help="png: label maps; npy: class maps")
    add("--crf", action="store_true", help="npy: the files hold CRF probabilities, background included (--out_crf)")
    add(
        "--theta",
        type=number,
        default=0.5,
        help="npy: background score; with --sal_path, saliency up to theta x 100 is background",
    )
    add("--sal_path", metavar="DIR", type=Path, help="npy: grey saliency maps <id>.png, fused as in infer_cls.py")
    add("--alpha", type=number, default=0.0, help="npy with --sal_path: scores below it are out")
    add("--beta", type=number, default=1.0, help="npy with --sal_path: scores above it win")
    add("--curve", action="store_true", help="npy: every theta from 0.00 to 0.99; prints each mIoU and the best")
    add(
        "--skip_errors",
        action="store_true",
        help="leave out images whose files are missing or wrong, and say which (default: fail)",
    )
    add("--json", metavar="FILE", help="also write the result to this file, as JSON")
    add(
        "--logfile",
        metavar="FILE",
        help="append the result to this text file (default: none, evallog.txt with --comment)",
    )
    add("--comment", default="", metavar="TEXT", help="a title for the entry in the log file")
    add(
        "--num_workers",
        type=cli.count(1),
        default=min(8, os.cpu_count() or 1),
        metavar="N",
        help="processes",
    )
    return parser


def check_arguments(args: argparse.Namespace) -> Source | SaliencySource:
    """Return the source, or raise UserError for flags that do not go together and folders that do not exist."""
    if args.saliency and (args.type != "png" or args.crf or args.curve or args.sal_path):
        raise UserError("--saliency scores grey maps, --type npy, --crf, --curve and --sal_path scores of classes")
    if args.type == "png" and (args.crf or args.curve or args.sal_path):
        raise UserError("--crf, --curve and --sal_path turn scores into labels; they need --type npy")
    if args.curve and args.crf and args.sal_path is None:
        raise UserError("--curve scans background thresholds, and the CRF has its own background; give --sal_path too")
    if args.gt_dir is None and args.voc12_root is None:
        raise UserError("the ground truth is missing: give --voc12_root, or its label PNGs with --gt_dir")
    gt_dir = args.gt_dir or args.voc12_root / "SegmentationClass"
    for what, folder in (("--predict_dir", args.predict_dir), ("ground truth", gt_dir), ("--sal_path", args.sal_path)):
        if folder is not None and not folder.is_dir():
            hint = what == "ground truth" and args.gt_dir is None and deeper_devkit(args.voc12_root, "")
            raise UserError(f"{what} folder {folder} does not exist{nearest_path(folder)}{f'; {hint}' if hint else ''}")
    labels = read_classes(args.voc12_root or gt_dir.parent).labels
    if args.saliency:
        check_type(args)
        return SaliencySource(args.predict_dir, gt_dir, len(labels) if args.voc12_root else None)
    if args.sal_path or (args.type == "npy" and not args.crf):
        theta = 0.5 if args.curve else args.theta  # a curve tries its own
        check_fusion(theta, args.alpha, args.beta, saliency=args.sal_path is not None)
    output = output_of(args.predict_dir)
    if output == "out_prob":
        raise UserError(
            f"{args.predict_dir} holds probabilities (infer_deeplab.py --out_prob): score --out_pred instead"
        )
    if output == "out_sal":
        raise UserError(f"{args.predict_dir} was written with --{output}: it is read with --saliency")
    if output in WRITTEN and (args.type, args.crf) != WRITTEN[output]:
        kind, crf = WRITTEN[output]
        right = f"--type {kind}" + (" --crf" if crf else ", without --crf" if args.crf else "")
        raise UserError(f"{args.predict_dir} was written with --{output}: it is read with {right}")
    check_type(args)
    check_classes(args.predict_dir, labels[1:])
    fusion = (args.sal_path, args.theta, args.alpha, args.beta)
    return Source(args.predict_dir, gt_dir, args.type == "npy", args.crf, *fusion, args.curve, labels, VOID)


def check_type(args: argparse.Namespace) -> None:
    """UserError where --predict_dir holds no file of --type, with a look at what it holds instead."""
    if files_of(args.predict_dir, SALIENCY_ENDINGS if args.saliency else (f".{args.type}",)):
        return
    hint = "holds label PNGs: give --type png, without --crf and --curve"
    if args.type == "png":
        hint = "holds score files (.npy) and no label PNGs: give --type npy, and --crf where they are CRF probabilities"
    if args.saliency or not files_of(args.predict_dir, (".png", ".npy")):
        hint = f"holds no .{args.type} file: give the folder of the predictions"
    raise UserError(f"--predict_dir {args.predict_dir} {hint}")


def images_of(args: argparse.Namespace) -> list[str]:
    """The images to evaluate, each once."""
    if args.saliency and args.list is None and args.voc12_root is None:
        if ids := sorted(files_of(args.gt_dir, SALIENCY_ENDINGS)):
            return ids
        raise UserError(f"--gt_dir {args.gt_dir} holds no mask ({', '.join(SALIENCY_ENDINGS[:3])})")
    args.list = args.list or "voc12/train.txt"
    return list(dict.fromkeys(read_image_list(args.list)))


def inputs_of(source: Source | SaliencySource) -> list[Input]:
    """What is read of each image."""
    if isinstance(source, SaliencySource):
        truth = grey_masks if source.labels is None else label_maps
        return [truth(source.gt_dir, "ground truth"), saliency_maps(source.predict_dir)]
    predictions = score_files(source.predict_dir) if source.npy else label_maps(source.predict_dir)
    saliency = [saliency_maps(source.sal_path)] if source.sal_path else []
    return [label_maps(source.gt_dir, "ground truth"), predictions, *saliency]


def stop_at(problems: list[tuple[str, str]], ids: list[str], skip: bool) -> None:
    """UserError naming the problems, (id, message), unless such images are to be skipped and others are left."""
    if problems and not (skip and len(problems) < len(ids)):
        remedy = "" if skip or len(problems) == len(ids) else "; --skip_errors leaves such images out"
        every = f" (all: {summarize_ids([image_id for image_id, _ in problems])})" if len(problems) > 1 else ""
        raise UserError(
            f"{len(problems)} of {len(ids)} images cannot be evaluated, the first: {problems[0][1]}{every}{remedy}"
        )


def warn_unused(args: argparse.Namespace) -> None:
    """Say which settings of the fusion were given though the result does not depend on them."""
    parser = get_parser()
    if args.type == "png":
        cli.warn_unused_flags(args, parser, ("theta", "alpha", "beta"), "on PNGs, only with --type npy")
        return
    if args.sal_path is None:
        cli.warn_unused_flags(args, parser, ("alpha", "beta"), "without --sal_path")
    if args.curve:
        cli.warn_unused_flags(args, parser, ("theta",), "with --curve, which tries 0.00 to 0.99")
    elif args.crf and args.sal_path is None:
        cli.warn_unused_flags(args, parser, ("theta",), "with --crf, unless --sal_path is given")


def append_log(path: str, text: str) -> None:
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UserError(f"cannot write the log {path}: {error.strerror}") from error


def main() -> None:
    args = get_parser().parse_args()
    source = check_arguments(args)
    warn_unused(args)
    if args.json:
        check_writable(args.json)
    ids = images_of(args)
    logfile = args.logfile or ("evallog.txt" if args.comment else None)
    if logfile:
        append_log(logfile, "")  # an unwritable log shows now, not after the work

    problems = check_inputs(ids, inputs_of(source))
    stop_at(problems, ids, args.skip_errors)
    bad = dict(problems)
    result = evaluate([image_id for image_id in ids if image_id not in bad], source, args.num_workers)
    bad |= result.problems
    problems = [(image_id, bad[image_id]) for image_id in ids if image_id in bad]
    stop_at(problems, ids, args.skip_errors)
    for _, message in problems:
        print(f"skipped: {message}", file=sys.stderr)

    if result.with_objects and result.all_background >= NEARLY_ALL * result.with_objects:
        print(
            f"note: {result.all_background} of the {result.with_objects} predictions whose ground truth shows objects are all "
            f"background; was {source.predict_dir} made with the right weights and labels, --theta and saliency (0..255)?",
            file=sys.stderr,
        )
    count = len(ids) - len(problems)
    if isinstance(source, SaliencySource):
        text, figures = saliency_report(result.total, source, count)
    else:
        text, figures = report(result.total, source, count)
    print(text)
    if args.json:
        with atomic_write(args.json, "w") as file:
            json.dump(figures | {"skipped": [image_id for image_id, _ in problems]}, file, indent=1)
    if logfile:
        settings = " ".join(f"--{name} {value}" for name, value in vars(args).items() if value not in (None, "", False))
        append_log(logfile, f"== {time.strftime('%Y-%m-%d %H:%M:%S')}  {args.comment}\n{settings}\n{text}\n\n")


if __name__ == "__main__":
    run_script(main)
