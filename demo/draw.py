"""Draw a synthetic miniature of VOC12 in the devkit's layout, to try the whole pipeline without a download.

    python demo/draw.py --out demo_run --seed 0

An object has a *badge*, a pattern in two colours that only its class has, and a larger *body* that looks alike in a
family of classes. A class map that marks only the discriminative part, a known failure, covers a third of the object.
Backgrounds show the same colours, and the same patterns in other colours.
"""

import argparse
import sys
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository's root instead of demo/

from tool.script import run_script

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from demo import shapes
from pseudo_label.manifest import claim_folder
from tool import VOID, cli
from tool.cli import UserError
from tool.files import atomic_write, make_folder, remove_leftovers
from tool.processes import WorkerPool
from voc12.classes import CLASSES
from voc12.dataset import MANIFEST
from voc12.images import save_label

RECIPE = 3  # increased when the same seed gives other pictures
PHOTO_ID = "2099_{:06}"  # of a year that VOC never had
OBJECTS_PER_PHOTO = (0.3, 0.42, 0.28)  # share of photos with 1, 2 and 3 objects
SAME_CLASS_AGAIN = 0.12  # probability that a further object has the class of the first


@dataclass
class Thing:
    """Object of a scene, unoccluded. `whole` and `badge` are coverages float32 (H, W) in 0..1."""

    label: int
    whole: np.ndarray
    badge: np.ndarray
    paint: np.ndarray  # (H, W, 3) float32


@dataclass(frozen=True)
class Sample:
    """Photo with its ground truth."""

    image: np.ndarray  # uint8 (H, W, 3)
    label: np.ndarray  # uint8 (H, W): 0, class + 1, or 255 on borders
    saliency: np.ndarray  # uint8 (H, W): all objects, with soft edges
    names: tuple[str, ...]  # class of each object, back to front


