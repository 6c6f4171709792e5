"""`pytest --device`: what it refuses, and what tests/devices.py lets a GPU differ by."""

import os
import subprocess
import sys

import devices
import numpy as np
import pytest
from conftest import REPO
from PIL import Image

from tool.files import save_npy_dict


@pytest.fixture
def on_gpu(monkeypatch) -> None:
    monkeypatch.setattr(devices, "name", "cuda")


def test_a_machine_without_a_gpu_fails_in_one_line():
    command = [sys.executable, "-m", "pytest", "--device", "cuda", "tests/test_devices.py"]
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=REPO, env=env, capture_output=True, text=True)
    message = "--device cuda: this PyTorch sees no GPU; without --device the tests run on the CPU"
    assert (done.returncode, done.stdout, done.stderr.split()) == (4, "", ["ERROR:", *message.split()])


def test_nothing_is_allowed_on_a_cpu(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "name", "cpu")
    (tmp_path / "a.npy").write_bytes(b"any bytes")
    assert devices.limit(1e-5) == 1e-5 and devices.content(tmp_path / "a.npy") == b"any bytes"
    assert devices.same(np.ones(3), np.ones(3)) and not devices.same(np.ones(3), np.ones(3) + 1e-15)


def test_training_on_a_gpu_may_round_differently(on_gpu):
    assert devices.same(np.ones(3), np.full(3, 1.001)) and not devices.same(np.ones(3), np.full(3, 1.003))
    assert not devices.same(np.ones(3), np.ones(4)) and not devices.same(np.ones(1), np.full(1, np.nan))


def test_files_written_on_a_gpu_are_whole_and_of_one_kind(on_gpu, tmp_path):
    a, b = tmp_path / "a.npy", tmp_path / "b.npy"
    save_npy_dict(a, {3: np.zeros((2, 5), np.float32)})
    save_npy_dict(b, {3: np.ones((2, 5), np.float32)})
    assert devices.content(a) == devices.content(b)
    save_npy_dict(b, {3: np.ones((2, 6), np.float32)})
    assert devices.content(a) != devices.content(b)
    for value, path in enumerate((tmp_path / "a.png", tmp_path / "b.png")):
        Image.fromarray(np.full((4, 6), value, np.uint8)).save(path)
    assert devices.content(tmp_path / "a.png") == devices.content(tmp_path / "b.png")
    Image.fromarray(np.zeros((6, 4), np.uint8)).save(tmp_path / "b.png")
    assert devices.content(tmp_path / "a.png") != devices.content(tmp_path / "b.png")
