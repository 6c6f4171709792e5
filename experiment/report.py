"""Report of an experiment: results.md, and report.html, one self-contained file for any browser."""

import base64
import io
import json
import platform
import re
import shlex
import subprocess
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import matplotlib
import numpy as np
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
from voc12.dataset import Dataset, Files, label_maps, read_image_list, saliency_maps
from voc12.images import load_grey, load_label, load_photo

PHOTOS = 4  # of the best, and of the worst
TILE = 240  # pixels
POINTS = 300  # of a loss curve

Pictures = dict[str, np.ndarray]  # caption -> uint8 RGB (H, W, 3)
Groups = dict[str, dict[str, Pictures]]  # "best" and "worst" -> title of a photo -> its pictures


def write_report(plan: Plan, steps: Sequence[Step], title: str, remark: str) -> None:
    """Write results.md and report.html of finished steps; print the table and the time of all steps."""
    masks = read_score(plan, "masks")
    marks = [(step, read_mark(plan.out, step)) for step in steps]
    seconds = sum(mark.seconds for _, mark in marks)
    context = {
        "title": title,
        "remark": remark,
        "scores": {row: read_score(plan, row.name) for row in plan.rows},
        "masks": masks,
        "saliency": read_score(plan, "saliency") if plan.sal_path else None,
        "maps_of": plan.saliency or plan.saliency_network or "PoolNet",
        "beta": plan.fusion[plan.fusion.index("--beta") + 1] if "--beta" in plan.fusion else None,
        "key": {name: PALETTE[value].tolist() for value, name in enumerate(LABELS) if value},
        "pictures": best_and_worst(plan, masks["theta"]),
        "charts": charts(plan, masks["curve"]),
        "steps": marks,
        "seconds": seconds,
        "made_with": made_with(plan),
    }
    folder, escape = FileSystemLoader(Path(__file__).parent), select_autoescape(("html.jinja",))
    templates = Environment(loader=folder, autoescape=escape, trim_blocks=True, keep_trailing_newline=True)
    templates.filters |= {"duration": duration, "thumbnail": thumbnail}
    texts = {name: templates.get_template(f"{name}.jinja").render(context) for name in ("results.md", "report.html")}
    for name, text in texts.items():
        with atomic_write(plan.out / name, "w") as file:
            file.write(text)
    table = texts["results.md"].partition("## IoU")[0]
    print(f"\n{table}All steps took {duration(seconds)}. See {plan.out / 'report.html'} and {plan.out / 'results.md'}.")


def read_score(plan: Plan, row: str) -> dict:
    return json.loads((plan.out / "scores" / f"{row}.json").read_text(encoding="utf-8"))


def made_with(plan: Plan) -> list[str]:
    """Return commit, versions, device, seed, and the SHA-256 of each file of weights that was given, with its use."""
    describe = f"git -C {shlex.quote(str(REPO))} describe --always --dirty --abbrev=12 '--exclude=*'"
    status, commit = subprocess.getstatusoutput(describe)
    names = ("torch", "numpy", "scipy", "cv2", "PIL")
    modules = ", ".join(f"{name} {import_module(name).__version__}" for name in names)
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    device = f"CPU, {model[1] if model else platform.machine()}, {torch.get_num_threads()} threads"
    if torch.cuda.is_available():
        device = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    lines = [f"commit {'unknown' if status else commit}", f"Python {platform.python_version()}, {modules}", device]
    lines.append(f"seed {plan.seed}, precision {plan.precision[-1] if plan.precision else 'float32'}")
    uses = {"EDAM, trained": plan.edam_weights, "EDAM's initial weights": plan.weights}
    uses |= {"PoolNet": plan.poolnet_weights, "DeepLab-v2's initial weights": plan.deeplab_weights}
    for path in dict.fromkeys(filter(None, uses.values())):
        digest = f"; SHA-256 {weights_digest(path)}" if path.is_file() else ""
        lines.append(f"{' and '.join(use for use, given in uses.items() if given == path)}: {path}{digest}")
    if plan.saliency_network and plan.sal_path:  # the manifest names the file that was read; the cache may hold another
        package, sha256 = PACKAGES[plan.saliency_network][0], read_manifest(plan.sal_path).get("weights_sha256")
        lines.append(f"{plan.saliency_network}: {package}; SHA-256 {sha256}")
    return lines


def best_and_worst(plan: Plan, theta: float) -> dict[str, Groups]:
    """Return the pictures under each heading. theta: background score of the masks."""
    data, files = Dataset(plan.root), {"CRF": label_maps(plan.out / "crf")}
    if plan.sal_path:
        files |= {"saliency": saliency_maps(plan.sal_path), "CRF, saliency": label_maps(plan.label_dir)}
    groups = {"Pseudo labels": choose(data, plan.labelled, files, plan.out / "cam", theta)}
    if plan.deeplab_weights:
        files = {
            "DeepLab-v2": label_maps(plan.out / "deeplab"),
            "DeepLab-v2, CRF": label_maps(plan.out / "deeplab_crf"),
        }
        groups["DeepLab-v2 on photos that it has not seen"] = choose(data, plan.val, files)
    return groups


