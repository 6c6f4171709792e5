"""The picture of a run: photo, class map, the labels of three stages, saliency, ground truth."""

from pathlib import Path

import numpy as np

from experiment.chain import Plan
from experiment.pictures import stages
from experiment.results import best_theta
from pseudo_label.visualise import contact_sheet
from voc12.classes import LABELS, PALETTE, VOID
from voc12.images import load_label, save_rgb
from voc12.lists import read_image_list
from voc12.masks import OWN


def save_overview(path: Path, plan: Plan, photos: int = 6) -> None:
    """Write the picture of the first `photos` labelled ones that show several classes and are wider than high."""
    rows: list[list[np.ndarray]] = []
    captions: list[str] = []
    shown: set[int] = set()
    headings: list[str] = []
    theta = best_theta(plan.out)
    for image_id in read_image_list(plan.labelled):
        truth = load_label(plan.root / OWN / f"{image_id}.png")
        values = set(np.unique(truth).tolist()) - {0, VOID}
        if len(values) < 2 or truth.shape[0] > truth.shape[1]:
            continue
        pictures = stages(plan, image_id, theta)
        rows.append(list(pictures.values()))
        headings = [caption.split(":")[0] for caption in pictures]
        captions.append(f"{image_id}, {next(caption for caption in pictures if ':' in caption)}")
        shown |= values
        if len(rows) == photos:
            break
    key = {LABELS[value]: PALETTE[value] for value in sorted(shown)}
    save_rgb(path, contact_sheet(rows, headings, captions, key=key, cell=(176, 148)))
