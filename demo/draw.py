"""Draw a synthetic miniature of VOC12 in the devkit's layout, to try the whole pipeline without a download.

    python demo/draw.py --out demo_run --seed 0

writes demo_run/VOC2012 with JPEGImages, SegmentationClass (255 on borders), Annotations, ImageSets and saliency.
See `demo/scene.py` for the photos.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository's root instead of demo/

from tool.script import run_script

import cv2
from PIL import Image
from tqdm import tqdm

from demo.scene import Sample, draw
from pseudo_label.manifest import claim_folder
from tool import cli
from tool.files import atomic_write, make_folder, remove_leftovers
from tool.processes import WorkerPool
from voc12.images import save_label

RECIPE = 2  # increased when the same seed gives other pictures


def photo_id(number: int) -> str:
    """Return the id of photo `number` (from 1): a VOC id of a year that VOC never had."""
    return f"2099_{number:06d}"


def annotation(image_id: str, sample: Sample) -> str:
    """Return the XML of a photo: the parts of the devkit's that are read, with an object for each instance."""
    objects = "".join(f"\t<object>\n\t\t<name>{name}</name>\n\t</object>\n" for name in sample.names)
    return f"<annotation>\n\t<folder>VOC2012</folder>\n\t<filename>{image_id}.jpg</filename>\n{objects}</annotation>\n"


def write_sample(number: int, root: Path, seed: int, size: int, single: bool) -> None:
    """Draw photo `number` and write its four files to the existing folders of the devkit `root`, the XML last."""
    cv2.setNumThreads(1)  # the processes share the cores
    sample = draw(seed, number, size, single)
    image_id = photo_id(number)
    with atomic_write(root / "JPEGImages" / f"{image_id}.jpg") as file:
        Image.fromarray(sample.image).save(file, "JPEG", quality=92, subsampling=0)
    save_label(root / "SegmentationClass" / f"{image_id}.png", sample.label)
    with atomic_write(root / "saliency" / f"{image_id}.png") as file:
        Image.fromarray(sample.saliency).save(file, "PNG")
    with atomic_write(root / "Annotations" / f"{image_id}.xml", "w") as file:
        file.write(annotation(image_id, sample))


def make_devkit(
    out: str | Path, seed: int, train: int, val: int, size: int, num_workers: int, single: bool = False
) -> Path:
    """Write to `out`/VOC2012 what it lacks of the set, and return that folder. UserError: it holds anything else."""
    root = Path(out) / "VOC2012"
    settings = {"recipe": RECIPE, "seed": seed, "train": train, "val": val, "size": size, "single": single}
    claim_folder(root / "SegmentationClass", settings)
    for folder in ("JPEGImages", "SegmentationClass", "saliency", "Annotations", "ImageSets/Segmentation"):
        remove_leftovers(make_folder(root / folder))
    ids = [photo_id(number) for number in range(1, train + val + 1)]
    missing = [n for n, image_id in enumerate(ids, 1) if not (root / "Annotations" / f"{image_id}.xml").exists()]
    work = partial(write_sample, root=root, seed=seed, size=size, single=single)
    with WorkerPool(num_workers) as pool:
        for _ in tqdm(pool.map(work, missing), total=len(missing), unit="photo"):
            pass
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
