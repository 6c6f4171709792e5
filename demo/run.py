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
PHOTOS = 400  # of the training list that are labelled and evaluated
# Sums are split among the threads, so another number of threads gives another last digit: it is fixed for the table's sake.
# A waiting thread looks for work during some 0.1 ms before it sleeps: to be woken takes longer than many an operation of networks as
# small as these, and one that never sleeps would keep a core busy that another process needs.
ENVIRONMENT = {"OMP_NUM_THREADS": "2", "GOMP_SPINCOUNT": "20000"}
ROWS = (
    ("background", "*baseline: everything is background*", ""),
    ("guess", "*baseline: image labels and saliency, no network*", ""),
    ("masks", "masks", "52.83"),
    ("crf", "masks, CRF", "58.61"),
    ("crf_saliency", "masks, CRF, saliency", "68.11"),
    ("deeplab", "DeepLab-v2, on photos that nothing has seen", "69.66"),
    ("deeplab_crf", "DeepLab-v2, CRF, on the same", "70.96"),
)
SCORED = {
    "masks": "cam --type npy --curve",
    "crf": "crf --type npy --crf",
}  # folder and flags, where it isn't label PNGs


@dataclass(frozen=True)
class Step:
    """One command, as typed in a shell."""

    name: str
    title: str
    command: str


def make_steps(folder: Path, seed: int) -> list[Step]:
    """The commands of the demo, in order, as they would be typed in the repository's root."""
    out = shlex.quote(str(folder))
    return [Step(*command) for command in (*_training(out, seed), *_labelling(out), *_segmentation(out, seed))]


def _training(out: str, seed: int) -> list[tuple[str, str, str]]:
    """Name, title and command of each step up to the trained network."""
    root, lists = f"{out}/VOC2012", f"{out}/lists"
    return [
        ("data", "Draw a miniature of VOC12", f"python demo/draw.py --out {out} --seed {seed}"),
        (
            "lists",
            "Lists, image-level labels and training pairs (drawn photos need no SBD)",
            f"python voc12/prepare.py --voc12_root {root} --out_dir {lists} --epochs 5 --seed {seed}",
        ),
        (
            "pretraining",
            "Initial weights: the backbone as a plain classifier, where real runs take ImageNet's",
            f"python demo/pretrain.py --voc12_root {root} --image_list {lists}/train_aug.txt --network {NETWORK} "
            f"--epochs 10 --long_side 64 128 --seed {seed} --out {out}/backbone.pth",
        ),
        (
            "training",
            "EDAM itself, from image-level labels",
            f"python train_EDAM_cls.py --voc12_root {root} --train_list {lists}/EDAM_train.txt --network {NETWORK} "
            f"--weights {out}/backbone.pth --batch_size 4 --crop_size 104 --long_side 80 144 --lr 0.02 --warmup_steps 50 "
            f"--seed {seed} --session_name {SESSION} --checkpoint_dir {out}/checkpoints --log_dir {out}/runs "
            "--num_workers 1 --vis_every 150 --save_every 50 --resume",
        ),
    ]


def _labelling(out: str) -> list[tuple[str, str, str]]:
    """Name, title and command of each step from the trained network on."""
    root, lists, saliency = f"{out}/VOC2012", f"{out}/lists", f"{out}/VOC2012/saliency"
    photos, trained = f"{lists}/labelled.txt", f"{out}/checkpoints/{SESSION}/{SESSION}.pth"
    score = f"python eval.py --voc12_root {root} --list {photos}"
    return [
        (
            "choice",
            f"The first {PHOTOS} training photos get pseudo labels",
            f"head -n {PHOTOS} {lists}/train.txt > {photos}",
        ),
        (
            "labels",
            "Class maps, what the CRF makes of them, and labels with CRF and saliency",
            f"python infer_cls.py --voc12_root {root} --infer_list {photos} --network {NETWORK} --weights {trained} "
            f"--out_cam {out}/cam --out_crf {out}/crf --out_crf_pred {out}/crf_saliency --sal_path {saliency} "
            "--theta 0.2 --alpha 0.000001 --beta 0.99999",
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
                f"{score} --json {out}/scores/{name}.json --predict_dir {out}/{SCORED.get(name, name)}",
            )
            for name, title, _ in ROWS
            if not name.startswith("deeplab")
        ),
        (
            "colours",
            "Every label in colour over its photo",
            f"python colorful.py --img_path {out}/crf_saliency --img_root {root} --gt_path {root}/SegmentationClass "
            f"--out_path {out}/colours --sheet {out}/sheet.png",
        ),
    ]


def _segmentation(out: str, seed: int) -> list[tuple[str, str, str]]:
    """Name, title and command of each step from the pseudo labels to the second network's scores."""
    root, lists, network = f"{out}/VOC2012", f"{out}/lists", "network.deeplab_v2_tiny"
    trained = f"{out}/checkpoints/DeepLab_tiny/DeepLab_tiny.pth"
    return [
        (
            "deeplab",
            "DeepLab-v2, from the last pseudo labels and the same initial weights",
            f"python train_deeplab.py --voc12_root {root} --train_list {lists}/labelled.txt --label_dir {out}/crf_saliency "
            f"--network {network} --weights {out}/backbone.pth --max_iters 600 --batch_size 8 --iter_size 1 --crop_size 96 "
            f"--lr 0.001 --seed {seed} --session_name DeepLab_tiny --checkpoint_dir {out}/checkpoints --log_dir {out}/runs "
            "--num_workers 1 --save_every 50 --resume",
        ),
        (
            "segmentation",
            "Labels of photos that no network has seen, without CRF and with it",
            f"python infer_deeplab.py --voc12_root {root} --infer_list {lists}/val.txt --network {network} "
            f"--weights {trained} --out_pred {out}/deeplab --out_crf_pred {out}/deeplab_crf",
        ),
        *(
            (
                f"score_{name}",
                f"Score: {title}",
                f"python eval.py --voc12_root {root} --list {lists}/val.txt --json {out}/scores/{name}.json "
                f"--predict_dir {out}/{name}",
            )
            for name, title, _ in ROWS
            if name.startswith("deeplab")
        ),
    ]


def run_steps(steps: list[Step], out: Path) -> None:
    """Run the steps that are not finished. UserError: a command failed. KeyboardInterrupt after the command has ended."""
    marks = make_folder(out / "finished")
    make_folder(out / "scores")
    for number, step in enumerate(steps, 1):
        command = step.command
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
    theta, unseen = read_score(out, "masks")["theta"], len(read_image_list(out / "lists" / "val.txt"))
    text += (
        f"\nmIoU in percent over {len(ids)} drawn photos, of those trained on; the masks row has the background score that is "
        f"best for them, {theta}.\nDeepLab-v2 is trained on the labels of the row above it, and scored on {unseen} other photos."
        "\nThe published figures are those of VOC12 train and val, which are harder.\n"
    )
    with atomic_write(out / "results.md", "w") as file:
        file.write(text)
    save_overview(out / "overview.png", ids, out, theta)
    print(f"\n{text}")
    print(
        f"{out / 'results.md'}, {out / 'overview.png'} and {out / 'sheet.png'} show it, and `make tensorboard` the training."
    )
    print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    run(main, "interrupted; `make demo` goes on")
