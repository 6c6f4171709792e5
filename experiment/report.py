"""The report of an experiment: one HTML file that needs nothing else, for any browser."""

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from experiment.chain import DEEPLAB, EDAM, Plan
from experiment.charts import bar_chart, line_chart
from experiment.pictures import Photo, labelled_photos, segmented_photos
from experiment.results import Results, collect, duration, markdown
from experiment.runner import Step
from tool.files import atomic_write
from voc12.classes import LABELS, PALETTE

PHOTOS = 4  # of the best, and of the worst
TILE = 240  # pixels
POINTS = 300  # of a loss curve

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #202428; background: #fff; margin: 0 auto; max-width: 1180px; padding: 16px; }
h1 { font-size: 1.6em; margin: 0.4em 0; } h2 { font-size: 1.2em; margin: 1.8em 0 0.5em; }
.wide { overflow-x: auto; } table { border-collapse: collapse; }
td, th { padding: 4px 10px; text-align: right; border-bottom: 1px solid #e3e6e9; }
td:first-child, th:first-child { text-align: left; } .strong td { font-weight: 600; } .faint { color: #5b646c; font-size: 0.9em; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 24px; }
figure { margin: 0; } h3 { font-size: 1em; margin: 0 0 4px; }
svg { width: 100%; height: auto; } svg text { font: 13px system-ui, sans-serif; fill: #3b444c; }
svg text.small { font-size: 9px; } .grid { stroke: #e3e6e9; } .key { margin-right: 12px; font-size: 0.85em; white-space: nowrap; }
.key i { display: inline-block; width: 11px; height: 11px; margin-right: 5px; border-radius: 2px; }
.stages { display: grid; grid-template-columns: repeat(auto-fill, minmax(130px, 1fr)); gap: 6px; margin: 4px 0 18px; }
.stages img { width: 100%; display: block; } .stages span { font-size: 0.8em; color: #5b646c; }
code { overflow-wrap: anywhere; font-size: 0.85em; }
@media (max-width: 480px) { body { padding: 10px; } td, th { padding: 4px; font-size: 0.85em; } }
"""


def write_report(plan: Plan, steps: Sequence[Step], title: str, remark: str) -> None:
    """Write results.md and report.html of finished steps, and print the table."""
    results = collect(plan, steps, remark)
    text = markdown(results)
    for name, content in (("results.md", text), ("report.html", html(results, title))):
        with atomic_write(plan.out / name, "w") as file:
            file.write(content)
    table = text[: text.index("## IoU")]
    print(f"\n{table}{plan.out / 'results.md'} and {plan.out / 'report.html'} show all of it")


def html(results: Results, title: str) -> str:
    """The whole page: table, pictures, curves, IoU of each label, steps."""
    parts = [f"<h1>{escape(title)}</h1>", _table(results), _pictures(results), _charts(results), _steps(results)]
    parts.append(
        f'<h2>Made with</h2><ul class="faint">{"".join(f"<li>{escape(x)}</li>" for x in results.made_with)}</ul>'
    )
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    icon = '<link rel="icon" href="data:,">'  # or a browser asks for one
    return f'<!doctype html>\n<html lang="en"><head>{head}{icon}<style>{STYLE}</style></head><body>{"".join(parts)}</body></html>\n'


def _table(results: Results) -> str:
    rows = ["<tr><th></th><th>scored on</th><th>photos</th><th>mIoU</th><th>published</th></tr>"]
    for row, score in results.scores.items():
        kind = "faint" if "*" in row.title else "strong"
        cells = (row.title.strip("*"), row.split, score["images"], f"{score['miou']:.2f}", row.published)
        rows.append(f'<tr class="{kind}">{"".join(f"<td>{escape(str(cell))}</td>" for cell in cells)}</tr>')
    return f'<div class="wide"><table>{"".join(rows)}</table></div><p class="faint">mIoU in percent. {escape(results.remark)}</p>'


def _pictures(results: Results) -> str:
    plan = results.plan
    labelled = labelled_photos(plan, PHOTOS, results.masks["theta"])
    parts = ["<h2>Pseudo labels: the best and the worst</h2>", *map(_stages, labelled)]
    if plan.segments:
        parts += ["<h2>DeepLab-v2 on photos that it has not seen: the best and the worst</h2>"]
        parts += map(_stages, segmented_photos(plan, PHOTOS))
    swatches = (
        f'<span class="key"><i style="background:rgb({",".join(map(str, PALETTE[value].tolist()))})"></i>{name}</span>'
        for value, name in list(enumerate(LABELS))[1:]
    )
    return "".join([*parts, f"<p>{' '.join(swatches)}</p>"])


def _stages(photo: Photo) -> str:
    tiles = (
        f'<figure><img alt="{escape(caption)}" src="{data_url(picture)}"><span>{escape(caption)}</span></figure>'
        for caption, picture in photo.pictures.items()
    )
    return f'<h3>{escape(photo.image_id)}: IoU {100 * photo.score:.1f}</h3><div class="stages">{"".join(tiles)}</div>'


def data_url(picture: np.ndarray) -> str:
    """A picture, uint8 RGB (H, W, 3), made small, as the address of an image within the page."""
    image, buffer = Image.fromarray(picture), io.BytesIO()
    image.thumbnail((TILE, TILE))
    image.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _charts(results: Results) -> str:
    plan, figures = results.plan, []
    for name, session in (("EDAM", EDAM), ("DeepLab-v2", DEEPLAB)):
        curve = loss_curve(plan.out / "runs" / session)
        if curve:
            figures.append((f"Loss of {name}", line_chart({"mean of neighbouring steps": curve}, "step", "loss")))
    curve = results.masks["curve"]
    points = ([point["theta"] for point in curve], [point["miou"] for point in curve])
    figures.append(
        ("Class maps: mIoU by background score", line_chart({"mIoU": points}, "background score", "mIoU, %"))
    )
    shown = {
        row.title: score["iou"] for row, score in results.scores.items() if row.name in (*_final(results), "masks")
    }
    bars = bar_chart(LABELS, {title: [iou.get(label) for label in LABELS] for title, iou in shown.items()})
    figures.append(("IoU of each label, %", bars))
    charts = "".join(f"<figure><h3>{escape(title)}</h3>{chart}</figure>" for title, chart in figures)
    return f'<h2>Curves</h2><div class="charts">{charts}</div>'


def _final(results: Results) -> list[str]:
    """The last row of the pseudo labels, and of DeepLab-v2."""
    names = [row.name for row in results.plan.rows]
    return [
        max((n for n in names if n in group), key=names.index)
        for group in (("crf", "crf_saliency"), ("deeplab_crf",))
        if set(group) & set(names)
    ]


def loss_curve(folder: Path) -> tuple[list[float], list[float]] | None:
    """(steps, losses) from the TensorBoard events of a training, means of neighbouring steps; None where there are none."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # takes a second to import

    if not folder.is_dir():
        return None
    events = EventAccumulator(str(folder), {"scalars": 0})
    events.Reload()
    if "Train/Loss" not in events.Tags()["scalars"]:
        return None
    points = [(point.step, point.value) for point in events.Scalars("Train/Loss")]
    groups = np.array_split(np.array(points), min(POINTS, len(points)))
    return [float(group[:, 0].mean()) for group in groups], [float(group[:, 1].mean()) for group in groups]


def _steps(results: Results) -> str:
    rows = ["<tr><th>step</th><th>time</th><th>memory</th></tr>"]
    for step, mark in results.steps:
        name = f"{escape(step.title)}<br><code>{escape(step.command)}</code>"
        rows.append(f"<tr><td>{name}</td><td>{duration(mark.seconds)}</td><td>{mark.peak_bytes / 1e9:.2f} GB</td></tr>")
    return f'<h2>Steps</h2><div class="wide"><table>{"".join(rows)}</table></div>'
