"""Draw a synthetic miniature of VOC12 in the devkit's layout, to try the whole pipeline without a download.

    python demo/draw.py --out demo_run --seed 0

writes demo_run/VOC2012 with JPEGImages, SegmentationClass (255 on borders), Annotations, ImageSets and saliency.
See `demo/scene.py` for the photos.
"""

import argparse
import json
import sys
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository's root instead of demo/

import cv2
from PIL import Image
from tqdm import tqdm

from demo.scene import Sample, draw
from tool import cli
from tool.cli import UserError, run_script
from tool.files import atomic_write, make_folder, remove_leftovers
from tool.workers import WorkerPool
from voc12.images import save_label

RECIPE = 2  # increased when the same seed gives other pictures


def photo_id(number: int) -> str:
    """Return the id of photo `number` (from 1): a VOC id of a year that VOC never had."""
    return f"2099_{number:06d}"


def annotation(image_id: str, sample: Sample) -> str:
    """Return the devkit XML of a photo: its size, and an object with its box per instance."""
    height, width = sample.label.shape
    objects = "".join(
        f"\t<object>\n\t\t<name>{name}</name>\n\t\t<pose>Unspecified</pose>\n\t\t<truncated>0</truncated>\n"
        f"\t\t<difficult>0</difficult>\n\t\t<bndbox>\n\t\t\t<xmin>{x0}</xmin>\n\t\t\t<ymin>{y0}</ymin>\n"
        f"\t\t\t<xmax>{x1}</xmax>\n\t\t\t<ymax>{y1}</ymax>\n\t\t</bndbox>\n\t</object>\n"
        for name, x0, y0, x1, y1 in sample.objects
    )
    return (
        f"<annotation>\n\t<folder>VOC2012</folder>\n\t<filename>{image_id}.jpg</filename>\n\t<size>\n"
        f"\t\t<width>{width}</width>\n\t\t<height>{height}</height>\n\t\t<depth>3</depth>\n\t</size>\n"
        f"\t<segmented>1</segmented>\n{objects}</annotation>\n"
    )


def write_sample(number: int, root: Path, seed: int, size: int) -> None:
    """Draw photo `number` and write its four files to the existing folders of the devkit `root`."""
    cv2.setNumThreads(1)  # the processes share the cores
    sample = draw(seed, number, size)
    image_id = photo_id(number)
    with atomic_write(root / "JPEGImages" / f"{image_id}.jpg") as file:
        Image.fromarray(sample.image).save(file, "JPEG", quality=92, subsampling=0)
    save_label(root / "SegmentationClass" / f"{image_id}.png", sample.label)
    with atomic_write(root / "saliency" / f"{image_id}.png") as file:
        Image.fromarray(sample.saliency).save(file, "PNG")
    with atomic_write(root / "Annotations" / f"{image_id}.xml", "w") as file:
        file.write(annotation(image_id, sample))


def make_devkit(out: str | Path, seed: int, train: int, val: int, size: int, num_workers: int) -> Path:
    """Write the whole set to `out`/VOC2012 and return that folder; skip it if it is complete.

    Raises:
        UserError: the folder holds anything else.
    """
    root = Path(out) / "VOC2012"
    settings = {"recipe": RECIPE, "seed": seed, "train": train, "val": val, "size": size}
    found = _read_settings(root)
    if found == settings | {"complete": True}:
        print(f"{root} is already complete")
        return root
    if found != settings and root.exists() and any(root.iterdir()):
        raise UserError(f"{root}: holds files of another run. Remove it or choose another --out.")

    for folder in ("JPEGImages", "SegmentationClass", "saliency", "Annotations", "ImageSets/Segmentation"):
        remove_leftovers(make_folder(root / folder))
    _write_settings(root, settings)
    work = partial(write_sample, root=root, seed=seed, size=size)
    numbers = range(1, train + val + 1)
    with WorkerPool(min(num_workers, len(numbers))) as pool:
        try:
            for _ in tqdm(pool.map(work, numbers), total=len(numbers), unit="photo"):
                pass
        except BrokenProcessPool as error:
            raise UserError("--num_workers: a process was killed (out of memory?). Lower it and rerun.") from error
    ids = [photo_id(number) for number in numbers]
    for name, part in (("train", ids[:train]), ("val", ids[train:]), ("trainval", ids)):
        with atomic_write(root / "ImageSets" / "Segmentation" / f"{name}.txt", "w") as file:
            file.writelines(f"{image_id}\n" for image_id in part)
    _write_settings(root, settings | {"complete": True})
    return root


def _read_settings(root: Path) -> dict | None:
    """Return the settings of the set in `root`, None if there is no set."""
    path = root / "synthetic.json"
    return json.loads(path.read_text()) if path.is_file() else None


def _write_settings(root: Path, settings: dict) -> None:
    with atomic_write(root / "synthetic.json", "w") as file:
        json.dump(settings, file)


def get_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(__doc__)
    add = parser.add_argument
    add("--out", required=True, metavar="DIR", help="folder that gets VOC2012/")
    add("--seed", type=cli.count(), default=0, help="the same seed draws the same pictures")
    add("--train", type=cli.count(1), default=800, help="training photos")
    add("--val", type=cli.count(), default=100, help="validation photos")
    add("--size", type=cli.number(int, 64, 1024), default=128, help="long side of the photos in pixels, 64..1024")
    add("--num_workers", type=cli.count(1), default=2, help="drawing processes")
    return parser


def main() -> None:
    args = get_parser().parse_args()
    root = make_devkit(args.out, args.seed, args.train, args.val, args.size, args.num_workers)
    print(f"{root}: {args.train} training and {args.val} validation photos; saliency maps in {root / 'saliency'}")


if __name__ == "__main__":
    run_script(main)
