"""Datasets: the training pairs, and the views of the photos that are to be labelled."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from tool.errors import UserError
from tool.transforms import augment, views
from voc12.images import load_photo
from voc12.lists import photo_path


class TrainPairs(Dataset):
    """Pairs of augmented photos with their labels.

    An item's index is a position in the whole run, so that the augmentation depends on the seed and that position alone: the pair is
    `pairs[position % len(pairs)]`, and a pair that comes up again in a later epoch is augmented anew.

    Args:
        pairs: (id, id, class) triples.
        labels: id -> float32 (20,) multi-hot.
        voc12_root: folder with JPEGImages.
        long_side: range of the photos' longer side after resizing.
    """

    def __init__(
        self,
        pairs: list[tuple[str, str, int]],
        labels: dict[str, np.ndarray],
        voc12_root: str | Path,
        crop_size: int,
        seed: int,
        long_side: tuple[int, int] = (256, 512),
    ) -> None:
        self.pairs, self.labels, self.voc12_root = pairs, labels, voc12_root
        self.crop_size, self.seed, self.long_side = crop_size, seed, long_side

    def __len__(self) -> int:
        return len(self.pairs)

    def names(self, position: int) -> str:
        """Ids of the pair at a position, for messages."""
        return " ".join(self.pairs[position % len(self.pairs)][:2])

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor]:
        """Images float32 (2, 3, crop, crop) and labels float32 (2, 20)."""
        ids = self.pairs[position % len(self.pairs)][:2]
        rng = np.random.default_rng([self.seed, position])
        photos = [load_photo(photo_path(self.voc12_root, image_id)) for image_id in ids]
        images = [augment(photo, self.crop_size, rng, self.long_side) for photo in photos]
        return torch.stack(images), torch.from_numpy(np.stack([self.labels[image_id] for image_id in ids]))


class MultiScalePhotos(Dataset):
    """Photos at the inference scales: (id, photo uint8 (H, W, 3), its views: a list of uint8 (h, w, 3)).

    A photo that can't be read gives (id, its UserError, []), so that the caller decides whether to go on.
    """

    def __init__(self, ids: list[str], voc12_root: str | Path) -> None:
        self.ids, self.voc12_root = ids, voc12_root

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[str, Tensor | UserError, list[Tensor]]:
        try:
            photo = load_photo(photo_path(self.voc12_root, self.ids[index]))
        except UserError as error:
            return self.ids[index], error, []
        return self.ids[index], torch.from_numpy(np.array(photo)), views(photo)
