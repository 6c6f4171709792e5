"""Datasets of the trainings: EDAM's pairs, DeepLab-v2's photos with label maps, PoolNet's photos with masks.

An item depends on the seed and its position in the whole run alone; a photo is augmented differently in each epoch.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tool import VOID
from tool.cli import UserError
from tool.image_ops import IMAGENET, Normalization
from voc12.augment import UNKNOWN, augment_labelled, augment_masked, augment_photo
from voc12.dataset import Dataset, Files, check_inputs, label_maps, report_problems
from voc12.images import LABEL_FORMATS, check_values, load_grey, load_label, load_photo, size_of
from voc12.label_check import find_suspicion, report_suspicion


class TrainPairs:
    """Pairs of augmented photos with their labels, in the order of the pair list.

    Args:
        pairs: (id, id, class) triples.
        labels: id -> multi-hot float32 (C,).
        dataset: the photos' dataset.
        crop_size: side of the square crops.
        seed: seed of the augmentation.
        long_side: range of the photos' longer side after resizing.
        normalization: normalization of the network's input.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[str, str, int]],
        labels: dict[str, np.ndarray],
        dataset: Dataset,
        crop_size: int,
        seed: int,
        long_side: tuple[int, int] = (256, 512),
        normalization: Normalization = IMAGENET,
    ) -> None:
        self.pairs, self.labels, self.dataset = pairs, labels, dataset
        self.crop_size, self.seed, self.long_side, self.normalization = crop_size, seed, long_side, normalization

    def __len__(self) -> int:
        return len(self.pairs)

    def ids_at(self, position: int) -> Sequence[str]:
        return self.pairs[position % len(self.pairs)][:2]

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor]:
        """Return images float32 (2, 3, crop, crop) and labels float32 (2, C)."""
        ids = self.ids_at(position)
        rng = np.random.default_rng([self.seed, position])
        photos = [load_photo(self.dataset.photo_path(image_id)) for image_id in ids]
        images = [augment_photo(photo, self.crop_size, rng, self.long_side, self.normalization) for photo in photos]
        return torch.stack(images), torch.from_numpy(np.stack([self.labels[image_id] for image_id in ids]))


class ShuffledPhotos:
    """Photos with a target for each pixel, in another order each epoch.

    Args:
        ids: photos of an epoch.
        files: kinds of files that each photo needs; none if `check` looks at all of them.
        crop_size: side of the square crops; None: whole photos.
        seed: seed of order and augmentation.
        normalization: normalization of the network's input.
    """

    augment: Callable[..., tuple[Tensor, Tensor]]
    target_dir: Path
    smallest_side = 0  # of whole photos, in pixels

    def __init__(
        self, ids: list[str], files: Sequence[Files], crop_size: int | None, seed: int, normalization: Normalization
    ) -> None:
        self.ids, self.files = ids, files
        self.crop_size, self.seed, self.normalization = crop_size, seed, normalization

    def __len__(self) -> int:
        return len(self.ids)

    def ids_at(self, position: int) -> Sequence[str]:
        epoch, place = divmod(position, len(self.ids))
        return [self.ids[epoch_order(self.seed, epoch, len(self.ids))[place]]]

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor]:
        """Return the augmented photo float32 (3, h, w) and its target."""
        photo, target = self.load(self.ids_at(position)[0])
        rng = np.random.default_rng([self.seed, 1, position])
        return self.augment(photo, target, self.crop_size, rng, self.normalization)

    def load(self, image_id: str) -> tuple[np.ndarray, np.ndarray]:
        """Return photo uint8 RGB (H, W, 3) and target (H, W). UserError: one is missing or bad, or their sizes differ."""
        raise NotImplementedError

    def check(self, image_id: str) -> list[int]:
        """Return the values in the target; of a grey mask 0 for background, 1 for foreground.

        UserError: the photo cannot be trained on; its `files` are known to be there and of one size.
        """
        raise NotImplementedError

    def image_labels(self) -> dict[str, np.ndarray]:
        """Return the image-level labels of the photos that have one, to compare the targets with."""
        return {}

    def check_side(self, image_id: str, shape: tuple[int, ...]) -> None:
        """Raise UserError if a whole photo (H, W) is too small for the network."""
        if self.crop_size is None and min(shape) < self.smallest_side:
            size = f"{shape[1]}x{shape[0]} pixels, smaller than the network's {self.smallest_side}"
            raise UserError(f"photo {image_id} is {size}. Enlarge it with its mask, or train on crops (--crop_size).")

    def drop_unusable(self, skip_errors: bool, accept_labels: bool = False) -> list[str]:
        """Check all photos, drop the unusable ones and return their ids.

        UserError: there are some, without `skip_errors`, or the targets are suspicious, without `accept_labels`.
        """
        values: dict[str, list[int]] = {}

        def check(image_id: str) -> None:
            values[image_id] = self.check(image_id)

        def check_all() -> None:
            report_suspicion(find_suspicion(self.target_dir, values, self.image_labels()), accept_labels)

        problems = check_inputs(self.ids, self.files, check, check_all)
        self.ids = report_problems(problems, self.ids, skip_errors, "trained on")
        return [image_id for image_id, _ in problems]


