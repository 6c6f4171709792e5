"""Pictures of label maps and class maps, RGB uint8. Pure, on arrays."""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np


def overlay(photo: np.ndarray, label: np.ndarray, palette: np.ndarray, opacity: float = 0.6) -> np.ndarray:
    """Return the photo, uint8 (H, W, 3), under the colours of its labels, uint8 (H, W); background stays photo.

    palette: colour of each label, uint8 (values, 3). opacity: 0 (photo alone) .. 1 (flat colours); outlines have 1.
    """
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    values = label.astype(np.uint8)  # OpenCV takes no int64
    weight = np.where(label == 0, 0.0, opacity)
    weight[(cv2.dilate(values, cross) != cv2.erode(values, cross)) & (label != 0)] = 1.0 if opacity > 0 else 0.0
    return blend(photo, palette[label], weight)


def heat(photo: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Return the photo, uint8 (H, W, 3), under a class map, float (H, W) in 0..1: transparent at 0, blue to red."""
    score = np.clip(score, 0.0, 1.0)
    # Up to 225 of 255: the colour map's end is a dark red that would hide the strongest places.
    colours = cv2.applyColorMap((score * 225).round().astype(np.uint8), cv2.COLORMAP_TURBO)[:, :, ::-1]
    return blend(photo, colours, 0.7 * np.sqrt(score))


def blend(below: np.ndarray, above: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return `above` over `below`, both uint8 (H, W, 3), with `weight` (H, W) in 0..1 of `above`."""
    weight = weight[:, :, None].astype(np.float32)
    return (below * (1 - weight) + above * weight).round().astype(np.uint8)


def contact_sheet(
    rows: Sequence[Sequence[np.ndarray]],
    headings: Sequence[str],
    captions: Sequence[str],
    key: Mapping[str, np.ndarray],
) -> np.ndarray:
    """Return one picture, uint8 (h, w, 3), of all `rows`: a row is one photo's pictures, one for each heading, and its caption.

    A legend shows `key`: name -> colour (3,).
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # which takes half a second
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    across = 1 if len(rows) < 4 else 2  # rows side by side
    lines, columns = -(-len(rows) // across), across * len(headings)
    legend = 0.2 * (len(key) // (3 * columns) + 2)  # inches
    height = 4 * lines + 0.3 + legend
    figure = Figure((5 * columns, height), dpi=100)
    places = figure.subplots(lines, columns, squeeze=False)
    for place in places.flat:
        place.set_axis_off()
    for pictures, caption, row in zip(rows, captions, places.reshape(-1, len(headings)), strict=False):
        for picture, heading, place in zip(pictures, headings, row, strict=True):
            place.imshow(picture)
            place.set_title(heading if place is not row[0] else "", color="dimgrey")
        row[0].set_title(f"{caption}  {headings[0]}".replace("$", r"\$"), loc="left")
    figure.subplots_adjust(0.01, legend / height, 0.99, 1 - 0.3 / height, wspace=0.02, hspace=0.1)
    names = [name.replace("$", r"\$") for name in key]  # two bare ones would enclose a formula
    patches = [Patch(color=f"#{bytes(key[name]).hex()}", label=text) for name, text in zip(key, names, strict=True)]
    figure.legend(handles=patches, loc="lower left", ncols=3 * columns, frameon=False)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]
