"""The whole published table by one command: EDAM, its pseudo labels, DeepLab-v2 on them, every score, and a report.

    python reproduce.py --voc12_root VOC2012 --weights ilsvrc-cls_rna-a1_cls1000_ep-0001.params \\
        --poolnet_weights final.pth --deeplab_weights deeplabv1_resnet101-coco.pth --out RUN
or, a quick look at real photos on a laptop: other, small networks, ImageNet weights from a package, the first photos of each class:
    python reproduce.py --laptop --voc12_root VOC2012 --out RUN
--dry_run checks every input and prints the commands. --try runs all of them, a few steps and photos each. Rerun to resume. Inputs
that you have save steps: --edam_weights (a trained EDAM), --sal_path (saliency maps). --saliency u2netp replaces PoolNet.
"""

import argparse
import os
import shlex
from dataclasses import replace
from pathlib import Path
from tool.script import run_script
from typing import Any

import torch

from experiment.preflight import SOURCES, VOC_SOURCE, check
from experiment.report import write_report
from experiment.runner import Step, is_finished, run_steps, select
from experiment.steps import Plan, command, make_steps, step_names
from network.weights import IMAGENET
from pseudo_label.onnx_saliency import PACKAGES
from tool import cli
from tool.processes import cores

TRY = "A try of a few steps and photos: its scores mean nothing."
SAME = "sbd_root download edam edam_weights poolnet deeplab deeplab_weights seed"  # flags that are fields of a Plan
# --laptop: in place of the published networks, and of their training on 10582 photos
SMALL: dict[str, object] = {"edam": "network.timm_EDAM", "deeplab": "network.deeplab_v2_timm", "saliency": "u2netp"}
SMALL |= {"weights": Path(IMAGENET), "deeplab_weights": Path(IMAGENET)}
PER_CLASS = 25  # photos of each class
SMALL_TRAINING = "--freeze_backbone --lr 0.002 --warmup_steps 20 --batch_size 4 --crop_size 384 --long_side 256 384"
SMALL_SEGMENTATION = "--freeze_backbone --max_iters 400 --batch_size 8 --iter_size 1 --crop_size 321 --lr 0.00025"
SMALL_PLAN: dict[str, Any] = {"prepare": ("--per_class", PER_CLASS, "--epochs", 12), "theta": 0.4}
SMALL_PLAN |= {"fusion": ("--keep_share", 0.1), "segmentation": tuple(SMALL_SEGMENTATION.split())}
SMALL_REMARK = (
    "Not the published networks: heads like EDAM's and DeepLab-v2's on frozen EfficientNet-Lite2. EDAM's masks are "
    "probabilities, which also learn from the labels directly; pixels with saliency up to 40 of 255 become background, but in photos "
    "of several classes, a class that would keep less than 10 % of its CRF pixels keeps all of them. "
    f"Trained on the first {PER_CLASS} photos of each class."
)


def absolute(text: str) -> Path:
    """Argparse type: a path, absolute since commands run in the repository's folder; or IMAGENET."""
    return Path(text) if text == IMAGENET else Path(text).absolute()


def get_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(__doc__)
    add = parser.add_argument
    add("--voc12_root", default="VOC2012", type=absolute, metavar="DIR", help=VOC_SOURCE)
    add("--out", default="reproduction", type=absolute, metavar="DIR", help="output folder")
    add("--sbd_root", type=absolute, metavar="DIR", help="SBD, unpacked, for the masks that the devkit lacks")
    add("--download", type=absolute, metavar="DIR", help="fetch SBD (1.4 GB) to this folder instead")
    for name, what in SOURCES.items():
        add(f"--{name}", type=absolute, metavar="DIR" if name == "sal_path" else "FILE", help=what)
    add("--saliency", choices=PACKAGES, help="U^2-Net for saliency, by ONNX; needs requirements-onnx.txt")
    for flag, name in (("--network", "edam"), ("--poolnet_network", "poolnet"), ("--deeplab_network", "deeplab")):
        default = getattr(Plan, name)
        add(flag, dest=name, default=default, metavar="MODULE", help="module of the network")
    add("--amp", choices=("off", "bf16", "fp16"), default="off", help="compute in mixed precision")
    add("--seed", type=cli.count(), default=0, help="of the pairs, initial weights and training")
    add("--laptop", action="store_true", help="small networks, few photos; needs requirements-timm.txt and -onnx.txt")
    add("--try", dest="few", action="store_true", help="run all with a few steps and photos, in OUT/try")
    add("--dry_run", action="store_true", help="check all inputs, print the commands, run nothing")
    first = "rerun from this step on; finished files and trainings are kept"
    add("--from", dest="first", metavar="STEP", help=f"{first}. Steps: {', '.join(step_names())}")
    add("--only", metavar="STEP", help="run this step alone; its name as for --from")
    return parser


