"""Short trainings of small networks on drawn photos."""

import shutil
from pathlib import Path
from typing import NamedTuple

import devices
import numpy as np
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from voc12.data import TrainPairs
from voc12.dataset import Dataset
from voc12.images import save_label
from voc12.lists import format_pairs


def image_id(number: int) -> str:
    return f"2099_{number:06d}"


IDS = [image_id(number) for number in range(1, 9)]


def write_pairs(path: Path, count: int) -> Path:
    """Write a list of `count` pairs of the drawn photos: number n of the 40 shows class n % 20."""
    pairs = [(image_id(i % 40 + 1), image_id((i + 20) % 40 + 1), (i + 1) % 20) for i in range(count)]
    path.write_text(format_pairs(pairs))
    return path


def flags(drawn: Path, *more: object) -> tuple[object, ...]:
    """Return flags of train_EDAM_cls.py for pairs.txt in the working folder."""
    return CASES["EDAM"].flags(drawn, "--train_list", "pairs.txt", "--max_epoches", 1, "--session_name", "EDAM", *more)


def train_pairs(root: Path) -> TrainPairs:
    """Return the pairs of `make_data`, as the case EDAM has them."""
    dataset = Dataset(root)
    pairs = dataset.read_pairs(root / "pairs.txt")
    labels = dataset.image_labels([i for pair in pairs for i in pair[:2]], root / "pairs.txt")
    return TrainPairs(pairs, labels, dataset, 32, 0, (32, 48))


class Case(NamedTuple):
    """A training of six steps."""

    script: str
    words: str  # flags, {} being the folder of `make_data`
    data: str  # as the log says it

    def flags(self, data: Path, *more: object) -> tuple[object, ...]:
        return (*self.words.format(data).split(), "--num_workers", 0, "--session_name", "s", *more)


CASES = {
    "EDAM": Case(
        "train_EDAM_cls.py",
        "--voc12_root {0} --train_list {0}/pairs.txt --network tests.small_net --batch_size 1 --warmup_steps 4 "
        "--crop_size 32 --long_side 32 48 --max_epoches 2",
        "3 pairs, 6 steps of 1 pair",
    ),
    "DeepLab": Case(
        "train_deeplab.py",
        "--voc12_root {0} --label_dir {0}/SegmentationClass --train_list {0}/list.txt --network tests.small_deeplab "
        "--batch_size 4 --crop_size 33 --max_iters 6 --lr 0.01",
        "8 photos, 6 steps of 4 photos",
    ),
    "PoolNet": Case(
        "train_sal.py",
        "--root {0} --train_list {0}/pairs.lst --network tests.small_poolnet --batch_size 2 --max_epoches 3 --lr 0.003",
        "4 photos, 6 steps of 2 photos",
    ),
}


def make_data(drawn: Path, root: Path) -> Path:
    """Write the data of all cases: a devkit with lists, and photos large enough for PoolNet with masks and label maps."""
    for folder in ("JPEGImages", "Annotations", "SegmentationClass"):
        shutil.copytree(drawn / folder, root / folder)
    write_pairs(root / "pairs.txt", 3)
    (root / "list.txt").write_text("\n".join(IDS))
    for folder in ("image", "mask", "label"):
        (root / folder).mkdir()
    for number, i in enumerate(IDS[:4]):
        size = (130, 112 + 3 * number)
        Image.open(drawn / f"JPEGImages/{i}.jpg").resize(size).save(root / f"image/{i}.jpg")
        Image.open(drawn / f"saliency/{i}.png").resize(size).save(root / f"mask/{i}.png")
        save_label(root / f"label/{i}.png", np.array(Image.open(drawn / f"SegmentationClass/{i}.png").resize(size)))
    (root / "pairs.lst").write_text("".join(f"image/{i}.jpg  mask/{i}.png\n\n" for i in IDS[:4]))
    return root


def damage(photo: Path) -> bytes:
    """Leave a JPEG's header and end intact, so that only decoding it fails; return its earlier bytes."""
    intact = photo.read_bytes()
    at = intact.index(b"\xff\xc4") + 5  # the numbers of codes in its first Huffman table
    photo.write_bytes(intact[:at] + b"\xff" * 16 + intact[at + 16 :])
    return intact


def events(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()


def curve(folder: Path, tag: str) -> dict[int, float]:
    """Return a curve as TensorBoard reads it, step -> value; each step must have one value."""
    points = [(point.step, point.value) for point in events(folder).Scalars(tag)]
    assert len(dict(points)) == len(points)
    return dict(points)


def tensors(path: Path) -> dict[str, np.ndarray]:
    """Return a checkpoint's tensors, or those of a state's network and optimizer."""
    saved = torch.load(path, map_location="cpu", weights_only=True)
    if "optimizer" in saved:
        state = saved["optimizer"]["state"]
        saved = saved["network"] | {f"{k} {n}": tensor for k, values in state.items() for n, tensor in values.items()}
    return {name: tensor.numpy() for name, tensor in saved.items()}


def same_tensors(first: Path, second: Path) -> bool:
    """Return whether two files hold the same tensors, on a CPU bit for bit."""
    a, b = tensors(first), tensors(second)
    return a.keys() == b.keys() and all(devices.same(a[name], b[name]) for name in a)


def same_run(folder: Path, expected: Path, name: str) -> bool:
    """Return whether two folders hold the same run: files, weights, momentum, and curves."""
    session, other = folder / "checkpoints" / name, expected / "checkpoints" / name
    names = sorted(path.name for path in session.iterdir())
    curves = [(curve(folder / "runs" / name, t), curve(expected / "runs" / name, t)) for t in ("Train/Loss", "Lr")]
    return (
        names == sorted(path.name for path in other.iterdir())
        and all(same_tensors(session / file, other / file) for file in names if file.endswith(".pth"))
        and all(devices.same(np.array(list(a.items())), np.array(list(b.items()))) for a, b in curves)
    )
