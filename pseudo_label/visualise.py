"""Pictures of label maps and class maps, for colorful.py, the demo and TensorBoard. Pure, on arrays; RGB uint8."""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

INK, FAINT, PAPER = (32, 32, 32), (110, 110, 110), (255, 255, 255)
MARGIN, GAP, TEXT = 16, 8, 14  # pixels


def overlay(photo: np.ndarray, label: np.ndarray, palette: np.ndarray, opacity: float = 0.6) -> np.ndarray:
    """Return the photo, uint8 (H, W, 3), under the colours of its labels, uint8 (H, W); background stays photo.

    `palette`, uint8 (values, 3), holds the colour of each label. `opacity` is 0 (photo alone) .. 1 (flat colours).
    Outlines of labels are drawn in full colour.
    """
    weight = np.where(label == 0, 0.0, opacity)
    weight[outline(label) & (label != 0)] = 1.0 if opacity > 0 else 0.0
    return blend(photo, palette[label], weight)


def heat(photo: np.ndarray, score: np.ndarray, opacity: float = 0.7) -> np.ndarray:
    """Return the photo, uint8 (H, W, 3), under a class map, float (H, W) in 0..1: transparent at 0, blue to red."""
    score = np.clip(score, 0.0, 1.0)
    # Up to 225 of 255: the colour map's end is a dark red that would hide the strongest places.
    colours = cv2.applyColorMap((score * 225).round().astype(np.uint8), cv2.COLORMAP_TURBO)[:, :, ::-1]
    return blend(photo, colours, opacity * np.sqrt(score))


def blend(below: np.ndarray, above: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return `above` over `below`, both uint8 (H, W, 3), with `weight` (H, W) in 0..1 of `above`."""
    weight = weight[:, :, None].astype(np.float32)
    return (below * (1 - weight) + above * weight).round().astype(np.uint8)


def outline(label: np.ndarray) -> np.ndarray:
    """Return where a label map (H, W) differs from the pixel above, below, left or right: bool (H, W)."""
    edge = np.zeros(label.shape, bool)
    down, right = label[1:] != label[:-1], label[:, 1:] != label[:, :-1]
    edge[1:] |= down
    edge[:-1] |= down
    edge[:, 1:] |= right
    edge[:, :-1] |= right
    return edge


def contact_sheet(
    rows: Sequence[Sequence[np.ndarray]],
    headings: Sequence[str],
    captions: Sequence[str],
    *,
    key: Mapping[str, np.ndarray] | None = None,
    cell: tuple[int, int] = (300, 225),
    across: int = 1,
) -> np.ndarray:
    """Return one picture of all `rows`: a row is one photo's pictures, uint8 (h, w, 3), one for each heading.

    Pictures are scaled to fit a cell (width, height), each row has a caption below its first picture, a line of the sheet
    holds `across` rows, and a legend shows `key`: name -> colour (3,).
    """
    fitted = [[fit(picture, cell) for picture in pictures] for pictures in rows]
    lines = [fitted[start : start + across] for start in range(0, len(rows), across)]
    heights = [max(image.height for images in line for image in images) for line in lines]
    stride = len(headings) * (cell[0] + GAP) + 2 * GAP  # from a row to the next on the same line
    width = 2 * MARGIN + across * stride - 3 * GAP
    swatches = legend(key or {}, width - 2 * MARGIN)
    captions_height = len(lines) * (TEXT + 2 * GAP)
    height = 2 * MARGIN + TEXT + GAP + sum(heights) + captions_height + GAP // 2 + swatches.shape[0]

    sheet = Image.new("RGB", (width, height), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(TEXT)
    for column in range(min(across, len(rows))):
        for place, heading in enumerate(headings):
            middle = MARGIN + column * stride + place * (cell[0] + GAP) + cell[0] // 2
            draw.text((middle, MARGIN - GAP // 2), heading, INK, font, anchor="ma")
    upper, names = MARGIN + TEXT + GAP, iter(captions)
    for line, line_height in zip(lines, heights, strict=True):
        for column, images in enumerate(line):
            for place, image in enumerate(images):
                left = MARGIN + column * stride + place * (cell[0] + GAP)
                sheet.paste(image, (left + (cell[0] - image.width) // 2, upper + (line_height - image.height) // 2))
            draw.text((MARGIN + column * stride, upper + line_height + GAP // 2), next(names), FAINT, font)
        upper += line_height + TEXT + 2 * GAP
    sheet.paste(Image.fromarray(swatches), (MARGIN, upper + GAP // 2))
    return np.array(sheet)


def fit(picture: np.ndarray, cell: tuple[int, int]) -> Image.Image:
    """Return the picture, uint8 (h, w, 3), scaled to the largest size within the cell (width, height)."""
    image = Image.fromarray(picture)
    scale = min(cell[0] / image.width, cell[1] / image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(size, Image.Resampling.LANCZOS)


def legend(key: Mapping[str, np.ndarray], width: int) -> np.ndarray:
    """Return swatches with their names, name -> RGB uint8 (3,), wrapped to `width` pixels: uint8 (h, width, 3)."""
    font, places, x, y = ImageFont.load_default(TEXT), [], 0, 0
    swatch, line = TEXT, TEXT + GAP
    for name in key:
        length = swatch + GAP // 2 + round(font.getlength(name)) + 2 * GAP
        if x and x + length > width:
            x, y = 0, y + line
        places.append((name, x, y))
        x += length
    picture = Image.new("RGB", (width, y + line if places else 0), PAPER)
    draw = ImageDraw.Draw(picture)
    for name, x, y in places:
        draw.rectangle((x, y, x + swatch - 1, y + swatch - 1), fill=tuple(key[name].tolist()))
        draw.text((x + swatch + GAP // 2, y + swatch // 2), name, INK, font, anchor="lm")
    return np.array(picture).reshape(picture.height, width, 3)
