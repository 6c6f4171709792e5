"""What an experiment has come to: scores, time and memory of its steps, what it was made with; as a Markdown file."""

import json
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from experiment.chain import Plan, Row, score_path
from experiment.runner import REPO, Mark, Step, read_mark
from pseudo_label.manifest import weights_digest
from tool.cli import UserError

PACKAGES = ("torch", "torchvision", "numpy", "scipy", "pillow", "opencv-python", "pydensecrf2")


@dataclass(frozen=True)
class Results:
    """scores: row -> what eval.py wrote. steps: with what is kept of them. made_with: line by line. remark: below the table."""

    plan: Plan
    scores: dict[Row, dict]
    steps: list[tuple[Step, Mark]]
    made_with: list[str]
    remark: str = ""

    @property
    def masks(self) -> dict:
        """The score of the class maps, at the background score that is best for them."""
        return next(score for row, score in self.scores.items() if row.name == "masks")


def read_score(out: Path, row: str) -> dict:
    """What eval.py wrote of a row. UserError: it is not there."""
    path = score_path(out, row)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path} ({error}); run its step, score_{row}, again") from error


def collect(plan: Plan, steps: Sequence[Step], remark: str = "") -> Results:
    """Read what the finished steps left. UserError: a score is missing."""
    scores = {row: read_score(plan.out, row.name) for row in plan.rows}
    marks = [(step, mark) for step in steps if (mark := read_mark(plan.out, step.name))]
    return Results(plan, scores, marks, made_with(plan), remark)


def made_with(plan: Plan) -> list[str]:
    """Commit, versions, device, seed, and the digest of every file of weights that was given."""
    packages = []
    for package in PACKAGES:
        try:
            packages.append(f"{package} {version(package)}")
        except PackageNotFoundError:  # another build of it, such as opencv-python-headless
            continue
    device = (
        f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}" if torch.cuda.is_available() else _processor()
    )
    lines = [f"commit {commit()}", f"Python {platform.python_version()}, {', '.join(packages)}", device]
    lines.append(f"seed {plan.seed}, precision {plan.precision[-1] if plan.precision else 'float32'}")
    for path in (plan.weights, plan.edam_weights, plan.poolnet_weights, plan.deeplab_weights):
        if path is not None:
            digest = f": SHA-256 {weights_digest(path)}" if path.is_file() else ""
            lines.append(f"{path}{digest}")
    return lines


def commit() -> str:
    """The repository's commit, and whether files differ from it; "unknown" outside a clone."""
    try:
        words = ("git", "-C", str(REPO), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"CPU, {name}, {torch.get_num_threads()} threads"


def markdown(results: Results) -> str:
    """The table, the IoU of each label, the steps, and what all was made with."""
    head = ["| | scored on | photos | mIoU | published |", "| --- | --- | ---: | ---: | ---: |"]
    parts = ["# Results", "", *head, *(_row(row, score) for row, score in results.scores.items())]
    parts += [
        "",
        f"mIoU in percent. The masks' background score, {results.masks['theta']}, is the one that is best for these photos.",
        results.remark,
    ]
    if results.plan.sal_path:
        saliency = read_score(results.plan.out, "saliency")
        parts.append(
            f"Saliency maps of the train photos: MAE {saliency['mae']:.3f}, maximum F-measure {saliency['max_f']:.3f}."
        )
    parts += ["", "## IoU of each label", ""]
    parts.append(f"| | {' | '.join(row.title.strip('*') for row in results.scores)} |")
    parts.append("| --- |" + " ---: |" * len(results.scores))
    for label in next(iter(results.scores.values()))["iou"]:
        values = (score["iou"][label] for score in results.scores.values())
        parts.append(f"| {label} | {' | '.join('' if value is None else f'{value:.2f}' for value in values)} |")
    parts += ["", "## Steps", "", "| step | time | memory of its largest process |", "| --- | ---: | ---: |"]
    parts += [
        f"| {step.title} | {duration(mark.seconds)} | {mark.peak_bytes / 1e9:.2f} GB |" for step, mark in results.steps
    ]
    total = sum(mark.seconds for _, mark in results.steps)
    parts += [
        f"| **all** | {duration(total)} | |",
        "",
        "## Made with",
        "",
        *(f"- {line}" for line in results.made_with),
    ]
    return "\n".join(parts) + "\n"


def _row(row: Row, score: dict) -> str:
    return f"| {row.title} | {row.split} | {score['images']} | {score['miou']:.2f} | {row.published} |"


def duration(seconds: float) -> str:
    """Such as 41 s, 12 min 5 s, 3 h 20 min."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if minutes else f"{rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
