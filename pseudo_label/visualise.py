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
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    label = label.astype(np.uint8)  # OpenCV takes no int64
    return cv2.dilate(label, cross) != cv2.erode(label, cross)


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
    upper, below = MARGIN + TEXT + GAP, TEXT + 2 * GAP  # of the first line; for a caption

    height = upper + sum(heights) + len(lines) * below + GAP // 2 + swatches.shape[0] + MARGIN
    sheet = Image.new("RGB", (width, height), PAPER)
    draw, font, names = ImageDraw.Draw(sheet), ImageFont.load_default(TEXT), iter(captions)
    for line, line_height in zip(lines, heights, strict=True):
        for column, images in enumerate(line):
            left = MARGIN + column * stride
            draw.text((left, upper + line_height + GAP // 2), next(names), FAINT, font)
            for heading, image in zip(headings, images, strict=True):
                if line is lines[0]:
                    draw.text((left + cell[0] // 2, MARGIN - GAP // 2), heading, INK, font, anchor="ma")
                sheet.paste(image, (left + (cell[0] - image.width) // 2, upper + (line_height - image.height) // 2))
                left += cell[0] + GAP
        upper += line_height + below
    sheet.paste(Image.fromarray(swatches), (MARGIN, upper + GAP // 2))
    return np.array(sheet)


def fit(picture: np.ndarray, cell: tuple[int, int]) -> Image.Image:
    """Return the picture, uint8 (h, w, 3), scaled to the largest size within the cell (width, height)."""
    image = Image.fromarray(picture)
    scale = min(cell[0] / image.width, cell[1] / image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(size, Image.Resampling.LANCZOS)


def with_legend(picture: np.ndarray, key: Mapping[str, np.ndarray], least: int = 480) -> np.ndarray:
    """Return a picture, uint8 (h, w, 3), enlarged to at least `least` pixels, over the legend of `key`."""
    side = max(least, *picture.shape[:2])
    enlarged = np.array(fit(picture, (side, side)))
    gap = np.full((GAP, enlarged.shape[1], 3), PAPER, np.uint8)
    return np.concatenate([enlarged, gap, legend(key, enlarged.shape[1])])


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
