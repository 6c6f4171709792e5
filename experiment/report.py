"""Report of an experiment: results.md, and report.html, one file for any browser that refers to nothing outside it."""

import base64
import io
import json
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
import PIL
import scipy
import torch
from jinja2 import Environment, FileSystemLoader, select_autoescape
from matplotlib.figure import Figure
from PIL import Image

from experiment.pictures import labelled_photos, segmented_photos
from experiment.runner import REPO, Step, read_mark
from experiment.steps import DEEPLAB, EDAM, Plan, Row
from pseudo_label.manifest import weights_digest
from pseudo_label.onnx_saliency import find_weights
from tool.cli import UserError
from tool.files import atomic_write
from voc12.classes import LABELS, PALETTE

PHOTOS = 4  # of the best, and of the worst
TILE = 240  # pixels
POINTS = 300  # of a loss curve
COLOURS = ("#2a6f97", "#e07a1f", "#4f8a3c", "#8a4f9e")
STYLE: Any = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "EDAM",  # or ids are random
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#5b646c",
    "grid.color": "#e3e6e9",
}


def write_report(plan: Plan, steps: Sequence[Step], title: str, remark: str) -> None:
    """Write results.md and report.html of finished steps, and print the table. UserError: a score is missing."""
    scores = {row: read_score(plan, row.name) for row in plan.rows}
    masks = next(score for row, score in scores.items() if row.name == "masks")
    pictures = {"Pseudo labels": labelled_photos(plan, PHOTOS, masks["theta"])}
    if plan.segments:
        pictures["DeepLab-v2 on photos that it has not seen"] = segmented_photos(plan, PHOTOS)
    marks = [(step, mark) for step in steps if (mark := read_mark(plan.out, step.name))]
    context = {
        "title": title,
        "remark": remark,
        "scores": scores,
        "masks": masks,
        "saliency": read_score(plan, "saliency") if plan.sal_path else None,
        "maps_of": plan.saliency or plan.saliency_network or "PoolNet",
        "beta": plan.fusion[plan.fusion.index("--beta") + 1] if "--beta" in plan.fusion else None,
        "key": {name: PALETTE[value].tolist() for value, name in enumerate(LABELS) if value},
        "pictures": pictures,
        "charts": charts(plan, scores, masks["curve"]),
        "steps": marks,
        "seconds": sum(mark.seconds for _, mark in marks),
        "made_with": made_with(plan),
    }
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=select_autoescape(("html.jinja",)),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.filters |= {"duration": duration, "data_url": data_url}
    texts = {name: templates.get_template(f"{name}.jinja").render(context) for name in ("results.md", "report.html")}
    for name, text in texts.items():
        with atomic_write(plan.out / name, "w") as file:
            file.write(text)
    table = texts["results.md"].partition("## IoU")[0]
    print(f"\n{table}{plan.out / 'results.md'} and {plan.out / 'report.html'} show all of it")


def read_score(plan: Plan, row: str) -> dict:
    """Return what eval.py wrote for a row. UserError: it cannot be read."""
    path = plan.score_path(row)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path} ({error}). Run its step, score_{row}, again.") from error


