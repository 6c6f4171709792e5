"""`pytest --device`: what it refuses, and the differences that tests/devices.py allows a GPU."""

import os
import subprocess
import sys

import devices
import numpy as np
from conftest import REPO
from PIL import Image

from tool.files import save_npy_dict


def test_device_cuda_without_a_gpu():
    command = [sys.executable, "-m", "pytest", "--device", "cuda", "tests/test_devices.py"]
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=REPO, env=env, capture_output=True, text=True)
    assert done.returncode == 4 and done.stdout == "" and "--device cuda" in done.stderr


def test_cpu_allows_no_difference(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "name", "cpu")
    (tmp_path / "a.npy").write_bytes(b"any bytes")
    assert devices.limit(1e-5) == 1e-5 and devices.content(tmp_path / "a.npy") == b"any bytes"
    assert devices.same(np.ones(3), np.ones(3)) and not devices.same(np.ones(3), np.ones(3) + 1e-15)


def test_gpu_allows_rounding_of_training_and_files_of_one_shape(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "name", "cuda")
    assert devices.same(np.ones(3), np.full(3, 1.001)) and not devices.same(np.ones(3), np.full(3, 1.003))
    assert not devices.same(np.ones(3), np.ones(4)) and not devices.same(np.ones(1), np.full(1, np.nan))
    for name, value, width in (("a", 0, 5), ("b", 1, 5), ("c", 1, 6)):
        save_npy_dict(tmp_path / f"{name}.npy", {3: np.full((2, width), value, np.float32)})
        Image.fromarray(np.full((4, width), value, np.uint8)).save(tmp_path / f"{name}.png")
    for ending in ("npy", "png"):
        a, b, c = (devices.content(tmp_path / f"{name}.{ending}") for name in "abc")
        assert a == b != c
