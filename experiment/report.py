"""Report of an experiment: results.md, and report.html, one file for any browser that refers to nothing outside it."""

import base64
import io
import json
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
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

from experiment.runner import REPO, Step, read_mark
from experiment.steps import DEEPLAB, EDAM, Plan
from pseudo_label.fusion import pseudo_label
from pseudo_label.manifest import read_manifest, weights_digest
from pseudo_label.metrics import confusion, segmentation_scores
from pseudo_label.onnx_saliency import PACKAGES
from pseudo_label.visualise import heat, overlay
from tool import VOID
from tool.files import atomic_write, load_npy_dict
from voc12.classes import CLASSES, LABELS, PALETTE
from voc12.dataset import Dataset, read_image_list, saliency_maps
from voc12.images import load_grey, load_label, load_photo

PHOTOS = 4  # of the best, and of the worst
TILE = 240  # pixels
POINTS = 300  # of a loss curve
STYLE: Any = {"font.size": 8, "svg.fonttype": "none", "svg.hashsalt": "EDAM"}  # text stays text, ids are not random


Pictures = dict[str, np.ndarray]  # caption -> uint8 RGB (H, W, 3)


@dataclass(frozen=True)
class Photo:
    """A photo's pictures. classes: those of its ground truth. score: mean IoU over the labels of that, 0..1."""

    image_id: str
    classes: tuple[str, ...]
    score: float
    pictures: Pictures


def write_report(plan: Plan, steps: Sequence[Step], title: str, remark: str) -> None:
    """Write results.md and report.html of finished steps, and print the table."""
    scores = {row: read_score(plan, row.name) for row in plan.rows}
    masks = next(score for row, score in scores.items() if row.name == "masks")
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
        "pictures": best_and_worst(plan, PHOTOS, masks["theta"]),
        "charts": charts(plan, masks["curve"]),
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
    """Return what eval.py wrote for a row."""
    return json.loads(plan.score_path(row).read_text(encoding="utf-8"))


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
    }
    for use, path in (given | {"DeepLab-v2's initial weights": plan.deeplab_weights}).items():
        if path is not None:
            uses.setdefault(path, []).append(use)
    for path, names in uses.items():
        digest = f"; SHA-256 {weights_digest(path)}" if path.is_file() else ""
        lines.append(f"{' and '.join(names)}: {path}{digest}")
    if plan.saliency_network and plan.sal_path:  # the manifest names the file that was read; the cache may hold another
        package, sha256 = PACKAGES[plan.saliency_network][0], read_manifest(plan.sal_path).get("weights_sha256")
        lines.append(f"{plan.saliency_network}: {package}; SHA-256 {sha256}")
    return lines


def best_and_worst(plan: Plan, count: int, theta: float) -> dict[str, dict[str, list[Photo]]]:
    """Return heading -> "best" and "worst" -> `count` photos. theta: background score of the masks."""
    data = Dataset(plan.root)
    groups = {"Pseudo labels": choose(data, plan.labelled, plan.label_dir, count, partial(stages, plan, data, theta))}
    if plan.deeplab_weights:
        heading, show = "DeepLab-v2 on photos that it has not seen", partial(segmentations, plan, data)
        groups[heading] = choose(data, plan.val, plan.out / "deeplab_crf", count, show)
    return groups


def choose(
    data: Dataset, listed: Path, predictions: Path, count: int, show: Callable[[str], Pictures]
) -> dict[str, list[Photo]]:
    """Return the `count` photos of a list with the best label PNGs and the `count` with the worst, sorted from best to worst."""
    scored = []
    for image_id in read_image_list(listed):
        truth, predicted = load_label(data.masks.find(image_id)), load_label(predictions / f"{image_id}.png")
        score = segmentation_scores(confusion(truth, predicted, len(LABELS), VOID))["mean_iou"]
        scored.append((-score, image_id, tuple(LABELS[value] for value in np.unique(truth) if value not in (0, VOID))))
    scored.sort()
    best = min(count, (len(scored) + 1) // 2)
    groups = {"best": scored[:best], "worst": scored[best:][-count:]}
    return {rank: [Photo(i, classes, -score, show(i)) for score, i, classes in group] for rank, group in groups.items()}


def stages(plan: Plan, data: Dataset, theta: float, image_id: str) -> Pictures:
    """Return the pictures from a photo to its pseudo label and ground truth."""
    photo = np.array(load_photo(data.photos.find(image_id)))
    maps = {int(label): score for label, score in load_npy_dict(plan.out / "cam" / f"{image_id}.npy").items()}
    pictures = {"photo": photo}
    if maps:
        classes = sorted(maps)
        label = pseudo_label(np.stack([maps[index] for index in classes]), np.array(classes), theta=theta)
        strongest = max(maps, key=lambda index: float(maps[index].mean()))
        pictures[f"class map: {CLASSES[strongest]}"] = heat(photo, maps[strongest])
        pictures["label without CRF"] = overlay(photo, label, PALETTE)
    pictures["CRF"] = coloured(photo, plan.out / "crf" / f"{image_id}.png")
    if plan.sal_path:
        grey = load_grey(saliency_maps(plan.sal_path).find(image_id))
        pictures["saliency"] = np.repeat(grey[:, :, None], 3, axis=2)
        pictures["CRF, saliency"] = coloured(photo, plan.label_dir / f"{image_id}.png")
    return pictures | {"ground truth": coloured(photo, data.masks.find(image_id))}


def segmentations(plan: Plan, data: Dataset, image_id: str) -> Pictures:
    """Return a photo with DeepLab-v2's labels and its ground truth."""
    photo = np.array(load_photo(data.photos.find(image_id)))
    predicted = {"DeepLab-v2": plan.out / "deeplab", "DeepLab-v2, CRF": plan.out / "deeplab_crf"}
    pictures = {caption: coloured(photo, folder / f"{image_id}.png") for caption, folder in predicted.items()}
    return {"photo": photo} | pictures | {"ground truth": coloured(photo, data.masks.find(image_id))}


def coloured(photo: np.ndarray, path: Path) -> np.ndarray:
    """Return a photo under the colours of a label PNG; void stays photo."""
    label = load_label(path)
    return overlay(photo, np.where(label == VOID, np.uint8(0), label), PALETTE)


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


def charts(plan: Plan, curve: Sequence[dict]) -> dict[str, str]:
    """Return the charts as inline SVG: heading -> <svg>, whose ids occur in no other."""
    found = {}
    for name, session in (("EDAM", EDAM), ("DeepLab-v2", DEEPLAB)):
        if losses := loss_curve(plan.out / "runs" / session):
            found[f"Loss of {name} on its training photos"] = line_chart(*losses, "step", "loss, smoothed")
    thetas, means = zip(*((point["theta"], point["miou"]) for point in curve), strict=True)
    found["Class maps: mIoU on train by background score"] = line_chart(thetas, means, "background score", "mIoU, %")
    ids = re.compile(r'(\bid="|url\(#|href="#)')
    return {heading: ids.sub(rf"\g<1>chart{number}-", svg) for number, (heading, svg) in enumerate(found.items())}


def line_chart(xs: Sequence[float], ys: Sequence[float], across: str, up: str) -> str:
    """Return one line as an <svg> element. `across`, `up`: the axes' names."""
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure = Figure((4.2, 2.4), layout="constrained")
        axes = figure.add_subplot(xlabel=across, ylabel=up)
        axes.plot(xs, ys, color="#2a6f97")
        axes.set_ylim(bottom=0)
        axes.grid(axis="y")
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