def made_with(plan: Plan) -> list[str]:
    """Return commit, versions, device, seed, and the SHA-256 of each file of weights that was given, with its use."""
    words = ("git", "-C", str(REPO), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
    commit = subprocess.run(words, capture_output=True, text=True).stdout.strip() if shutil.which("git") else ""
    modules = ", ".join(f"{module.__name__} {module.__version__}" for module in (torch, np, scipy, cv2, PIL))
    info = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", info.read_text(encoding="utf-8") if info.exists() else "")
    device = f"CPU, {model[1] if model else platform.machine()}, {torch.get_num_threads()} threads"
    if torch.cuda.is_available():
        device = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    lines = [f"commit {commit or 'unknown'}", f"Python {platform.python_version()}, {modules}", device]
    lines.append(f"seed {plan.seed}, precision {plan.precision[-1] if plan.precision else 'float32'}")
    uses: dict[Path, list[str]] = {}
    given = {
        "EDAM, trained": plan.edam_weights,
        "EDAM's initial weights": plan.weights,
        "PoolNet": plan.poolnet_weights,
        "U^2-Net": find_weights(plan.saliency_network) if plan.saliency_network else None,
    }
    for use, path in (given | {"DeepLab-v2's initial weights": plan.deeplab_weights}).items():
        if path is not None:
            uses.setdefault(path, []).append(use)
    for path, names in uses.items():
        digest = f"; SHA-256 {weights_digest(path)}" if path.is_file() else ""
        lines.append(f"{' and '.join(names)}: {path}{digest}")
    return lines


def duration(seconds: float) -> str:
    """Return a time in words: 41 s, 12 min 5 s, 3 h 20 min."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if minutes else f"{rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def data_url(picture: np.ndarray) -> str:
    """Return a picture, uint8 RGB (H, W, 3), made small, as the address of an image within the page."""
    image, buffer = Image.fromarray(picture), io.BytesIO()
    image.thumbnail((TILE, TILE))
    image.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def charts(plan: Plan, scores: Mapping[Row, dict], curve: Sequence[dict]) -> dict[str, str]:
    """Return the charts as inline SVG: heading -> <svg>, whose ids occur in no other."""
    found = {}
    for name, session in (("EDAM", EDAM), ("DeepLab-v2", DEEPLAB)):
        if losses := loss_curve(plan.out / "runs" / session):
            found[f"Loss of {name} on its training photos"] = line_chart(*losses, "step", "loss, smoothed")
    thetas, means = zip(*((point["theta"], point["miou"]) for point in curve), strict=True)
    found["Class maps: mIoU on train by background score"] = line_chart(thetas, means, "background score", "mIoU, %")
    shown = [row for row in plan.rows if row.name in ("masks", plan.label_dir.name, "deeplab_crf")]
    ious = {f"{row.title}: {row.split}": [scores[row]["iou"].get(label) for label in LABELS] for row in shown}
    found["IoU of each label, %"] = bar_chart(LABELS, ious)
    ids = re.compile(r'(\bid="|url\(#|href="#)')
    return {heading: ids.sub(rf"\g<1>chart{number}-", svg) for number, (heading, svg) in enumerate(found.items())}


def line_chart(xs: Sequence[float], ys: Sequence[float], across: str, up: str) -> str:
    """Return one line as SVG. `across`, `up`: the axes' names."""
    with matplotlib.rc_context(STYLE):
        figure = Figure((4.2, 2.4), layout="constrained")
        axes = figure.add_subplot(xlabel=across, ylabel=up)
        axes.plot(xs, ys, color=COLOURS[0])
        axes.set_ylim(bottom=0)
        axes.grid(axis="y")
        return to_svg(figure)


def bar_chart(labels: Sequence[str], series: Mapping[str, Sequence[float | None]]) -> str:
    """Return horizontal bars in percent, a group for each label, as SVG: series -> a value 0..100 or None for each."""
    thick = 0.8 / len(series)
    with matplotlib.rc_context(STYLE):
        figure = Figure((4.2, len(labels) * (0.08 + 0.08 * len(series))), layout="constrained")
        axes = figure.add_subplot(xlim=(0, 108), ylim=(len(labels) - 0.4, -0.6), xticks=())
        for place, (title, values) in enumerate(series.items()):
            middles = np.arange(len(labels)) + (place + 0.5) * thick - 0.4
            bars = axes.barh(middles, [value or 0 for value in values], 0.9 * thick, color=COLOURS[place], label=title)
            axes.bar_label(bars, ["" if value is None else f"{value:.1f}" for value in values], padding=2, fontsize=6)
        axes.set_yticks(range(len(labels)), labels)
        axes.spines["bottom"].set_visible(False)
        figure.legend(loc="outside upper left", ncols=len(series), frameon=False, fontsize=7)
        return to_svg(figure)


def to_svg(figure: Figure) -> str:
    """Return a figure as an <svg> element."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return "<svg" + buffer.getvalue().partition("<svg")[2]


def loss_curve(folder: Path) -> tuple[list[float], list[float]] | None:
    """Return (steps, losses) of a training's TensorBoard events, means of neighbouring steps; None if there are none."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # takes a second to import

    if not folder.is_dir():
        return None
    events = EventAccumulator(str(folder), {"scalars": 0})
    events.Reload()
    if "Train/Loss" not in events.Tags()["scalars"]:
        return None
    points = [(point.step, point.value) for point in events.Scalars("Train/Loss")]
    groups = [group.mean(0).tolist() for group in np.array_split(np.array(points), min(POINTS, len(points)))]
    return [step for step, _ in groups], [loss for _, loss in groups]
