"""Random pairs of images that share a class: the unit that EDAM trains on (EDAM_train.txt).

As a script, make a pair list from any image list:
    python voc12/pairs.py --voc12_root ROOT --image_list voc12/train.txt --out voc12/EDAM_train_small.txt
"""

import argparse
import itertools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

if __name__ == "__main__":  # a script's modules are searched for in its own folder, not in the repository's root
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from tool.script import run_script

import numpy as np
from scipy.sparse.csgraph import breadth_first_order

from tool import cli
from tool.cli import UserError, counted
from voc12.classes import VOC, Classes
from voc12.dataset import Dataset, check_inputs, report_problems
from voc12.labels import IGNORE_FOREIGN
from voc12.lists import format_pairs, read_image_list, read_lines, write_text

PAIRS_FILE = "EDAM_train.txt"


def make_pairs(labels: Mapping[str, np.ndarray], epochs: int, seed: int) -> list[tuple[str, str, int]]:
    """Return `epochs` random matchings of the images as (id, id, class from 0), epoch after epoch.

    Both images of a pair show its class, which is drawn from those that they share. Every image occurs in each epoch; one without
    a partner is paired with a paired image that shares any class, or with itself if no other image shares a class.
    The same seed gives the same pairs on any machine: numpy promises never to change the raw output of PCG64.
    labels: id -> (C,) multi-hot of at least one image, each with a class; their order does not matter.
    """
    ids = sorted(labels)
    shown = np.stack([labels[image_id] for image_id in ids]) > 0  # (images, classes)
    bits = np.random.PCG64(seed)
    matchings = [_match(shown, bits) for _ in range(epochs)]
    return [(ids[first], ids[second], label) for matching in matchings for first, second, label in matching.tolist()]


def _match(shown: np.ndarray, bits: np.random.PCG64) -> np.ndarray:
    """Return the pairs of one epoch in random order, (pairs, 3): first image, second image, class."""
    chosen = _draw(shown, bits)  # one class for each image; then neighbours of a shuffled class become pairs
    _make_even(chosen, shown, bits)
    order = np.argsort(bits.random_raw(len(shown)), kind="stable")
    pairs = []
    for label in range(shown.shape[1]):
        members = order[chosen[order] == label]
        if len(members) % 2:
            others = np.flatnonzero((shown & shown[members[-1]]).any(1))
            others = others[others != members[-1]] if len(others) > 1 else others
            members = np.append(members, others[int(bits.random_raw()) % len(others)])
        pairs.append(members.reshape(-1, 2))
    paired = np.concatenate(pairs)
    paired = paired[np.argsort(bits.random_raw(len(paired)), kind="stable")]
    shared = shown[paired[:, 0]] & shown[paired[:, 1]]
    return np.column_stack([paired, _draw(shared, bits)])


def _draw(allowed: np.ndarray, bits: np.random.PCG64) -> np.ndarray:
    """Return a uniformly drawn true column for each row of a boolean (n, classes): (n,) int."""
    # The remainder of 64 bits by at most 254 is uneven by only 2e-17.
    rank = bits.random_raw(len(allowed)) % allowed.sum(1).astype(np.uint64)  # (n,)
    return np.argmax(np.cumsum(allowed, 1) > rank[:, None], 1)


def _make_even(chosen: np.ndarray, shown: np.ndarray, bits: np.random.PCG64) -> None:
    """Change few of the drawn classes in place so that as few classes as possible have an odd number of images.

    A chain of classes links two odd ones; for each link, an image of both classes moves from one to the other.
    """
    classes = shown.shape[1]
    for start in range(classes):
        odd = np.bincount(chosen, minlength=classes) % 2 == 1
        if not odd[start]:
            continue
        drawn = chosen[:, None] == np.arange(classes)  # (images, classes), one true per row
        # (from, to): images that could move. A product of integers is 60 times slower.
        linked = drawn.T.astype(np.float32) @ shown
        order, came_from = breadth_first_order((linked + linked.T) > 0, start)
        path = [next((node for node in order[1:].tolist() if odd[node]), start)]  # to the nearest other odd class
        while path[-1] != start:
            path.append(int(came_from[path[-1]]))
        for a, b in itertools.pairwise(path[::-1]):
            movable = np.flatnonzero(shown[:, a] & shown[:, b] & ((chosen == a) | (chosen == b)))
            if len(movable) == 0:  # the previous step of the path moved the only image that could move
                break
            image = movable[int(bits.random_raw()) % len(movable)]
            chosen[image] = a + b - chosen[image]


def check_pairs(
    pairs: Sequence[tuple[str, str, int]], labels: Mapping[str, np.ndarray], path: str | Path, classes: Classes = VOC
) -> None:
    """Raise UserError naming the line of the list at `path` whose class is not shown by both photos.

    pairs: result of `read_pairs(path)`; labels: id -> (C,) multi-hot of the photos.
    """
    for place, (first, second, label) in enumerate(pairs):
        for image_id in (first, second):
            if not labels[image_id][label]:
                where = f"{path}: line {read_lines(path)[place][0]}"
                problem = f"pairs {first} and {second} for {classes.names[label]}, but {image_id} shows none"
                raise UserError(f"{where} {problem}. Make the list again with voc12/prepare.py or voc12/pairs.py.")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `make_pairs`: --epochs and --seed."""
    parser.add_argument("--epochs", type=cli.count(1), default=25, help="epochs in the pair list")
    parser.add_argument("--seed", type=cli.count(), default=0, help="same seed, same pairs")


def get_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(__doc__)
    add = parser.add_argument
    add("--voc12_root", required=True, metavar="DIR", help="folder of the dataset, for its labels")
    add("--image_list", required=True, metavar="FILE", help="photos to pair, such as voc12/train_aug.txt")
    add("--out", required=True, metavar="FILE", help="pair list to write")
    add("--labels", metavar="FILE", help="labels.csv or .npy to read instead of the dataset's file")
    add("--ignore_foreign", action="store_true", help=IGNORE_FOREIGN)
    add_flags(parser)
    return parser


def main(argv: list[str] | None = None) -> None:
    args = get_parser().parse_args(argv)
    if args.labels and not Path(args.labels).exists():
        nearest = cli.nearest_path(args.labels)
        raise UserError(f"--labels {args.labels}: does not exist{nearest}. Correct it, or leave it out.")
    if Path(args.out).resolve() in [Path(path).resolve() for path in (args.image_list, args.labels) if path]:
        raise UserError(f"--out {args.out}: is also read. Name another file.")
    ids = read_image_list(args.image_list)
    data = Dataset(args.voc12_root, args.ignore_foreign)
    report_problems(check_inputs(ids, [data.photos]), ids, None, "paired")
    labels = data.image_labels(ids, args.image_list, labels_path=args.labels)
    pairs = make_pairs(labels, args.epochs, args.seed)
    write_text(args.out, format_pairs(pairs))
    print(f"{args.out}: {counted(len(pairs), 'pairs')}, {len(pairs) // args.epochs} per epoch")


if __name__ == "__main__":
    run_script(main)
