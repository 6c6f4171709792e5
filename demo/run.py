"""Run the whole pipeline on drawn pictures, without downloads: the project's own commands, each printed first.

    python demo/run.py --out demo_run

draws a miniature of VOC12, trains, makes pseudo labels, evaluates them, and writes a table (results.md) and a report
(report.html). Rerun to resume; remove the folder to start over.
"""

import argparse
import os
import shlex
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository's root instead of demo/

from tool.script import run_script

import torch

from experiment.report import write_report
from experiment.runner import REPO, Step, run_steps
from experiment.steps import Plan, command, make_steps, session
from tool import cli
from voc12.masks import OWN

POOLNET = "PoolNet"  # session
TRAIN = Path("ImageSets", "Segmentation", "train.txt")  # of a drawn set
SCORED = 200  # photos of the training list whose pseudo labels are scored
# Two processes train these small networks faster than two threads. Other counts would round sums differently.
# GOMP_SPINCOUNT: threads wait 0.1 ms before they sleep, since waking them takes longer than many operations.
PROCESSES, ENVIRONMENT = 2, {"OMP_NUM_THREADS": "2", "GOMP_SPINCOUNT": "20000"}
REMARK = "All photos are drawn. The published figures are of VOC12; their DeepLab-v2 saw 10582 photos, ours 800."


def make_plan(out: Path, seed: int) -> Plan:
    """Return the demo's experiment."""
    root, lists = out / "VOC2012", out / "lists"
    labelled = lists / "labelled.txt"
    shorter = f"head -n {SCORED} {shlex.quote(str(lists / 'train.txt'))} > {shlex.quote(str(labelled))}"
    training = "--batch_size 4 --crop_size 104 --long_side 80 144 --lr 0.02 --warmup_steps 100"
    segmentation = "--batch_size 8 --iter_size 1 --crop_size 96 --max_iters 650 --no-freeze_bn"
    segmentation += " --adamw --lr 0.001 --wt_dec 0.01 --warmup_steps 40"
    watched = "--num_workers 1 --save_every 50"
    return Plan(
        out=out,
        root=root,
        lists=lists,
        labelled=labelled,
        to_label=lists / "train.txt",
        val=lists / "val.txt",
        prepare=("--epochs", 4),
        fewer=(Step("choice", f"Pseudo labels of the first {SCORED} training photos are scored", shorter),),
        edam="network.resnet38_EDAM_tiny",
        weights=out / "backbone.pth",
        training=("--train_list", lists / "EDAM_train.txt", *training.split(), *watched.split(), "--vis_every", 150),
        poolnet="network.poolnet_tiny",
        poolnet_weights=out / "checkpoints" / POOLNET / f"{POOLNET}.pth",
        theta=1.0,  # the maps of a PoolNet that was trained for minutes are softer than the published one's
        fusion=(),  # saliency always decides: these small networks are too sure for the published alpha and beta
        deeplab="network.deeplab_v2_tiny",
        deeplab_weights=out / "single" / "backbone.pth",
        segmentation=(*segmentation.split(), *watched.split()),
        segment=("--flip",),
        processes=min(PROCESSES, torch.cuda.device_count()) if torch.cuda.is_available() else PROCESSES,
        seed=seed,
    )


def make_demo_steps(plan: Plan) -> list[Step]:
    """Return all steps of the demo, in order."""

    def draw(out: Path, seed: int, *words: object) -> str:
        return command("python", "demo/draw.py", "--out", out, "--seed", seed, words)

    single, others = plan.out / "single" / "VOC2012", plan.out / "salient" / "VOC2012"
    draw_single = draw(single.parent, plan.seed + 2, "--single", "--train", 3000, "--val", 0, "--size", 96)
    pretrain = command(
        ("python", "demo/pretrain.py", "--voc12_root", single, "--image_list", single / TRAIN, "--softmax"),
        ("--network", plan.edam, "--epochs", 3, "--long_side", 96, 96, "--seed", plan.seed),
        ("--out", plan.deeplab_weights),
    )
    fine_tune = command(
        ("python", "demo/pretrain.py", "--voc12_root", plan.root, "--image_list", plan.lists / "train_aug.txt"),
        ("--network", plan.edam, "--weights", plan.deeplab_weights, "--epochs", 8, "--long_side", 64, 144),
        ("--seed", plan.seed, "--out", plan.weights),
    )
    draw_others = draw(others.parent, plan.seed + 1, "--train", 1250, "--val", 0)
    train_poolnet = command(
        ("python", "train_sal.py", "--voc12_root", others, "--mask_dir", others / OWN),
        ("--train_list", others / TRAIN, "--network", plan.poolnet),
        ("--crop_size", 128, "--batch_size", 4, "--lr", 0.001, "--max_epoches", 3, "--num_workers", 1),
        ("--vis_every", 100, "--save_every", 50, "--seed", plan.seed, session(plan, POOLNET)),
    )
    initial = [
        Step("single", "Draw photos of one object each, instead of ImageNet's", draw_single),
        Step("pretraining", "DeepLab-v2's initial weights: the backbone as a classifier of these photos", pretrain),
        Step("fine_tuning", "EDAM's initial weights: that backbone as a multi-label classifier", fine_tune),
        Step("salient", "Draw other photos, to train PoolNet on masks of objects of all classes", draw_others),
        Step("saliency_training", "PoolNet, instead of its published weights", train_poolnet),
    ]
    data = Step("data", "Draw a miniature of VOC12", draw(plan.out, plan.seed))
    return [data, *make_steps(plan, initial)]


def get_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(__doc__)
    parser.add_argument("--out", default="demo_run", type=Path, metavar="DIR", help="output folder")
    parser.add_argument("--seed", type=cli.count(), default=0, help="seed of pictures, weights and training")
    return parser


def main() -> None:
    args = get_parser().parse_args()
    os.chdir(REPO)
    given = " ".join(f"{k}={v}" for k, v in ENVIRONMENT.items())
    print(f"All commands are run in {REPO}, with {given}; torchrun's processes have one thread each")
    plan = make_plan(args.out, args.seed)
    steps = make_demo_steps(plan)
    run_steps(steps, plan.out, ENVIRONMENT)
    write_report(plan, steps, "EDAM on drawn photos", REMARK)
    print("`make tensorboard` shows the trainings.")


if __name__ == "__main__":
    run_script(main, "interrupted; rerun `make demo` to resume")
