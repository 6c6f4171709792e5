"""Shapes, patterns, colours and noise for `demo/draw.py`, as pure functions on coordinate grids.

A shape is a *field*: a float array, negative inside and positive outside. `coverage` makes an antialiased mask of it.
"""

import colorsys
from dataclasses import dataclass

import cv2
import numpy as np

from voc12.classes import CLASSES


@dataclass(frozen=True)
class Family:
    """Body of several classes: ranges to draw from, in units of the body's half length."""

    exponent: tuple[float, float]  # of the superellipse: 2 an ellipse, 5 nearly a box
    thickness: tuple[float, float]  # half height
    taper: float  # how much thicker one end may be than the other
    bend: float  # how far the middle may rise above the ends
    limbs: tuple[tuple[float, float, float, float, float], ...]  # capsules: from x, y to x, y, radius
    badge_at: tuple[float, float]  # centre of the badge
    size: float  # relative to the other families
    hue: tuple[float, float]  # usual colours; a fifth of the bodies have any colour
    saturation: tuple[float, float]
    upright: bool = False  # long side vertical


LIVING = Family(
    exponent=(2.0, 2.4),
    thickness=(0.5, 0.64),
    taper=0.25,
    bend=0.2,
    limbs=((-0.6, 0.2, -0.68, 0.88, 0.13), (-0.25, 0.3, -0.2, 0.92, 0.13), (0.5, 0.2, 0.5, 0.9, 0.13)),
    badge_at=(0.82, -0.42),
    size=1.0,
    hue=(0.02, 0.14),
    saturation=(0.15, 0.6),
)
VEHICLE = Family(
    exponent=(3.5, 5.0),
    thickness=(0.42, 0.54),
    taper=0.15,
    bend=0.06,
    limbs=((-0.55, 0.45, -0.55, 0.46, 0.25), (0.5, 0.45, 0.5, 0.46, 0.25)),
    badge_at=(0.42, -0.3),
    size=1.08,
    hue=(0.45, 0.95),
    saturation=(0.2, 0.75),
)
INDOOR = Family(
    exponent=(2.4, 4.0),
    thickness=(0.48, 0.62),
    taper=0.35,
    bend=0.1,
    upright=True,
    limbs=((0.92, -0.5, 0.92, 0.5, 0.12),),
    badge_at=(-0.62, 0.0),
    size=0.98,
    hue=(0.05, 0.45),
    saturation=(0.1, 0.5),
)
LIVING_NAMES = ("bird", "cat", "cow", "dog", "horse", "person", "sheep")
VEHICLE_NAMES = ("aeroplane", "bicycle", "boat", "bus", "car", "motorbike", "train")

# Badge colours (hue, saturation, value), further apart than the training's hue jitter of 0.1. A class has two neighbours
# of this ring and one pattern. Eight classes share a colour and five a pattern, so only the combination identifies one.
COLOURS = ((0.99, 0.8, 0.8), (0.13, 0.15, 0.95), (0.36, 0.75, 0.55), (0.7, 0.3, 0.13), (0.6, 0.75, 0.8))
LOBES = (0, 6, 0, 4)  # bumps of the badge's outline, by pattern: stripes, dots, rings, checks


def family_of(label: int) -> Family:
    """Return the family of class `label` (0..19)."""
    name = CLASSES[label]
    return LIVING if name in LIVING_NAMES else VEHICLE if name in VEHICLE_NAMES else INDOOR


def badge_look(label: int) -> tuple[int, tuple[float, float, float], tuple[float, float, float]]:
    """Return the kind of `pattern` and the two colours (HSV in 0..1) of the badge of class `label` (0..19)."""
    pair, kind = divmod(label, len(LOBES))
    return kind, COLOURS[pair], COLOURS[(pair + 1) % len(COLOURS)]


def grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y of the pixel centres, float32 (height, width)."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) + np.float32(0.5)
    return x, y


