"""Scores of label maps against the ground truth over all pixels that are not void: per label the IoU, TP / (T + P - TP), and others.

Label PNGs:  python eval.py --voc12_root VOC2012 --predict_dir OUT_CRF_PRED
Class maps:  python eval.py --voc12_root VOC2012 --predict_dir OUT_CAM --type npy --curve
Dense CRF:   python eval.py --voc12_root VOC2012 --predict_dir OUT_CRF --type npy --crf --sal_path SALIENCY --theta 0.2
DeepLab-v2:  python eval.py --voc12_root VOC2012 --predict_dir PRED --list voc12/val.txt

mIoU is the mean over the labels that occur in ground truth or prediction. DeepLab's published tables leave out a label that is only
predicted: where there is one, that mean is printed too, as "DeepLab's mIoU". Mean accuracy (TP / T) and frequency-weighted IoU
(weights T) are over the labels of the ground truth; pixel accuracy is the share of right pixels. --json holds all, in percent.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from pseudo_label.fusion import check_fusion
from pseudo_label.manifest import output_of
from pseudo_label.scoring import CURVE, Source, evaluate_image, report
from tool import flags
from tool.errors import UserError, run
from tool.files import atomic_write, check_writable
from tool.wording import nearest_path
from tool.workers import WorkerPool
from voc12.classes import LABELS, VOID
from voc12.folders import files_of
from voc12.inputs import Input, check_inputs, label_maps, saliency_maps, score_files
from voc12.lists import deeper_devkit, read_image_list
from voc12.report import named

# infer_cls.py's outputs -> --type, --crf
WRITTEN = {
    "out_cam": ("npy", False),
    "out_crf": ("npy", True),
    "out_cam_pred": ("png", False),
    "out_crf_pred": ("png", False),
}
CHUNK = 8  # images per task of a worker process
NEARLY_ALL = 0.9


@dataclass
class Evaluation:
    """What is known of some images: the summed confusion, int64 (1 or 100, n, n); (id, message) of those that cannot be read; how many
    show objects in the ground truth, and how many of these are all background in the prediction."""

    total: Any = 0
    problems: list[tuple[str, str]] = field(default_factory=list)
    with_objects: int = 0
    all_background: int = 0

    def add(self, other: "Evaluation") -> None:
        self.total = self.total + other.total
        self.problems += other.problems
        self.with_objects += other.with_objects
        self.all_background += other.all_background


def evaluate_chunk(ids: list[str], source: Source) -> Evaluation:
    """Evaluate some images."""
    result = Evaluation()
    for image_id in ids:
        try:
            matrix = evaluate_image(image_id, source)
        except UserError as error:
            result.problems.append((image_id, str(error)))
            continue
        shown = bool(matrix[0, 1:].any())  # of a curve: at its first theta, which leaves most foreground
        result.add(Evaluation(matrix, [], int(shown), int(shown and not matrix[0, :, 1:].any())))
    return result


def evaluate(ids: list[str], source: Source, workers: int) -> Evaluation:
    """Evaluate all images; the problems come in any order."""
    chunks = [ids[start : start + CHUNK] for start in range(0, len(ids), CHUNK)]
    n = len(source.names)
    result = Evaluation(np.zeros((len(CURVE) if source.curve else 1, n, n), np.int64))
    with tqdm(total=len(ids), unit="image", desc="eval", disable=None) as bar:
        for count, part in run_chunks(chunks, source, workers):
            result.add(part)
            bar.update(count)
    return result


def run_chunks(chunks: list[list[str]], source: Source, workers: int) -> Iterator[tuple[int, Evaluation]]:
    if workers < 2 or len(chunks) < 2:
        for chunk in chunks:
            yield len(chunk), evaluate_chunk(chunk, source)
        return
    with WorkerPool(min(workers, len(chunks))) as pool:
        tasks = {pool.submit(evaluate_chunk, chunk, source): len(chunk) for chunk in chunks}
        try:
            for task in as_completed(tasks):
                yield tasks[task], task.result()
        except BrokenProcessPool as error:
            raise UserError("an evaluation process was killed (out of memory?); try --num_workers 1") from error


def get_parser() -> argparse.ArgumentParser:
    parser = flags.Parser(__doc__)
    add, number = parser.add_argument, flags.number(float)
    add("--predict_dir", required=True, metavar="DIR", type=Path, help="predictions: <id>.png or <id>.npy")
    add("--voc12_root", metavar="DIR", type=Path, help="VOC2012 folder; its SegmentationClass holds the ground truth")
    add(
        "--gt_dir", metavar="DIR", type=Path, help="ground truth <id>.png, in place of --voc12_root's SegmentationClass"
    )
    add("--list", default="voc12/train.txt", metavar="FILE", help="images to evaluate")
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
        type=flags.count(1),
        default=min(8, os.cpu_count() or 1),
        metavar="N",
        help="processes",
    )
    return parser


def check_arguments(args: argparse.Namespace) -> Source:
    """Return the source, or raise UserError for flags that do not go together and folders that do not exist."""
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
    if args.sal_path or (args.type == "npy" and not args.crf):
        theta = 0.5 if args.curve else args.theta  # a curve tries its own
        check_fusion(theta, args.alpha, args.beta, saliency=args.sal_path is not None)
    output = output_of(args.predict_dir)
    if output == "out_prob":
        raise UserError(
            f"{args.predict_dir} holds probabilities (infer_deeplab.py --out_prob): score --out_pred instead"
        )
    if output in WRITTEN and (args.type, args.crf) != WRITTEN[output]:
        kind, crf = WRITTEN[output]
        right = f"--type {kind}" + (" --crf" if crf else ", without --crf" if args.crf else "")
        raise UserError(f"{args.predict_dir} was written with --{output}: it is read with {right}")
    check_type(args)
    fusion = (args.sal_path, args.theta, args.alpha, args.beta)
    return Source(args.predict_dir, gt_dir, args.type == "npy", args.crf, *fusion, args.curve, LABELS, VOID)


def check_type(args: argparse.Namespace) -> None:
    """UserError where --predict_dir holds no file of --type, with a look at what it holds instead."""
    if files_of(args.predict_dir, (f".{args.type}",)):
        return
    hint = "holds label PNGs: give --type png, without --crf and --curve"
    if args.type == "png":
        hint = "holds score files (.npy) and no label PNGs: give --type npy, and --crf where they are CRF probabilities"
    if not files_of(args.predict_dir, (".png", ".npy")):
        hint = f"holds no .{args.type} file: give the folder of the predictions"
    raise UserError(f"--predict_dir {args.predict_dir} {hint}")


def inputs_of(source: Source) -> list[Input]:
    """What is read of each image."""
    predictions = score_files(source.predict_dir) if source.npy else label_maps(source.predict_dir)
    saliency = [saliency_maps(source.sal_path)] if source.sal_path else []
    return [label_maps(source.gt_dir, "ground truth"), predictions, *saliency]


def stop_at(problems: list[tuple[str, str]], ids: list[str], skip: bool) -> None:
    """UserError naming the problems, (id, message), unless such images are to be skipped and others are left."""
    if problems and not (skip and len(problems) < len(ids)):
        remedy = "" if skip or len(problems) == len(ids) else "; --skip_errors leaves such images out"
        every = f" (all: {named([image_id for image_id, _ in problems])})" if len(problems) > 1 else ""
        raise UserError(
            f"{len(problems)} of {len(ids)} images cannot be evaluated, the first: {problems[0][1]}{every}{remedy}"
        )


def tell_idle_flags(args: argparse.Namespace) -> None:
    """Say which settings of the fusion were given though the result does not depend on them."""
    parser = get_parser()
    if args.type == "png":
        flags.tell_idle(args, parser, ("theta", "alpha", "beta"), "on label PNGs, only with --type npy")
        return
    if args.sal_path is None:
        flags.tell_idle(args, parser, ("alpha", "beta"), "without --sal_path")
    if args.curve:
        flags.tell_idle(args, parser, ("theta",), "with --curve, which tries 0.00 to 0.99")
    elif args.crf and args.sal_path is None:
        flags.tell_idle(args, parser, ("theta",), "with --crf, unless --sal_path is given")


def append_log(path: str, text: str) -> None:
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UserError(f"cannot write the log {path}: {error.strerror}") from error


def main() -> None:
    args = get_parser().parse_args()
    source = check_arguments(args)
    tell_idle_flags(args)
    if args.json:
        check_writable(args.json)
    ids = list(dict.fromkeys(read_image_list(args.list)))
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
    text, figures = report(result.total, source, len(ids) - len(problems))
    print(text)
    if args.json:
        with atomic_write(args.json, "w") as file:
            json.dump(figures | {"skipped": [image_id for image_id, _ in problems]}, file, indent=1)
    if logfile:
        settings = " ".join(f"--{name} {value}" for name, value in vars(args).items() if value not in (None, "", False))
        append_log(logfile, f"== {time.strftime('%Y-%m-%d %H:%M:%S')}  {args.comment}\n{settings}\n{text}\n\n")


if __name__ == "__main__":
    run(main)