def make_plan(args: argparse.Namespace) -> Plan:
    """Return the plan that the flags ask for."""
    out = args.out / "try" if args.few else args.out
    lists = out / "lists"
    pairs = lists / "EDAM_train.txt"
    plan = Plan(
        out=out,
        root=args.voc12_root,
        lists=lists,
        labelled=lists / "train.txt",
        to_label=lists / "train_aug.txt",
        val=lists / "val.txt",
        weights=None if args.edam_weights else args.weights,
        training=("--lr", 0.001, "--batch_size", 4, "--train_list", pairs),
        saliency=args.sal_path,
        poolnet_weights=None if args.sal_path else args.poolnet_weights,
        saliency_network=None if args.sal_path or args.poolnet_weights else args.saliency,
        processes=1 if args.few else torch.cuda.device_count() or (2 if args.laptop else 1),
        precision=("--amp", args.amp) if args.amp != "off" else (),
        **{name: getattr(args, name) for name in SAME.split()},
    )
    if args.laptop:
        training = ("--train_list", pairs, *SMALL_TRAINING.split())
        plan = replace(plan, to_label=plan.labelled, training=training, **SMALL_PLAN)
    return shorten(plan) if args.few else plan


def shorten(plan: Plan) -> Plan:
    """Return the plan of --try: the first lines of each list, two iterations of DeepLab-v2."""
    pairs, photos, val = (plan.lists / name for name in ("few_pairs.txt", "few.txt", "few_val.txt"))
    heads = ((2, "EDAM_train.txt", pairs), (3, "train.txt", photos), (2, "val.txt", val))
    made = (f"{command('head', '-n', n, plan.lists / name)} > {shlex.quote(str(path))}" for n, name, path in heads)
    fewer = Step("fewer", "Shorter lists for a try", f"sh -c {shlex.quote(' && '.join(made))}")
    training = (*plan.training, "--batch_size", 1, "--train_list", pairs)
    segmentation = (*plan.segmentation, "--max_iters", 2, "--batch_size", 2, "--iter_size", 2)
    plan = replace(plan, fewer=(fewer,), labelled=photos, to_label=photos, val=val)
    return replace(plan, training=training, segmentation=segmentation)


def main() -> None:
    parser = get_parser()
    args = parser.parse_args()
    if args.laptop:
        parser.set_defaults(**SMALL)
        args = parser.parse_args()
    plan = make_plan(args)
    steps = make_steps(plan)
    chosen, again = select(steps, args.first, args.only), bool(args.first or args.only)
    if args.dry_run or not all(is_finished(plan.out, step) for step in chosen):
        check(plan, args.laptop)
    if args.dry_run:
        for step in chosen:
            done = "   # finished already" if is_finished(plan.out, step) and not again else ""
            print(f"\n# {step.name}: {step.title}\n{step.command}{done}")
        return
    # On a CPU small networks train faster in two processes, which share its cores.
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(cores())} if args.laptop else {}
    run_steps(chosen, plan.out, threads, again)
    if all(is_finished(plan.out, step) for step in steps):
        remark = " ".join((SMALL_REMARK,) * args.laptop + (TRY,) * args.few)
        write_report(plan, steps, "EDAM on PASCAL VOC 2012", remark)
    else:
        print("\nother steps are not finished. Run without --only and --from for them and the report.")


if __name__ == "__main__":
    run_script(main, "interrupted. Rerun the same command to resume.")
