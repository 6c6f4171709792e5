"""Device of the tests, and the differences from expected numbers that it may have.

On a CPU every limit holds as the tests state it, and repeated computations agree bit for bit. On a GPU, in float32 without
TF32, cuDNN chooses among algorithms that round differently, and sums some gradients in no fixed order: figures may differ by
ten times the stated limit, repeated trainings by 1e-3 in weights and losses, repeated inference in all but names and classes.
"""

from pathlib import Path

import numpy as np

from tool.files import load_npy_dict
from voc12.images import load_label

name = "cpu"  # or "cuda": conftest.py sets it from `pytest --device`, before it reads the tests


def limit(on_cpu: float) -> float:
    """Return the limit of a difference on this device, `on_cpu` on a CPU."""
    return on_cpu if name == "cpu" else 10 * on_cpu


def same(first: np.ndarray, second: np.ndarray) -> bool:
    """Return whether a repeated training gave the same numbers."""
    if name == "cpu":
        return first.tobytes() == second.tobytes()
    return first.shape == second.shape and np.allclose(first, second, rtol=1e-3, atol=1e-3)


def content(path: Path) -> bytes:
    """Return what another run of infer_cls.py must reproduce of a file: on a CPU all bytes."""
    data = path.read_bytes()
    if name == "cpu" or path.name.startswith("."):  # not whole yet
        return data
    if path.suffix == ".npy":
        assert load_npy_dict(path)
        return bytes(len(data))
    return repr(load_label(path).shape).encode() if path.suffix == ".png" else data
