"""Datasets and loaders: what a step sees depends on the seed and its place in the list alone."""

from itertools import chain, pairwise

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset
from training import image_id

from pseudo_label.class_maps import MultiScalePhotos
from tool.cli import UserError
from tool.loading import StepBatches, batches, items, make_loader
from voc12.data import TrainPairs
from voc12.labels import load_labels


@pytest.fixture
def pairs(drawn) -> TrainPairs:
    ids = [image_id(number) for number in range(1, 8)]
    triples = [(first, second, 0) for first, second in pairwise(ids)]
    return TrainPairs(triples, load_labels(ids, drawn), drawn, crop_size=32, seed=3, long_side=(40, 60))


def test_processes_share_each_steps_positions():
    alone = list(StepBatches(2, 5, 4))
    assert alone == [[8, 9, 10, 11], [12, 13, 14, 15], [16, 17, 18, 19]]
    for world in (2, 3):
        shares = [list(StepBatches(2, 5, 4, rank, world)) for rank in range(world)]
        assert [sorted(chain(*step)) for step in zip(*shares, strict=True)] == alone
    assert len(StepBatches(2, 5, 4)) == 3


def test_an_item_depends_on_seed_and_position(pairs):
    images, labels = pairs[4]
    assert images.shape == (2, 3, 32, 32) and images.dtype == labels.dtype == torch.float32 and labels.shape == (2, 20)
    torch.manual_seed(99)
    np.random.seed(99)
    assert torch.equal(pairs[4][0], images)
    assert not torch.equal(pairs[4 + 6][0], images)  # the same pair in the next epoch
    assert torch.equal(pairs[4 + 6][1], labels) and pairs.names(10) == pairs.names(4)
    pairs.seed = 4
    assert not torch.equal(pairs[4][0], images)


def test_workers_and_the_global_random_state_change_nothing(pairs):
    def read(workers: int) -> list[torch.Tensor]:
        return [images for images, _ in batches(make_loader(pairs, StepBatches(0, 4, 2), workers, False))]

    torch.manual_seed(5)
    state = torch.get_rng_state()
    alone = read(0)
    assert torch.equal(torch.get_rng_state(), state)  # dropout draws the same with and without workers
    assert alone[0].shape == (2, 2, 3, 32, 32)
    assert all(torch.equal(a, b) for a, b in zip(alone, read(2), strict=True))


@pytest.mark.parametrize("workers", [0, 1])
def test_what_cannot_be_read_comes_as_it_is(pairs, workers):
    pairs.pairs[3] = (image_id(1), "2099_999999", 0)
    pairs.labels["2099_999999"] = pairs.labels[image_id(1)]
    loaded = []
    with pytest.raises(UserError, match=r"^photo .*2099_999999\.jpg does not exist$"):
        loaded.extend(batches(make_loader(pairs, StepBatches(0, 3, 2), workers, False)))


def test_photos_come_at_all_scales(drawn):
    photos = MultiScalePhotos([image_id(1), "nothing"], drawn / "JPEGImages")
    name, photo, views = photos[0]
    height, width = photo.shape[:2]
    assert name == image_id(1) and photo.dtype == torch.uint8 and torch.equal(views[0], photo)
    sizes = [(round(height * scale), round(width * scale), 3) for scale in (1, 0.5, 1.5, 2)]
    assert [tuple(view.shape) for view in views] == sizes
    name, error, views = photos[1]
    assert name == "nothing" and isinstance(error, UserError) and views == []


class Tensors(Dataset):
    """Items of a string and two megabytes."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> tuple[str, torch.Tensor]:
        return str(index), torch.full((500_000,), float(index))


def test_items_that_shared_memory_has_no_room_for(monkeypatch, capfd):
    """As with the 64 MB of /dev/shm that containers have: PyTorch's own loader waits for ever then."""

    def share(tensor):
        if tensor[0] > 3:
            raise RuntimeError(
                "unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)"
            )
        return tensor

    monkeypatch.setattr(torch.Tensor, "share_memory_", share)
    found = list(items(Tensors(), num_workers=2, pin_memory=False))
    assert [name for name, _ in found] == [str(index) for index in range(20)]
    assert all(float(tensor.mean()) == index for index, (_, tensor) in enumerate(found))
    assert capfd.readouterr().out.count("note: /dev/shm is full") == 1