def background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return a cluttered background, float32 (H, W, 3)."""
    x, y = shapes.grid(height, width)
    unit = max(height, width) / 128
    hue = rng.random()
    tones = [shapes.rgb(hue + rng.normal(0, 0.12), rng.uniform(0.05, 0.6), rng.uniform(0.25, 0.95)) for _ in range(3)]
    turn = rng.uniform(0, 2 * np.pi)
    slope = 0.5 + 0.5 * ((x / width - 0.5) * np.cos(turn) + (y / height - 0.5) * np.sin(turn))
    canvas = tones[0] + slope[..., None] * (tones[1] - tones[0])
    shapes.blend(canvas, tones[2], np.clip(shapes.noise(rng, height, width, 22 * unit), 0, 1))
    grain = shapes.noise(rng, height, width, rng.uniform(4, 12) * unit) * rng.uniform(4, 22)
    canvas += grain[..., None]

    for _ in range(rng.integers(4, 10)):
        centre = (rng.uniform(0, width), rng.uniform(0, height))
        size = rng.uniform(6, 22) * unit
        u, v = shapes.local(x, y, centre, rng.uniform(0, 2 * np.pi), size, False)
        kind = rng.integers(4)
        if kind == 0:
            field = shapes.lobed(u, v, int(rng.choice((0, 0, 4, 5, 6))))
        elif kind == 1:
            field = shapes.capsule(u, v, -2.5, 0, 2.5, 0, rng.uniform(0.12, 0.4))
        else:
            field = shapes.superellipse(u, v, rng.uniform(0.4, 1), rng.uniform(2, 5))
        alpha = shapes.coverage(field)
        shapes.blend(canvas, _clutter_colour(rng, tones), alpha)
        if rng.random() < 0.25:  # a pattern, never in the two colours of a class
            marks = shapes.pattern(u, v, int(rng.integers(len(shapes.LOBES))), 7.5 * unit / size)
            shapes.blend(canvas, _clutter_colour(rng, tones, badge=False), alpha * marks)
    return canvas


def _clutter_colour(rng: np.random.Generator, tones: list[np.ndarray], badge: bool = True) -> np.ndarray:
    """Return the colour of a background patch: one of the tones, a body's or, if `badge`, a badge's."""
    kind = rng.uniform(0, 1 if badge else 0.75)
    if kind < 0.35:
        return tones[rng.integers(len(tones))] * rng.uniform(0.7, 1.25)
    if kind < 0.75:
        return shapes.body_colour(rng, (shapes.LIVING, shapes.VEHICLE, shapes.INDOOR)[rng.integers(3)])
    return shapes.vary(rng, shapes.COLOURS[rng.integers(len(shapes.COLOURS))])


def thing(rng: np.random.Generator, label: int, height: int, width: int, reach: float) -> Thing:
    """Return an object of class `label` (0..19), about 2 * `reach` pixels long, with random place, pose, colour and light."""
    family = shapes.family_of(label)
    scale = reach * family.size * rng.uniform(0.82, 1.15)
    x, y = shapes.grid(height, width)
    centre_x, centre_y = (
        rng.uniform(min(0.85 * scale, 0.48 * side), max(side - 0.85 * scale, 0.52 * side)) for side in (width, height)
    )
    angle = rng.uniform(-0.6, 0.6) + (np.pi / 2 if family.upright else 0)
    u, v = shapes.local(x, y, (centre_x, centre_y), angle, scale, bool(rng.random() < 0.5) and not family.upright)
    v = v * rng.uniform(0.9, 1.12)

    thickness = rng.uniform(*family.thickness) * (1 + rng.uniform(-family.taper, family.taper) * u)
    bent = v + rng.uniform(-family.bend, family.bend) * (1 - u * u)
    body = shapes.superellipse(u, bent, np.maximum(thickness, 0.1), rng.uniform(*family.exponent))
    alpha = shapes.coverage(body)
    for limb in family.limbs:
        alpha = np.maximum(alpha, shapes.coverage(shapes.capsule(u, v, *limb)))

    kind, first, second = shapes.badge_look(label)
    radius = rng.uniform(0.46, 0.54)
    at = np.array(family.badge_at) + rng.uniform(-0.07, 0.07, 2)
    turn = rng.uniform(0, 2 * np.pi)
    p, q = shapes.local(u, v, tuple(at), turn, radius, False)
    badge = shapes.coverage(shapes.lobed(p, q, shapes.LOBES[kind]))
    marks = shapes.pattern(p, q, kind, 0.8 * rng.uniform(0.9, 1.1))

    paint = np.empty((height, width, 3), np.float32)
    paint[:] = shapes.body_colour(rng, family)
    shapes.blend(paint, shapes.vary(rng, first), badge)
    shapes.blend(paint, shapes.vary(rng, second), badge * marks)
    light = rng.uniform(0, 2 * np.pi)
    paint *= 1 + rng.uniform(0.03, 0.13) * (np.cos(light) * u + np.sin(light) * v)[..., None]
    paint += shapes.noise(rng, height, width, 3)[..., None] * rng.uniform(1, 5)
    return Thing(label, np.maximum(alpha, badge), badge, paint)


def hides_too_much(front: Thing, others: list[Thing]) -> bool:
    """Return whether an object of `others` (back to front) would be hidden by over 30 %, or its badge by over 20 %."""
    cover = front.whole
    for other in reversed(others):
        for part, least in ((other.whole, 0.7), (other.badge, 0.8)):
            if (part * (1 - cover)).sum() < least * part.sum():
                return True
        cover = np.maximum(cover, other.whole)
    return False


def arrange(rng: np.random.Generator, first: int, height: int, width: int, single: bool) -> list[Thing]:
    """Return one object (`single`) or up to three, back to front, the first of class `first`; none hides much of another."""
    count = 1 if single else 1 + int(rng.choice(3, p=OBJECTS_PER_PHOTO))
    reach = (36.0, 31.0, 27.0)[count - 1] * max(height, width) / 128
    things = [thing(rng, first, height, width, reach)]
    for _ in range(count - 1):
        label = things[0].label if rng.random() < SAME_CLASS_AGAIN else int(rng.integers(len(CLASSES)))
        for attempt in range(12):
            candidate = thing(rng, label, height, width, reach * 0.97**attempt)
            if not hides_too_much(candidate, things):
                things.append(candidate)
                break
    return things


def draw_photo(seed: int, number: int, size: int, single: bool = False) -> Sample:
    """Return photo `number` of the set `seed`, `size` pixels long, with one object if `single`. Deterministic."""
    rng = np.random.default_rng((seed, number))
    short = int(rng.integers(round(0.75 * size), round(0.9 * size) + 1))
    height, width = (size, short) if rng.random() < 0.3 else (short, size)
    canvas = background(rng, height, width)
    things = arrange(rng, number % len(CLASSES), height, width, single)  # spreads the classes evenly

    owner = np.full((height, width), -1)
    for index, item in enumerate(things):
        shadow = cv2.GaussianBlur(item.whole, (0, 0), 0.02 * size)
        canvas *= 1 - rng.uniform(0.0, 0.3) * shadow[..., None]
        shapes.blend(canvas, item.paint, item.whole)
        owner[item.whole >= 0.5] = index

    x, y = shapes.grid(height, width)
    turn = rng.uniform(0, 2 * np.pi)
    lamp = (x / width - 0.5) * np.cos(turn) + (y / height - 0.5) * np.sin(turn)
    canvas *= (rng.uniform(0.8, 1.12) * (1 + rng.uniform(0, 0.3) * lamp))[..., None] * rng.uniform(0.93, 1.07, 3)
    canvas += rng.standard_normal(canvas.shape, dtype=np.float32) * rng.uniform(1, 4)
    image = np.rint(np.clip(canvas, 0, 255)).astype(np.uint8)

    label = np.array([0, *(item.label + 1 for item in things)], np.uint8)[owner + 1]
    for index in range(len(things)):
        mask = (owner == index).astype(np.uint8)
        label[cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0] = VOID
    salient = (label > 0).astype(np.uint8) * np.uint8(255)
    names = tuple(CLASSES[item.label] for item in things)
    return Sample(image, label, cv2.GaussianBlur(salient, (0, 0), 0.02 * size), names)


def write_sample(number: int, root: Path, seed: int, size: int, single: bool) -> None:
    """Draw photo `number` and write its four files to the existing folders of the devkit `root`, the XML last."""
    sample = draw_photo(seed, number, size, single)
    image_id = PHOTO_ID.format(number)
    with atomic_write(root / "JPEGImages" / f"{image_id}.jpg") as file:
        Image.fromarray(sample.image).save(file, "JPEG", quality=92, subsampling=0)
    save_label(root / "SegmentationClass" / f"{image_id}.png", sample.label)
    save_label(root / "saliency" / f"{image_id}.png", sample.saliency, grey=True)
    objects = "".join(f"\t<object>\n\t\t<name>{name}</name>\n\t</object>\n" for name in sample.names)
    with atomic_write(root / "Annotations" / f"{image_id}.xml", "w") as file:  # only the elements we read
        file.write(f"<annotation>\n\t<folder>VOC2012</folder>\n\t<filename>{image_id}.jpg</filename>\n")
        file.write(f"{objects}</annotation>\n")


def make_devkit(
    out: str | Path, seed: int, train: int, val: int, size: int, num_workers: int, single: bool = False
) -> Path:
    """Complete the set in `out`/VOC2012, and return that folder. UserError: it holds another set or other photos."""
    root = Path(out) / "VOC2012"
    settings = {"recipe": RECIPE, "seed": seed, "train": train, "val": val, "size": size, "single": single}
    if (root / "JPEGImages").exists() and not (root / "SegmentationClass" / MANIFEST).exists():
        raise UserError(f"{root}: holds photos of another kind. Name another --out.")
    claim_folder(root / "SegmentationClass", settings)
    for folder in ("JPEGImages", "SegmentationClass", "saliency", "Annotations", "ImageSets/Segmentation"):
        remove_leftovers(make_folder(root / folder))
    ids = [PHOTO_ID.format(number) for number in range(1, train + val + 1)]
    missing = [n for n, image_id in enumerate(ids, 1) if not (root / "Annotations" / f"{image_id}.xml").exists()]
    work = partial(write_sample, root=root, seed=seed, size=size, single=single)
    cv2.setNumThreads(1)  # before the fork: a process that inherits OpenCV's threads waits for them for ever
    try:
        with WorkerPool(num_workers) as pool:
            list(tqdm(pool.map(work, missing), total=len(missing), unit="photo"))
    except BrokenProcessPool as error:
        raise UserError("--num_workers: a drawing process was killed. Lower it and rerun.") from error
    for name, part in (("train", ids[:train]), ("val", ids[train:]), ("trainval", ids)):
        with atomic_write(root / "ImageSets" / "Segmentation" / f"{name}.txt", "w") as file:
            file.writelines(f"{image_id}\n" for image_id in part)
    return root


def get_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(__doc__)
    add = parser.add_argument
    add("--out", required=True, metavar="DIR", help="folder that gets VOC2012/")
    add("--seed", type=cli.count(), default=0, help="the same seed draws the same pictures")
    add("--train", type=cli.count(1), default=800, help="training photos")
    add("--val", type=cli.count(), default=100, help="validation photos")
    add("--size", type=cli.number(int, 64, 1024), default=128, help="long side of the photos in pixels, 64..1024")
    add("--single", action="store_true", help="one object in each photo, as in ImageNet")
    add("--num_workers", type=cli.count(1), default=2, help="drawing processes")
    return parser


def main() -> None:
    args = get_parser().parse_args()
    root = make_devkit(args.out, args.seed, args.train, args.val, args.size, args.num_workers, args.single)
    print(f"{root}: {args.train} training and {args.val} validation photos; saliency maps in {root / 'saliency'}")


if __name__ == "__main__":
    run_script(main)