class LabelledPhotos(ShuffledPhotos):
    """Photos with label maps, augmented as DeepLab-v2 does.

    Items: photo float32 (3, crop, crop), labels uint8 (crop, crop), 255 where unknown.

    Args:
        dataset: the photos' dataset.
        label_dir: folder of label PNGs, <id>.png.
        ids, crop_size, seed, normalization: as of `ShuffledPhotos`.
    """

    augment: Callable[..., tuple[Tensor, Tensor]] = staticmethod(augment_labelled)

    def __init__(
        self,
        ids: list[str],
        dataset: Dataset,
        label_dir: str | Path,
        crop_size: int | None,
        seed: int,
        normalization: Normalization,
    ) -> None:
        self.dataset, self.photos, self.labels = dataset, dataset.photos(), label_maps(label_dir)
        self.target_dir, self.num_labels = Path(label_dir), len(dataset.classes.labels)
        super().__init__(ids, [self.photos, self.labels], crop_size, seed, normalization)

    def load(self, image_id: str) -> tuple[np.ndarray, np.ndarray]:
        photo, path = np.array(load_photo(self.photos.find(image_id))), self.labels.find(image_id)
        label = load_label(path)
        _check_size("label map", path, label.shape, photo.shape)
        return photo, label

    def check(self, image_id: str) -> list[int]:
        path = self.labels.find(image_id)
        return check_values(path, load_label(path), self.num_labels)

    def image_labels(self) -> dict[str, np.ndarray]:
        return self.dataset.find_labels(self.ids)


class MaskedPhotos(LabelledPhotos):
    """Photos with label maps as masks, foreground against background, augmented as PoolNet does.

    Items: photo float32 (3, h, w), mask float32 (1, h, w) in 0..1, UNKNOWN where nothing is known.
    """

    augment = staticmethod(augment_masked)

    def load(self, image_id: str) -> tuple[np.ndarray, np.ndarray]:
        photo, label = super().load(image_id)
        return photo, np.where(label == VOID, np.float32(UNKNOWN), (label > 0).astype(np.float32))

    def check(self, image_id: str) -> list[int]:
        self.check_side(image_id, size_of(self.labels.find(image_id), "label map", LABEL_FORMATS))
        return super().check(image_id)


class PairedPhotos(ShuffledPhotos):
    """Photos with grey masks, 0..255, augmented as PoolNet does. Items: as those of `MaskedPhotos`.

    Args:
        pairs: photo -> its mask, both relative to `root`; the photo is the id.
        root: folder of both.
        crop_size, seed, normalization: as of `ShuffledPhotos`.
    """

    augment = staticmethod(augment_masked)

    def __init__(
        self, pairs: dict[str, str], root: Path, crop_size: int | None, seed: int, normalization: Normalization
    ) -> None:
        super().__init__(list(pairs), [], crop_size, seed, normalization)
        self.root, self.target_dir, self.pairs = root, root, pairs

    def load(self, image_id: str) -> tuple[np.ndarray, np.ndarray]:
        photo, path = np.array(load_photo(self.root / image_id)), self.root / self.pairs[image_id]
        mask = load_grey(path, "mask")
        _check_size("mask", path, mask.shape, photo.shape)
        return photo, mask / np.float32(255)  # not binarised, as published

    def check(self, image_id: str) -> list[int]:
        shape, path = size_of(self.root / image_id), self.root / self.pairs[image_id]
        mask = load_grey(path, "mask")
        _check_size("mask", path, mask.shape, shape)
        self.check_side(image_id, shape)
        return np.unique(mask > 127).astype(int).tolist()


@lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, count: int) -> np.ndarray:
    """Return the order of `count` photos in an epoch."""
    return np.random.default_rng([seed, epoch]).permutation(count)


def _check_size(what: str, path: Path, shape: tuple[int, ...], photo: tuple[int, ...]) -> None:
    """Raise UserError naming the target of a photo if its (H, W) is another."""
    if shape != photo[:2]:
        raise UserError(f"{what} {path} is {shape[1]}x{shape[0]} pixels, its photo {photo[1]}x{photo[0]}")
