"""Photos with masks of what is salient, for PoolNet's training."""

from pathlib import Path

import numpy as np
from torch import Tensor

from tool.cli import UserError
from tool.image_ops import Normalization
from voc12.augment import augment_masked
from voc12.data import LabelledPhotos
from voc12.images import load_photo, size_of
from voc12.lists import read_classes
from voc12.salient_masks import check_same_size, from_grey, from_label, load_mask


class MaskedPhotos(LabelledPhotos):
    """Photos of a devkit with label maps as masks, foreground against background.

    crop_size: as in `augment`. least: side in pixels below which a whole photo is too small for the network.
    """

    least = 0

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor]:
        """Picture float32 (3, h, w) and mask float32 (1, h, w) in 0..1, UNKNOWN where nothing is known."""
        photo, mask = self.load_masked(self.names(position))
        rng = np.random.default_rng([self.seed, 1, position])
        return augment_masked(photo, mask, self.crop_size, rng, self.statistics)

    def load_masked(self, image_id: str) -> tuple[np.ndarray, np.ndarray]:
        """Photo uint8 RGB (H, W, 3) and mask float32 (H, W). UserError: one of them is missing or bad, or their sizes differ."""
        photo, label = self.load(image_id)
        return photo, from_label(label, self.label_path(image_id))

    def check_masked(self, image_id: str) -> None:
        """UserError: the photo can't be trained on. Its mask is decoded; of the photo itself header and end are read."""
        label = self.check(image_id, len(read_classes(self.voc12_root).labels))
        from_label(label, self.label_path(image_id))
        self.check_side(image_id, label.shape)

    def check_side(self, image_id: str, shape: tuple[int, ...]) -> None:
        """UserError: a photo (H, W) that is not padded to a crop is too small."""
        if self.crop_size is None and min(shape) < self.least:
            raise UserError(
                f"photo {image_id} is {shape[1]}x{shape[0]} pixels, and the network needs {self.least} a side: enlarge it with its "
                "mask, or train on crops (--crop_size)"
            )


class PairedPhotos(MaskedPhotos):
    """Photos with grey masks, 0..255.

    pairs: photo -> its mask, both relative to `root`; a photo's id is its name there.
    """

    def __init__(
        self, pairs: dict[str, str], root: Path, crop_size: int | None, seed: int, statistics: Normalization
    ) -> None:
        super().__init__(list(pairs), root, root, crop_size, seed, statistics)
        self.root, self.pairs = root, pairs

    def load_masked(self, image_id: str) -> tuple[np.ndarray, np.ndarray]:
        photo, path = np.array(load_photo(self.root / image_id)), self.root / self.pairs[image_id]
        mask = load_mask(path)
        check_same_size(path, mask.shape, photo.shape)
        return photo, from_grey(mask)

    def check_masked(self, image_id: str) -> None:
        shape, path = size_of(self.root / image_id), self.root / self.pairs[image_id]
        check_same_size(path, load_mask(path).shape, shape)
        self.check_side(image_id, shape)