def choose(data: Dataset, listed: Path, files: dict[str, Files], cam: Path | None = None, theta: float = 0.5) -> Groups:
    """Return the photos of a list with the best and the worst label PNGs, the last of `files`, sorted from best to worst.

    files: pictures between a photo and its ground truth, by caption. cam: folder of class maps to show before them.
    """
    *_, predictions = files.values()
    scored = []
    for image_id in read_image_list(listed):
        truth, predicted = load_label(data.masks.find(image_id)), load_label(predictions.find(image_id))
        score = segmentation_scores(confusion(truth, predicted, len(LABELS), VOID))["mean_iou"]
        classes = ", ".join(LABELS[value] for value in np.unique(truth) if value not in (0, VOID))
        scored.append((-score, image_id, f"{image_id} ({classes or 'no class'}): IoU {100 * score:.1f}"))
    scored.sort()
    best = min(PHOTOS, (len(scored) + 1) // 2)
    chosen = {"best": scored[:best], "worst": scored[best:][-PHOTOS:]}
    return {
        rank: {title: pictures(data, files, cam, theta, image_id) for _, image_id, title in photos}
        for rank, photos in chosen.items()
    }


def pictures(data: Dataset, files: dict[str, Files], cam: Path | None, theta: float, image_id: str) -> Pictures:
    """Return the pictures from a photo to its ground truth."""
    photo = np.array(load_photo(data.photos.find(image_id)))
    shown = {"photo": photo}
    maps = {int(index): score for index, score in load_npy_dict(cam / f"{image_id}.npy").items()} if cam else {}
    if maps:
        classes = sorted(maps)
        label = pseudo_label(np.stack([maps[index] for index in classes]), np.array(classes), theta=theta)
        strongest = max(maps, key=lambda index: float(maps[index].mean()))
        shown[f"class map: {CLASSES[strongest]}"] = heat(photo, maps[strongest])
        shown["label without CRF"] = overlay(photo, label, PALETTE)
    for caption, kind in {**files, "ground truth": data.masks}.items():
        path = kind.find(image_id)
        if caption == "saliency":
            shown[caption] = np.repeat(load_grey(path)[:, :, None], 3, axis=2)
        else:
            label = load_label(path)
            shown[caption] = overlay(photo, np.where(label == VOID, np.uint8(0), label), PALETTE)
    return shown


def duration(seconds: float) -> str:
    """Return a time in words: 41 s, 12 min 5 s, 3 h 20 min."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if minutes else f"{rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def thumbnail(picture: np.ndarray) -> str:
    """Return a picture, uint8 RGB (H, W, 3), made small, as a data: URL."""
    image, buffer = Image.fromarray(picture), io.BytesIO()
    image.thumbnail((TILE, TILE))
    image.save(buffer, "JPEG", quality=85)
    return data_url("jpeg", buffer)


def data_url(kind: str, buffer: io.BytesIO) -> str:
    """Return an image file as a data: URL."""
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def charts(plan: Plan, curve: Sequence[dict]) -> dict[str, str]:
    """Return heading -> chart as data URL: the losses in TensorBoard's events, means of neighbouring steps, and `curve`."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # takes a second to import

    found = {}
    for name, session in (("EDAM", EDAM), ("DeepLab-v2", DEEPLAB)):
        folder = plan.out / "runs" / session
        events = EventAccumulator(str(folder), {"scalars": 0})
        if folder.is_dir() and "Train/Loss" in events.Reload().Tags()["scalars"]:
            points = np.array([(point.step, point.value) for point in events.Scalars("Train/Loss")])
            means = np.array([group.mean(0) for group in np.array_split(points, min(POINTS, len(points)))])
            found[f"Loss of {name} on its training photos"] = line_chart(means, "step", "loss, smoothed")
    points = np.array([(point["theta"], point["miou"]) for point in curve])
    found["Class maps: mIoU on train by background score"] = line_chart(points, "background score", "mIoU, %")
    return found


def line_chart(points: np.ndarray, across: str, up: str) -> str:
    """Return a chart of one line, through points (n, 2), as an SVG data: URL. `across`, `up`: the axes' names."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"font.size": 8, "svg.hashsalt": "EDAM"}):  # without salt, ids are random
        figure = Figure((4.2, 2.4), layout="constrained")
        axes = figure.add_subplot(xlabel=across, ylabel=up)
        axes.plot(*points.T, color="#2a6f97")
        axes.set_ylim(bottom=0)
        axes.grid(axis="y")
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return data_url("svg+xml", buffer)
