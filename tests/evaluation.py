"""Twenty images to evaluate, and eval.py in this process."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import eval as script
from pseudo_label.crf import with_background
from pseudo_label.fusion import pseudo_label
from tool.files import save_npy_dict
from voc12.images import save_label

IDS = [f"2099_{number:06d}" for number in range(1, 21)]
SHAPE = (12, 15)


@pytest.fixture
def root(tmp_path):
    """Twenty images with random ground truth, grey masks, saliency, maps, CRF probabilities and labels of theta 0.5."""
    generator = np.random.default_rng(0)
    for folder in ("SegmentationClass", "masks", "sal", "cam", "crf", "png"):
        (tmp_path / folder).mkdir()
    for image_id in IDS:
        truth = generator.integers(0, 4, SHAPE).astype(np.uint8) * 5
        truth[generator.random(SHAPE) < 0.1] = 255
        save_label(tmp_path / "SegmentationClass" / f"{image_id}.png", truth)
        for folder, most in (("masks", 256), ("sal", 120)):
            grey = generator.integers(0, most, SHAPE).astype(np.uint8)
            Image.fromarray(grey).save(tmp_path / folder / f"{image_id}.png")
        maps = generator.random((3, *SHAPE)).round(2).astype(np.float32)
        classes = np.array([4, 9, 14])
        save_npy_dict(tmp_path / "cam" / f"{image_id}.npy", dict(zip(classes.tolist(), maps, strict=True)))
        crf = with_background(maps)
        save_npy_dict(tmp_path / "crf" / f"{image_id}.npy", dict(zip([0, 5, 10, 15], crf, strict=True)))
        save_label(tmp_path / "png" / f"{image_id}.png", pseudo_label(maps, classes, theta=0.5))
    (tmp_path / "list.txt").write_text("".join(f"/JPEGImages/{i}.jpg /SegmentationClassAug/{i}.png\n" for i in IDS))
    return tmp_path


def run(root: Path, *flags: str) -> dict:
    """Run the script's main in this process and return what --json holds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["eval.py", "--json", str(root / "out.json"), *flags])
        script.main()
    return json.loads((root / "out.json").read_text(), parse_constant=pytest.fail)


def evaluate(root: Path, predictions: str, *flags: str) -> dict:
    dataset = ("--voc12_root", str(root), "--list", str(root / "list.txt"), "--num_workers", "1")
    return run(root, *dataset, "--predict_dir", str(root / predictions), *flags)


def score_saliency(root: Path, *flags: str) -> dict:
    return run(root, "--saliency", "--predict_dir", f"{root}/sal", *flags)


def pixels(root: Path, folder: str, image_id: str) -> np.ndarray:
    return np.array(Image.open(next((root / folder).glob(f"{image_id}*"))))
