"""experiment/baselines.py: the two baselines of the table."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from voc12_devkit import hot, xml

from experiment.baselines import class_areas
from voc12.images import load_label


def test_class_areas_add_up_to_each_photos_and_are_never_negative():
    areas = np.zeros(20)
    areas[[0, 3, 7]] = 0.1, 0.4, 0.2
    labels = np.stack([hot(0), hot(0, 3), hot(3, 7), hot(0, 3, 7), hot(7)])
    assert class_areas(labels, labels @ areas) == pytest.approx(areas, abs=1e-9)
    assert class_areas(labels, np.array([0.5, 0.1, 0.1, 0.1, 0.0])).min() == 0


@pytest.fixture
def devkit(tmp_path) -> Path:
    """Photo a: class 4 on 8 pixels; b: classes 4 and 6 on 40 pixels, of which class 6 explains most."""
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "saliency").mkdir()
    for image_id, names, rows in (("a", ["bottle"], 1), ("b", ["bottle", "car"], 5)):
        (tmp_path / "Annotations" / f"{image_id}.xml").write_text(xml(names))
        saliency = np.full((10, 8), 20, np.uint8)  # not above 0.2 * 100: background
        saliency[:rows] = 21
        Image.fromarray(saliency).save(tmp_path / "saliency" / f"{image_id}.png")
    (tmp_path / "list.txt").write_text("a\nb\na\n")
    return tmp_path


def test_every_salient_pixel_gets_the_guess(devkit, commands):
    flags = ("--voc12_root", ".", "--infer_list", "list.txt", "--sal_path", "saliency")
    commands.run(devkit, "experiment/baselines.py", *flags, "--out_guess", "new/guess", "--out_background", "all")
    for image_id, rows, label in (("a", 1, 5), ("b", 5, 7)):
        expected = np.zeros((10, 8), np.uint8)
        assert np.array_equal(load_label(devkit / f"all/{image_id}.png"), expected)
        expected[:rows] = label
        assert np.array_equal(load_label(devkit / f"new/guess/{image_id}.png"), expected)
