"""Datasets of the trainings: an item depends on the seed and its position in the whole run alone."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from tool import VOID
from tool.cli import UserError
from tool.image_ops import IMAGENET, Normalization
from tool.processes import on_main
from voc12.augment import UNKNOWN, augment_labelled, augment_masked, augment_photo
from voc12.dataset import Dataset, Files, check_inputs, report_problems
from voc12.images import GREY_FORMATS, PHOTO_FORMATS, check_values, load_grey, load_label, load_photo, size_of
from voc12.labels import find_suspicion, report_suspicion


@dataclass
class TrainPairs:
    """Pairs of augmented photos with their labels, in the order of the pair list."""

    pairs: Sequence[tuple[str, str, int]]  # (id, id, class)
    labels: dict[str, np.ndarray]  # id -> multi-hot float32 (C,)
    dataset: Dataset
    crop_size: int  # side of the square crops
    seed: int
    long_side: tuple[int, int] = (256, 512)  # range of the photos' longer side after resizing
    normalization: Normalization = IMAGENET

    def __len__(self) -> int:
        return len(self.pairs)

    def ids_at(self, position: int) -> Sequence[str]:
        return self.pairs[position % len(self.pairs)][:2]

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor]:
        """Return images float32 (2, 3, crop, crop) and labels float32 (2, C)."""
        ids = self.ids_at(position)
        rng = np.random.default_rng([self.seed, position])
        photos = [load_photo(self.dataset.photos.find(image_id)) for image_id in ids]
        images = [augment_photo(photo, self.crop_size, rng, self.long_side, self.normalization) for photo in photos]
        return torch.stack(images), torch.from_numpy(np.stack([self.labels[image_id] for image_id in ids]))


@dataclass
class ShuffledPhotos:
    """Photos with a target for each pixel, in another order each epoch."""

    ids: list[str]  # of an epoch
    photos: Files
    targets: Files  # label maps or masks
    crop_size: int | None  # side of the square crops; None: whole photos
    seed: int
    normalization: Normalization
    dataset: Dataset | None = None  # its image-level labels are compared with the targets

    augment: ClassVar[Callable[..., tuple[Tensor, Tensor]]]
    read_target: ClassVar[Callable[..., np.ndarray]]  # Path -> (H, W)
    smallest_side = 0  # of whole photos, in pixels

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
        """Return photo uint8 RGB (H, W, 3) and target (H, W). UserError: one is missing or bad."""
        return np.array(load_photo(self.photos.find(image_id))), self.read_target(self.targets.find(image_id))

    def values(self, path: Path) -> list[int]:
        """Return the values in a target's file; of a grey mask 0 for background, 1 for foreground. UserError: it is bad."""
        raise NotImplementedError

    def drop_unusable(self, skip_errors: bool, accept_labels: bool = False) -> list[str]:
        """Check all photos, drop the unusable ones and return their ids.

        UserError: there are some, without `skip_errors`, or the targets are suspicious, without `accept_labels`.
        """
        values: dict[str, list[int]] = {}

        def check(image_id: str) -> None:
            if self.crop_size is None and min(size_of(self.photos.find(image_id))) < self.smallest_side:
                problem = f"has a side below the network's {self.smallest_side} pixels"
                raise UserError(f"photo {image_id} {problem}. Enlarge it with its mask, or use --crop_size.")
            values[image_id] = self.values(self.targets.find(image_id))

        def compare() -> None:
            labels = self.dataset.find_labels(self.ids) if self.dataset else {}
            report_suspicion(find_suspicion(self.targets.folder, values, labels), accept_labels)

        problems = check_inputs(self.ids, [self.photos, self.targets], check)
        on_main(compare)
        self.ids = report_problems(problems, self.ids, skip_errors, "used from --train_list")
        return [image_id for image_id, _ in problems]


class LabelledPhotos(ShuffledPhotos):
    """Photos of a dataset with label maps, augmented as DeepLab-v2 does. Items: as `augment_labelled` returns them."""

    augment: ClassVar[Callable[..., tuple[Tensor, Tensor]]] = staticmethod(augment_labelled)
    read_target = staticmethod(load_label)

    def values(self, path: Path) -> list[int]:
        assert self.dataset is not None
        return check_values(path, load_label(path), len(self.dataset.classes.labels))


class MaskedPhotos(LabelledPhotos):
    """Photos with label maps as masks, foreground against background. Items: as `augment_masked` returns them."""

    augment = staticmethod(augment_masked)

    @staticmethod
    def read_target(path: str | Path) -> np.ndarray:
        label = load_label(path)
        return np.where(label == VOID, np.float32(UNKNOWN), (label > 0).astype(np.float32))


class PairedPhotos(ShuffledPhotos):
    """Photos with grey masks, 0..255. Items: as `augment_masked` returns them."""

    augment = staticmethod(augment_masked)

    @classmethod
    def listed(cls, pairs: Mapping[str, str], root: Path, *others: Any) -> "PairedPhotos":
        """Return the photos of a list: photo -> its mask, both relative to `root`; the photo is the id."""
        photos = _ListedFiles("photo", root, (), PHOTO_FORMATS, paths={photo: photo for photo in pairs})
        return cls(list(pairs), photos, _ListedFiles("mask", root, (), GREY_FORMATS, paths=pairs), *others)

    @staticmethod
    def read_target(path: Path) -> np.ndarray:
        return load_grey(path, "mask") / np.float32(255)  # not binarised, as published

    def values(self, path: Path) -> list[int]:
        return np.unique(load_grey(path, "mask") > 127).astype(int).tolist()


@dataclass(frozen=True)
class _ListedFiles(Files):
    paths: Mapping[str, str] = field(default_factory=dict)  # id -> path relative to the folder

    def find(self, image_id: str) -> Path:
        return self.folder / self.paths[image_id]

    def check(self) -> None:
        """Do nothing: listed paths are not searched."""


@lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, count: int) -> np.ndarray:
    """Return the order of `count` photos in an epoch."""
    return np.random.default_rng([seed, epoch]).permutation(count)
