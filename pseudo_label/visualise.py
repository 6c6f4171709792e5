"""Pictures of label maps and class maps, for colorful.py, the demo and TensorBoard. Pure, on arrays; RGB uint8."""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

INK, FAINT, PAPER = (32, 32, 32), (110, 110, 110), (255, 255, 255)
MARGIN, GAP, TEXT, CELL = 16, 8, 14, (300, 225)  # pixels


def overlay(photo: np.ndarray, label: np.ndarray, palette: np.ndarray, opacity: float = 0.6) -> np.ndarray:
    """Return the photo, uint8 (H, W, 3), under the colours of its labels, uint8 (H, W); background stays photo.

    `palette`, uint8 (values, 3), holds the colour of each label. `opacity` is 0 (photo alone) .. 1 (flat colours).
    Outlines of labels are drawn in full colour.
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
    """Return one picture of all `rows`: a row is one photo's pictures, uint8 (h, w, 3), one for each heading.

    Each row has a caption below its first picture; a legend shows `key`: name -> colour (3,).
    """
    across = 1 if len(rows) < 4 else 2  # rows side by side
    stride, step = len(headings) * (CELL[0] + GAP) + 2 * GAP, CELL[1] + TEXT + 2 * GAP
    width, upper = 2 * MARGIN + across * stride - 3 * GAP, MARGIN + TEXT + GAP
    bottom = upper + -(-len(rows) // across) * step + GAP // 2
    swatches = legend(key, width - 2 * MARGIN)
    sheet = Image.new("RGB", (width, bottom + swatches.shape[0] + MARGIN), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(TEXT)
    for number, (pictures, caption) in enumerate(zip(rows, captions, strict=False)):
        left, top = MARGIN + number % across * stride, upper + number // across * step
        draw.text((left, top + CELL[1] + GAP // 2), caption, FAINT, font)
        for heading, picture in zip(headings, pictures, strict=True):
            if number < across:
                draw.text((left + CELL[0] // 2, MARGIN - GAP // 2), heading, INK, font, anchor="ma")
            image = fit(picture, CELL)
            sheet.paste(image, (left + (CELL[0] - image.width) // 2, top + (CELL[1] - image.height) // 2))
            left += CELL[0] + GAP
    sheet.paste(Image.fromarray(swatches), (MARGIN, bottom))
    return np.array(sheet)


def fit(picture: np.ndarray, cell: tuple[int, int]) -> Image.Image:
    """Return the picture, uint8 (h, w, 3), scaled to the largest size within the cell (width, height)."""
    image = Image.fromarray(picture)
    scale = min(cell[0] / image.width, cell[1] / image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(size, Image.Resampling.LANCZOS)


def with_legend(picture: np.ndarray, key: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return a picture, uint8 (h, w, 3), enlarged to at least 480 pixels, over the legend of `key`."""
    side = max(480, *picture.shape[:2])
    enlarged = np.array(fit(picture, (side, side)))
    gap = np.full((GAP, enlarged.shape[1], 3), PAPER, np.uint8)
    return np.concatenate([enlarged, gap, legend(key, enlarged.shape[1])])


def legend(key: Mapping[str, np.ndarray], width: int) -> np.ndarray:
    """Return swatches with their names, name -> RGB uint8 (3,), wrapped to `width` pixels: uint8 (h, width, 3)."""
    font, x, y = ImageFont.load_default(TEXT), 0, 0
    swatch, line = TEXT, TEXT + GAP
    picture = Image.new("RGB", (width, line * (len(key) + 1)), PAPER)
    draw = ImageDraw.Draw(picture)
    for name, colour in key.items():
        length = swatch + GAP // 2 + round(font.getlength(name)) + 2 * GAP
        if x and x + length > width:
            x, y = 0, y + line
        draw.rectangle((x, y, x + swatch - 1, y + swatch - 1), fill=tuple(colour.tolist()))
        draw.text((x + swatch + GAP // 2, y + swatch // 2), name, INK, font, anchor="lm")
        x += length
    return np.array(picture)[: y + line if key else 0]
