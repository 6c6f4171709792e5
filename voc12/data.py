"""Datasets: the training pairs, and the views of the photos that are to be labelled."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from tool import VOID
from tool.cli import UserError
from tool.image_ops import IMAGENET, Normalization
from tool.training import TrainingData
from voc12.augment import augment_labelled, augment_photo
from voc12.folders import LABEL_ENDINGS, PHOTO_ENDINGS, find_file
from voc12.images import load_label, load_photo
from voc12.inputs import check_files, label_maps, photos
from voc12.lists import photo_folder, photo_path
from voc12.palette import explain


class TrainPairs(TrainingData):
    """Pairs of augmented photos with their labels.

    An item's index is a position in the whole run, so that the augmentation depends on the seed and that position alone: the pair is
    `pairs[position % len(pairs)]`, and a pair that comes up again in a later epoch is augmented anew.

    Args:
        pairs: (id, id, class) triples.
        labels: id -> float32 (C,) multi-hot, C classes.
        voc12_root: folder with JPEGImages.
        long_side: range of the photos' longer side after resizing.
        statistics: of the network's input.
    """

    def __init__(
        self,
        pairs: list[tuple[str, str, int]],
        labels: dict[str, np.ndarray],
        voc12_root: str | Path,
        crop_size: int,
        seed: int,
        long_side: tuple[int, int] = (256, 512),
        statistics: Normalization = IMAGENET,
    ) -> None:
        self.pairs, self.labels, self.voc12_root = pairs, labels, voc12_root
        self.crop_size, self.seed, self.long_side, self.statistics = crop_size, seed, long_side, statistics

    def __len__(self) -> int:
        return len(self.pairs)

    def names(self, position: int) -> str:
        """Ids of the pair at a position, for messages."""
        return " ".join(self.pairs[position % len(self.pairs)][:2])

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor]:
        """Images float32 (2, 3, crop, crop) and labels float32 (2, C)."""
        ids = self.pairs[position % len(self.pairs)][:2]
        rng = np.random.default_rng([self.seed, position])
        photos = [load_photo(photo_path(self.voc12_root, image_id)) for image_id in ids]
        images = [augment_photo(photo, self.crop_size, rng, self.long_side, self.statistics) for photo in photos]
        return torch.stack(images), torch.from_numpy(np.stack([self.labels[image_id] for image_id in ids]))


class WholePhotos(Dataset):
    """Photos as they are, and what a network takes of them: (id, photo uint8 (H, W, 3), `inputs` of the photo).

    A photo that can't be read gives (id, its UserError, []), so that the caller decides whether to go on.

    Args:
        folder: of the photos, such as a devkit's JPEGImages.
    """

    def __init__(self, ids: list[str], folder: str | Path) -> None:
        self.ids, self.folder = ids, folder

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[str, Tensor | UserError, Any]:
        try:
            photo = load_photo(find_file(self.folder, self.ids[index], PHOTO_ENDINGS))
        except UserError as error:
            return self.lost(index, error)
        return self.ids[index], torch.from_numpy(np.array(photo)), self.inputs(photo)

    def lost(self, index: int, error: UserError) -> tuple[str, UserError, list]:
        """In place of a photo that can't be read."""
        return self.ids[index], error, []

    def inputs(self, photo: Image.Image) -> Any:
        """Nothing besides the photo."""
        return None


class ShuffledPhotos(TrainingData):
    """Photos that each epoch shows in an order of its own.

    An item's index is a position in the whole run: order and augmentation depend on the seed and that position alone.

    Args:
        ids: the photos of an epoch.
    """

    def __init__(self, ids: list[str], seed: int) -> None:
        self.ids, self.seed = ids, seed

    def __len__(self) -> int:
        return len(self.ids)

    def names(self, position: int) -> str:
        """Id of the photo at a position, for messages."""
        epoch, place = divmod(position, len(self.ids))
        return self.ids[np.random.default_rng([self.seed, epoch]).permutation(len(self.ids))[place]]


class LabelledPhotos(ShuffledPhotos):
    """Photos with their label maps, augmented as DeepLab-v2 does.

    Args:
        label_dir: folder of label PNGs, <id>.png.
        statistics: of the network's input.
    """

    def __init__(
        self,
        ids: list[str],
        voc12_root: str | Path,
        label_dir: str | Path,
        crop_size: Any,
        seed: int,
        statistics: Normalization,
    ) -> None:
        super().__init__(ids, seed)
        self.voc12_root, self.label_dir = voc12_root, Path(label_dir)
        self.crop_size, self.statistics = crop_size, statistics

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor]:
        """Picture float32 (3, crop, crop) and labels uint8 (crop, crop), 255 where nothing is known."""
        photo, label = self.load(self.names(position))
        rng = np.random.default_rng([self.seed, 1, position])
        return augment_labelled(photo, label, self.crop_size, rng, self.statistics)

    def label_path(self, image_id: str) -> Path:
        """Of the label map."""
        return find_file(self.label_dir, image_id, LABEL_ENDINGS)

    def load(self, image_id: str) -> tuple[np.ndarray, np.ndarray]:
        """Photo uint8 RGB (H, W, 3) and label map uint8 (H, W). UserError: one of them is missing or bad, or their sizes differ."""
        photo = np.array(load_photo(photo_path(self.voc12_root, image_id)))
        path = self.label_path(image_id)
        label = load_label(path)
        if label.shape != photo.shape[:2]:
            sizes = (f"{shape[1]}x{shape[0]}" for shape in (label.shape, photo.shape))
            raise UserError("label map {} is {} pixels, its photo {}".format(path, *sizes))
        return photo, label

    def check(self, image_id: str, num_labels: int) -> np.ndarray:
        """Return the label map of a photo that can be trained on; of the photo itself header and end are read: 6 ms for both.

        UserError: a file is missing, unreadable or of another size, or a label value is not among `num_labels`.
        """
        check_files(image_id, [photos(photo_folder(self.voc12_root)), label_maps(self.label_dir)])
        label = load_label(path := self.label_path(image_id))
        if min(label.shape) < 2:
            raise UserError(f"photo {image_id} is {label.shape[1]}x{label.shape[0]} pixels, too small to be halved")
        foreign = np.flatnonzero(np.bincount(label.ravel(), minlength=256)[num_labels:VOID])
        if len(foreign):
            wanted = f"0..{num_labels - 1} and {VOID}"
            raise UserError(
                f"label map {path} holds the value {foreign[0] + num_labels}, where {wanted} were expected{explain(label, num_labels)}"
            )
        return label
