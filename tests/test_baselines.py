"""experiment/baselines.py: the two baselines of the table."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from voc12_devkit import hot, xml

from experiment.baselines import class_areas, largest_class
from pseudo_label.manifest import claim_folder
from voc12.images import load_label

REPO = Path(__file__).resolve().parents[1]


def test_class_areas_are_those_that_add_up():
    areas = np.zeros(20)
    areas[[0, 3, 7]] = 0.1, 0.4, 0.2
    labels = np.stack([hot(0), hot(0, 3), hot(3, 7), hot(0, 3, 7), hot(7)])
    assert class_areas(labels, labels @ areas) == pytest.approx(areas, abs=1e-9)
    assert class_areas(labels, np.array([0.5, 0.1, 0.1, 0.1, 0.0])).min() == 0  # never negative


def test_largest_class_is_one_of_the_photos():
    areas = np.linspace(0.4, 0.1, 20)
    assert largest_class(hot(2, 9, 19), areas) == 3
    assert largest_class(hot(19), np.zeros(20)) == 20
    assert largest_class(hot(), areas) == 0


@pytest.fixture
def devkit(tmp_path) -> Path:
    """Photo a: class 4 on 8 pixels; b: classes 4 and 6 on 40 pixels, of which class 6 explains most; c has no map."""
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "saliency").mkdir()
    for image_id, names, rows in (("a", ["bottle"], 1), ("b", ["bottle", "car"], 5), ("c", ["car"], 0)):
        (tmp_path / "Annotations" / f"{image_id}.xml").write_text(xml(names))
        saliency = np.full((10, 8), 20, np.uint8)  # not above 0.2 * 100: background
        saliency[:rows] = 21
        if rows:
            Image.fromarray(saliency).save(tmp_path / "saliency" / f"{image_id}.png")
    (tmp_path / "list.txt").write_text("a\nb\na\n")
    (tmp_path / "longer.txt").write_text("a\nc\n")
    return tmp_path


def run(devkit: Path, *flags: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(REPO / "experiment/baselines.py"), "--voc12_root", ".", "--infer_list", "list.txt"]
    return subprocess.run([*command, "--sal_path", "saliency", *flags], cwd=devkit, capture_output=True, text=True)


def test_every_salient_pixel_gets_the_guess(devkit):
    done = run(devkit, "--out_guess", "new/guess", "--out_background", "all")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("baselines of 2 photos written to new/guess and all\n")
    for image_id, rows, label in (("a", 1, 5), ("b", 5, 7)):
        expected = np.zeros((10, 8), np.uint8)
        assert np.array_equal(load_label(devkit / f"all/{image_id}.png"), expected)
        expected[:rows] = label
        assert np.array_equal(load_label(devkit / f"new/guess/{image_id}.png"), expected)


@pytest.mark.parametrize(
    ("flags", "keyword"),
    [
        ((), "--out_guess"),
        (("--out_guess", "g", "--out_background", "./g"), "different folders"),
        (("--out_guess", "saliency"), "edam_manifest.json"),
        (("--out_guess", "crf"), "out_crf_pred"),
        (("--out_guess", "g", "--infer_list", "longer.txt"), "c.png"),
    ],
)
def test_bad_flags_and_missing_files_are_named(devkit, flags, keyword):
    claim_folder(devkit / "crf", {"output": "out_crf_pred"}, overwrite=False)
    (devkit / "crf/a.png").write_bytes(b"a label map")
    done = run(devkit, *flags)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("baselines.py: error: ") and keyword in done.stderr
