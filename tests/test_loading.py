"""Datasets and loaders: what a step sees depends on the seed and its position alone; reading ahead keeps the order."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import REPO
from training import image_id

from pseudo_label.loop import map_ahead
from tool.cli import UserError
from tool.loading import batches, positions
from voc12.data import TrainPairs
from voc12.dataset import Dataset


@pytest.fixture
def pairs(drawn) -> TrainPairs:
    ids = [image_id(number) for number in range(1, 8)]
    triples = [(first, second, 0) for first, second in itertools.pairwise(ids)]
    data = Dataset(drawn)
    return TrainPairs(triples, data.image_labels(ids, "list.txt"), data, crop_size=32, seed=3, long_side=(40, 60))


def test_ranks_share_each_steps_positions():
    alone = list(positions(2, 5, 4))
    assert alone == [[8, 9, 10, 11], [12, 13, 14, 15], [16, 17, 18, 19]]
    for world in (2, 3):
        shares = [list(positions(2, 5, 4, rank, world)) for rank in range(world)]
        assert [sorted(itertools.chain(*step)) for step in zip(*shares, strict=True)] == alone


def test_item_depends_on_seed_and_position(pairs):
    images, labels = pairs[4]
    assert images.shape == (2, 3, 32, 32) and images.dtype == labels.dtype == torch.float32 and labels.shape == (2, 20)
    torch.manual_seed(99)
    np.random.seed(99)
    assert torch.equal(pairs[4][0], images)
    assert not torch.equal(pairs[4 + 6][0], images)  # the same pair in the next epoch
    assert torch.equal(pairs[4 + 6][1], labels)
    pairs.seed = 4
    assert not torch.equal(pairs[4][0], images)


def test_workers_and_global_random_state_change_nothing(pairs):
    def read(workers: int) -> list[torch.Tensor]:
        return [images for images, _ in batches(pairs, positions(0, 4, 2), workers, False)]

    torch.manual_seed(5)
    state = torch.get_rng_state()
    alone = read(0)
    assert torch.equal(torch.get_rng_state(), state)  # dropout draws the same with and without workers
    assert alone[0].shape == (2, 2, 3, 32, 32)
    assert all(torch.equal(a, b) for a, b in zip(alone, read(2), strict=True))


@pytest.mark.parametrize("workers", [0, 1])
def test_loader_raises_the_error_of_a_worker(pairs, workers):
    pairs.pairs[3] = (image_id(1), "2099_999999", 0)
    pairs.labels["2099_999999"] = pairs.labels[image_id(1)]
    with pytest.raises(UserError, match=r"2099_999999\.jpg"):
        list(batches(pairs, positions(0, 3, 2), workers, False))


@pytest.mark.parametrize("threads", [0, 1, 3, 30])
def test_map_ahead_yields_in_order(threads):
    started, found = [], []

    def invert(item: str) -> float:
        started.append(item)
        return 1 / (15 - int(item))

    with pytest.raises(ZeroDivisionError):
        for result in map_ahead(invert, [str(number) for number in range(20)], threads):
            found.append(result)
            assert len(started) <= len(found) + threads + 1
    assert found == [1 / (15 - number) for number in range(15)]


BATCHES = """
import torch
from tool.script import run_script
from tool.loading import batches, positions
run_script(lambda: list(batches(torch.zeros(4, 100_000), positions(0, 2, 2), 2, False)))
"""
POOL = """
from tool.script import run_script
from tool.processes import WorkerPool
run_script(lambda: WorkerPool(1))
"""


@pytest.mark.parametrize(("script", "size"), [(BATCHES, "64k"), (POOL, "4k")])  # of pages; a semaphore takes one
def test_full_dev_shm_is_named(script, size, tmp_path):
    mounted = f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", mounted, "sh", sys.executable, "-c", script]
    if subprocess.run([*command[:4], mounted, "sh", "true"], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=200)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and "/dev/shm" in done.stderr
