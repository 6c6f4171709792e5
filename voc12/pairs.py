"""Random pairs of images that share a class: the unit that EDAM trains on (EDAM_train.txt).

Run by itself it makes a pair list from any image list:
    python voc12/pairs.py --voc12_root ROOT --image_list voc12/train.txt --out voc12/EDAM_train_small.txt
"""

import argparse
import itertools
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

if __name__ == "__main__":
    # Run as `python voc12/pairs.py`, Python looks for modules in voc12/; ours are found from the repository's root.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from tool import cli
from tool.cli import UserError, counted, run_script, summarize_problems
from voc12.classes import VOC, Classes
from voc12.inputs import check_inputs, photos
from voc12.labels import IGNORE_FOREIGN, labels_file, load_labels
from voc12.lists import check_root, format_pairs, line_numbers, photo_folder, read_classes, read_image_list, write_text

EPOCHS = 25
SEED = 0


def make_pairs(labels: Mapping[str, np.ndarray], epochs: int = EPOCHS, seed: int = SEED) -> list[tuple[str, str, int]]:
    """`epochs` random matchings of the images, one after the other, as (id, id, class from 0).

    labels: id -> (C,) multi-hot. Both images of a pair show its class, which is drawn from those that they share.
    In each epoch every image occurs once; an image that is left over (their number is odd, or none is left to share
    a class with) is paired with an image of its class again, or with itself where no other image shares a class.
    The order of `labels` does not matter, and the same seed gives the same pairs on any machine: only the raw output
    of PCG64 is used, which numpy promises never to change, unlike the methods of its Generator.
    UserError: no images, an image that shows no class, epochs < 1, or a negative seed.
    """
    if epochs < 1:
        raise UserError(f"a pair list of {epochs} epochs was asked for: at least 1 is needed")
    if seed < 0:
        raise UserError(f"seed {seed} is negative")
    if not labels:
        raise UserError("no images to pair")
    ids = sorted(labels)
    shown = np.stack([labels[image_id] for image_id in ids]) > 0  # (images, classes)
    if not shown.any(1).all():
        raise UserError(f"image {ids[int(np.argmin(shown.any(1)))]} shows no class, so it has no partner: leave it out")
    bits = np.random.PCG64(seed)
    matchings = [_match(shown, bits) for _ in range(epochs)]
    return [(ids[first], ids[second], label) for matching in matchings for first, second, label in matching.tolist()]


def _match(shown: np.ndarray, bits: np.random.PCG64) -> np.ndarray:
    """One epoch: (pairs, 3) of first image, second image, class, in random order.

    Each image draws one of its classes, the images of each class are shuffled, and neighbours become pairs.
    """
    chosen = _draw(shown, bits)
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
    """For each row of a boolean (n, classes) one of its true columns, each as likely as the others: (n,) int."""
    # The remainder of 64 bits by at most 254 is uneven by 2e-17 only.
    rank = bits.random_raw(len(allowed)) % allowed.sum(1).astype(np.uint64)  # (n,)
    return np.argmax(np.cumsum(allowed, 1) > rank[:, None], 1)


def _make_even(chosen: np.ndarray, shown: np.ndarray, bits: np.random.PCG64) -> None:
    """Change few of the drawn classes, in place, so that as few classes as possible have an odd number of images.

    Moving one image that shows both a and b from class a to b makes both counts change between odd and even. So two
    odd classes are made even along a chain of classes, each sharing an image with the next.
    """
    classes = shown.shape[1]
    for start in range(classes):
        odd = np.bincount(chosen, minlength=classes) % 2 == 1
        if not odd[start]:
            continue
        drawn = chosen[:, None] == np.arange(classes)  # (images, classes), one true per row
        linked = (
            drawn.T.astype(np.float32) @ shown
        )  # (from, to): images that could move; of integers it is 60 times slower
        path = _shortest_path((linked + linked.T) > 0, start, odd)
        for a, b in itertools.pairwise(path):
            movable = np.flatnonzero(shown[:, a] & shown[:, b] & ((chosen == a) | (chosen == b)))
            if len(movable) == 0:  # the step before moved the only one
                break
            image = movable[int(bits.random_raw()) % len(movable)]
            chosen[image] = a + b - chosen[image]


def _shortest_path(linked: np.ndarray, start: int, goals: np.ndarray) -> list[int]:
    """Breadth-first path from `start` to the nearest other goal, both ends included; empty if there is none."""
    came_from = {start: start}
    queue = [start]
    for node in queue:
        if goals[node] and node != start:
            path = [node]
            while path[-1] != start:
                path.append(came_from[path[-1]])
            return path[::-1]
        for neighbour in np.flatnonzero(linked[node]).tolist():
            if neighbour not in came_from:
                came_from[neighbour] = node
                queue.append(neighbour)
    return []


def check_pairs(
    pairs: Sequence[tuple[str, str, int]], labels: Mapping[str, np.ndarray], path: str | Path, classes: Classes = VOC
) -> None:
    """UserError that names the lines of the pair list at `path` whose class one of their photos does not show.

    pairs: what `read_pairs` gave; labels: id -> (C,) multi-hot of their photos.
    """
    wrong = [
        i for i, (first, second, label) in enumerate(pairs) if not (labels[first][label] and labels[second][label])
    ]
    if not wrong:
        return
    numbers = line_numbers(path)
    first, second, label = pairs[wrong[0]]
    without = " and ".join(dict.fromkeys(i for i in (first, second) if not labels[i][label]))
    raise UserError(
        f"{path}: line {numbers[wrong[0]]} pairs {first} and {second} for {classes.names[label]}, but {without} shows none "
        f"({len(wrong)} of {counted(len(pairs), 'pairs')} wrong). Make the list again with voc12/prepare.py or voc12/pairs.py."
    )


def write_pairs(path: str | Path, pairs: Iterable[tuple[str, str, int]]) -> bool:
    """Write a pair list whole. False: it was there already, with the same bytes."""
    return write_text(path, format_pairs(pairs))


def get_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(__doc__)
    add = parser.add_argument
    add("--voc12_root", required=True, metavar="DIR", help="folder of the dataset, for its labels")
    add("--image_list", required=True, metavar="FILE", help="photos to pair, such as voc12/train_aug.txt")
    add("--out", required=True, metavar="FILE", help="pair list to write")
    labels = "labels.csv or .npy, read where the file exists; otherwise the dataset's own, of VOC that beside the list or in voc12/"
    add("--labels", metavar="FILE", help=labels)
    add("--ignore_foreign", action="store_true", help=IGNORE_FOREIGN)
    add("--epochs", type=cli.count(1), default=EPOCHS, help="matchings of all photos to make")
    add("--seed", type=cli.count(), default=SEED, help="same seed, same pairs")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = get_parser().parse_args(argv)
    ids = read_image_list(args.image_list)
    labels_path = args.labels or labels_file(args.voc12_root, read_classes(args.voc12_root), args.image_list)
    if not Path(labels_path).exists() and not Path(args.voc12_root, "Annotations").is_dir():
        check_root(args.voc12_root)
    folder = photo_folder(args.voc12_root)
    if folder.is_dir() and (problems := check_inputs(ids, [photos(folder)])):  # labels alone make a list, too
        raise UserError(summarize_problems(problems))
    pairs = make_pairs(
        load_labels(ids, args.voc12_root, labels_path, ignore_foreign=args.ignore_foreign), args.epochs, args.seed
    )
    write_pairs(args.out, pairs)
    print(f"{args.out}: {counted(len(pairs), 'pairs')}, {len(pairs) // args.epochs} per epoch")


if __name__ == "__main__":
    run_script(main)