def local(
    x: np.ndarray, y: np.ndarray, centre: tuple[float, float], angle: float, scale: float, mirror: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return coordinates in a frame at `centre` (pixels), turned by `angle` (radians), with `scale` pixels to the unit."""
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    dx, dy = x - np.float32(centre[0]), y - np.float32(centre[1])
    u = np.float32(cos) * dx + np.float32(sin) * dy
    v = np.float32(-sin) * dx + np.float32(cos) * dy
    return (-u if mirror else u), v


def coverage(field: np.ndarray) -> np.ndarray:
    """Return each pixel's share with `field` < 0, float32 (H, W) in 0..1, by the first-order distance to its zero line."""
    dy, dx = np.gradient(field)
    return np.clip(0.5 - field / (np.sqrt(dx * dx + dy * dy) + 1e-6), 0, 1)


def superellipse(u: np.ndarray, v: np.ndarray, half_height: np.ndarray | float, exponent: float) -> np.ndarray:
    """Return the field of an ellipse (exponent 2) to box (exponent 5) of half length 1."""
    return np.abs(u) ** exponent + np.abs(v / half_height) ** exponent - 1


def capsule(u: np.ndarray, v: np.ndarray, x0: float, y0: float, x1: float, y1: float, radius: float) -> np.ndarray:
    """Return the field of all points within `radius` of the segment from (x0, y0) to (x1, y1)."""
    dx, dy = x1 - x0, y1 - y0
    along = np.clip(((u - x0) * dx + (v - y0) * dy) / (dx * dx + dy * dy + 1e-9), 0, 1)
    return np.hypot(u - x0 - along * dx, v - y0 - along * dy) - radius


def lobed(u: np.ndarray, v: np.ndarray, lobes: int) -> np.ndarray:
    """Return the field of a disc of radius 1 with `lobes` bumps (none when 0)."""
    bumps = 0.12 * np.cos(lobes * np.arctan2(v, u)) if lobes else 0.0
    return np.hypot(u, v) - (1 + bumps)


def pattern(u: np.ndarray, v: np.ndarray, kind: int, period: float) -> np.ndarray:
    """Return an antialiased pattern, float32 (H, W) in 0..1. kind: see LOBES. period: in units of u and v."""
    f = 2 * np.pi / period
    if kind == 0:
        field = np.sin(f * u)
    elif kind == 1:
        field = 0.55 - np.cos(f * u) * np.cos(f * v)
    elif kind == 2:
        field = np.cos(f * np.hypot(u, v))
    else:
        field = np.sin(0.8 * f * u) * np.sin(0.8 * f * v)
    return coverage(field.astype(np.float32))


def rgb(hue: float, saturation: float, value: float) -> np.ndarray:
    """Return HSV (hue wraps, the others are clipped to 0..1) as RGB float32 (3,) in 0..255."""
    saturation, value = min(max(saturation, 0.0), 1.0), min(max(value, 0.0), 1.0)
    return np.array(colorsys.hsv_to_rgb(hue % 1.0, saturation, value), np.float32) * 255


def vary(rng: np.random.Generator, colour: tuple[float, float, float]) -> np.ndarray:
    """Return a random variation of `colour` (HSV) as RGB float32 (3,) in 0..255."""
    return rgb(colour[0] + rng.normal(0, 0.022), colour[1] * rng.uniform(0.8, 1.12), colour[2] * rng.uniform(0.85, 1.1))


def body_colour(rng: np.random.Generator, family: Family) -> np.ndarray:
    """Return the colour of a body, RGB float32 (3,) in 0..255: in the family's range, but a fifth of them any colour."""
    usual = rng.random() < 0.8
    hue = rng.uniform(*family.hue) if usual else rng.random()
    return rgb(hue, rng.uniform(*family.saturation), rng.uniform(0.3, 0.9))


def noise(rng: np.random.Generator, height: int, width: int, cell: float) -> np.ndarray:
    """Return smooth noise with features of about `cell` pixels, float32 (height, width), mean 0, mostly in -1..1."""
    rows, columns = int(height / cell) + 3, int(width / cell) + 3
    coarse = rng.standard_normal((rows, columns), dtype=np.float32) * np.float32(0.6)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def blend(canvas: np.ndarray, colour: np.ndarray, alpha: np.ndarray) -> None:
    """Paint `colour` ((3,) or (H, W, 3)) on `canvas` float32 (H, W, 3) in place, with `alpha` (H, W) in 0..1."""
    canvas += alpha[..., None] * (colour - canvas)
