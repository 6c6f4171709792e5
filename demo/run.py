"""EDAM on drawn pictures, from nothing: runs the project's own commands one after the other, and shows each.

    python demo/run.py --out demo_run

draws a miniature of VOC12, trains, makes pseudo labels, evaluates them, and ends with a table (results.md) and a picture
(overview.png). Interrupted, the same command goes on: finished steps are left out, the training resumes. To start anew,
remove the folder.
"""

import argparse
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    # Run as `python demo/run.py`, Python looks for modules in demo/; ours are found from the repository's root.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from demo.overview import save_overview
from tool import flags
from tool.errors import UserError, run
from tool.files import atomic_write, make_folder
from voc12.lists import read_image_list

REPO = Path(__file__).resolve().parents[1]
NETWORK, SESSION = "network.resnet38_EDAM_tiny", "EDAM_tiny"
SALIENCY_NETWORK, SALIENCY_SESSION = "network.poolnet_tiny", "PoolNet_tiny"
PHOTOS = 200  # of the training list that are labelled and evaluated
# Sums are split among the threads, so another number of threads gives another last digit: it is fixed for the table's sake.
# Waiting threads must not keep a core busy that another process needs.
ENVIRONMENT = {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"}
ROWS = (
    ("background", "*baseline: everything is background*", ""),
    ("guess", "*baseline: image labels and saliency, no EDAM*", ""),
    ("masks", "masks", "52.83"),
    ("crf", "masks, CRF", "58.61"),
    ("crf_saliency", "masks, CRF, saliency", "68.11"),
)


@dataclass(frozen=True)
class Step:
    """One command, as typed in a shell. `{theta}` in it stands for the background score that the curve found."""

    name: str
    title: str
    command: str


def make_steps(folder: Path, seed: int) -> list[Step]:
    """The commands of the demo, in order, as they would be typed in the repository's root."""
    out = shlex.quote(str(folder))
    return [Step(*command) for command in (*_training(out, seed), *_saliency(out, seed), *_labelling(out))]


def _training(out: str, seed: int) -> list[tuple[str, str, str]]:
    """Name, title and command of each step up to the trained network."""
    root, lists = f"{out}/VOC2012", f"{out}/lists"
    return [
        ("data", "Draw a miniature of VOC12", f"python demo/draw.py --out {out} --seed {seed}"),
        (
            "lists",
            "Lists, image-level labels and training pairs (drawn photos need no SBD)",
            f"python voc12/prepare.py --voc12_root {root} --out_dir {lists} --epochs 9 --seed {seed}",
        ),
        (
            "pretraining",
            "Initial weights: the backbone as a plain classifier, where real runs take ImageNet's",
            f"python demo/pretrain.py --voc12_root {root} --image_list {lists}/train_aug.txt --network {NETWORK} "
            f"--epochs 20 --long_side 64 160 --seed {seed} --out {out}/backbone.pth",
        ),
        (
            "training",
            "EDAM itself, from image-level labels",
            f"python train_EDAM_cls.py --voc12_root {root} --train_list {lists}/EDAM_train.txt --network {NETWORK} "
            f"--weights {out}/backbone.pth --batch_size 4 --crop_size 104 --long_side 80 144 --lr 0.02 --warmup_steps 100 "
            f"--seed {seed} --session_name {SESSION} --checkpoint_dir {out}/checkpoints --log_dir {out}/runs "
            "--num_workers 1 --vis_every 150 --save_every 50 --resume",
        ),
    ]


def _saliency(out: str, seed: int) -> list[tuple[str, str, str]]:
    """Name, title and command of each step from photos with masks to saliency maps of the photos that are to be labelled."""
    root, photos = f"{out}/salient/VOC2012", f"{out}/lists/labelled.txt"
    return [
        (
            "choice",
            f"The first {PHOTOS} training photos get pseudo labels",
            f"head -n {PHOTOS} {out}/lists/train.txt > {photos}",
        ),
        (
            "salient",
            "Draw other photos, whose masks tell PoolNet what is salient, whatever its class",
            f"python demo/draw.py --out {out}/salient --seed {seed + 1} --train 1600 --val 0",
        ),
        (
            "saliency_training",
            "PoolNet, where real runs take its published weights",
            f"python train_sal.py --voc12_root {root} --mask_dir {root}/SegmentationClass "
            f"--train_list {root}/ImageSets/Segmentation/train.txt --network {SALIENCY_NETWORK} --crop_size 128 --batch_size 8 "
            f"--lr 0.002 --max_epoches 2 --seed {seed} --session_name {SALIENCY_SESSION} --checkpoint_dir {out}/checkpoints "
            f"--log_dir {out}/runs --num_workers 1 --vis_every 100 --save_every 50 --resume",
        ),
        (
            "saliency",
            "Saliency maps of the photos that get labels",
            f"python infer_sal.py --voc12_root {out}/VOC2012 --infer_list {photos} --network {SALIENCY_NETWORK} "
            f"--weights {out}/checkpoints/{SALIENCY_SESSION}/{SALIENCY_SESSION}.pth --out_sal {out}/saliency",
        ),
        (
            "score_saliency",
            "Score: saliency maps",
            f"python eval.py --saliency --voc12_root {out}/VOC2012 --list {photos} --predict_dir {out}/saliency "
            f"--json {out}/scores/saliency.json",
        ),
    ]


def _labelling(out: str) -> list[tuple[str, str, str]]:
    """Name, title and command of each step from the trained network on."""
    root, lists, saliency = f"{out}/VOC2012", f"{out}/lists", f"{out}/saliency"
    photos, trained = f"{lists}/labelled.txt", f"{out}/checkpoints/{SESSION}/{SESSION}.pth"
    infer = f"python infer_cls.py --voc12_root {root} --infer_list {photos} --network {NETWORK} --weights {trained}"
    score = f"python eval.py --voc12_root {root} --list {photos}"
    return [
        ("maps", "Class maps, and labels with CRF", f"{infer} --out_cam {out}/cam --out_crf_pred {out}/crf"),
        (
            "curve",
            "The background score at which class maps make the best labels",
            f"{score} --predict_dir {out}/cam --type npy --curve --json {out}/scores/curve.json",
        ),
        ("masks", "Labels of the class maps alone", f"{infer} --theta {{theta}} --out_cam_pred {out}/masks"),
        (
            "crf_saliency",
            "Labels with CRF and saliency",
            f"{infer} --sal_path {saliency} --theta 0.2 --alpha 0.000001 --beta 0.99999 --out_crf_pred {out}/crf_saliency",
        ),
        (
            "baselines",
            "Two baselines that need no network",
            f"python demo/baselines.py --voc12_root {root} --infer_list {photos} --sal_path {saliency} "
            f"--out_guess {out}/guess --out_background {out}/background",
        ),
        *(
            (
                f"score_{name}",
                f"Score: {title.strip('*')}",
                f"{score} --predict_dir {out}/{name} --json {out}/scores/{name}.json",
            )
            for name, title, _ in ROWS
        ),
        (
            "colours",
            "Every label in colour over its photo",
            f"python colorful.py --img_path {out}/crf_saliency --img_root {root} --gt_path {root}/SegmentationClass "
            f"--out_path {out}/colours --sheet {out}/sheet.png",
        ),
    ]


def run_steps(steps: list[Step], out: Path) -> None:
    """Run the steps that are not finished. UserError: a command failed. KeyboardInterrupt after the command has ended."""
    marks = make_folder(out / "finished")
    make_folder(out / "scores")
    for number, step in enumerate(steps, 1):
        command = step.command.replace("{theta}", best_theta(out)) if "{theta}" in step.command else step.command
        mark = marks / f"{step.name}.json"
        print(f"\n== {number}/{len(steps)}  {step.title}", flush=True)
        print(f"$ {command}", flush=True)
        if finished(mark) == command:
            print("finished already", flush=True)
            continue
        for later in steps[number - 1 :]:
            (marks / f"{later.name}.json").unlink(missing_ok=True)
        began = time.monotonic()
        status = call(command)
        if status:
            raise UserError(
                f"step {number}, {step.title!r}, ended with status {status}; `make demo` goes on from there"
            )
        with atomic_write(mark, "w") as file:
            json.dump({"command": command, "seconds": round(time.monotonic() - began)}, file)


def finished(mark: Path) -> str | None:
    """The command that wrote a step's mark; None where there is none."""
    try:
        return json.loads(mark.read_text())["command"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def call(command: str) -> int:
    """Run a command in the repository's root and return its status. Ctrl-C and SIGTERM end the command before us."""
    command = re.sub(r"^python ", f"{shlex.quote(sys.executable)} ", command)
    process = subprocess.Popen(f"exec {command}", shell=True, cwd=REPO, env={**os.environ, **ENVIRONMENT})
    signals: list[int] = []

    def note(number: int, frame: object) -> None:
        signals.append(number)
        if number == signal.SIGTERM:  # Ctrl-C reaches the command by itself
            process.terminate()

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        status = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if signals:
        raise KeyboardInterrupt
    return status


def best_theta(out: Path) -> str:
    """The background score that the curve found."""
    return str(read_score(out, "curve")["theta"])


def read_score(out: Path, name: str) -> dict:
    """What eval.py wrote. UserError: it is not there."""
    path = out / "scores" / f"{name}.json"
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path} ({error}); remove {out} and start anew") from error


def table(scores: dict[str, float]) -> str:
    """Markdown table of mIoU in percent by row name, beside the published figures."""
    lines = ["| pseudo labels | mIoU | published, VOC12 |", "| --- | ---: | ---: |"]
    lines += [f"| {title} | {scores[name]:.2f} | {published} |" for name, title, published in ROWS]
    return "\n".join(lines) + "\n"


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=flags.Help)
    parser.add_argument("--out", default="demo_run", type=Path, metavar="DIR", help="folder for all of it")
    parser.add_argument("--seed", type=flags.count(), default=0, help="of the pictures, the weights and the training")
    return parser


def main() -> None:
    args = get_parser().parse_args()
    os.chdir(REPO)
    out: Path = args.out
    print(f"All commands are run in {REPO}, with {' '.join(f'{k}={v}' for k, v in ENVIRONMENT.items())}")
    began = time.monotonic()
    run_steps(make_steps(out, args.seed), out)

    ids = read_image_list(out / "lists" / "labelled.txt")
    text = table({name: read_score(out, name)["miou"] for name, _, _ in ROWS})
    text += (
        f"\nmIoU in percent over {len(ids)} drawn photos, of those trained on; the masks row has the background score that is "
        f"best for them, {best_theta(out)}.\nThe published figures are those of VOC12 train, which is harder.\n"
    )
    with atomic_write(out / "results.md", "w") as file:
        file.write(text)
    save_overview(out / "overview.png", ids, out)
    print(f"\n{text}")
    print(
        f"{out / 'results.md'}, {out / 'overview.png'} and {out / 'sheet.png'} show it, and `make tensorboard` the training."
    )
    print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    run(main, "interrupted; `make demo` goes on")
