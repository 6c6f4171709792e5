"""Class names and palette against the devkit's; classes of other datasets."""

import numpy as np
import pytest
from own_dataset import names

from tool import VOID
from tool.cli import UserError
from voc12.classes import CLASSES, LABELS, PALETTE, VOC, Classes
from voc12.lists import read_classes

PETS = Classes(("cat", "Guinea pig"))


def test_names_and_colours_are_the_devkits():
    assert len(CLASSES) == 20 and sorted(CLASSES) == list(CLASSES)
    assert (LABELS[0], LABELS[1], LABELS[15], LABELS[20]) == ("background", "aeroplane", "person", "tvmonitor")
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 4: (0, 0, 128), 8: (64, 0, 0), 15: (192, 128, 128)}
    known |= {20: (0, 64, 128), VOID: (224, 224, 192)}
    assert {value: tuple(PALETTE[value].tolist()) for value in known} == known
    assert (PALETTE.shape, PALETTE.dtype) == ((256, 3), np.uint8)


def test_root_without_classes_is_voc(tmp_path):
    assert read_classes(tmp_path) is VOC and read_classes(None) is VOC
    (tmp_path / "classes.txt").write_text("\n".join(VOC.names))
    assert read_classes(tmp_path) is VOC
    assert VOC.options(num_classes=20) == {}


def test_line_n_is_label_n(tmp_path):
    (tmp_path / "classes.txt").write_bytes(b"\xef\xbb\xbfcat\r\nGuinea pig  \r\n\r\n")
    classes = read_classes(tmp_path)
    assert classes == PETS and classes.labels == ("background", "cat", "Guinea pig")
    assert [classes.index(name) for name in ("CAT", " guinea pig", "guinea_pig", "sofa")] == [0, 1, None, None]
    assert classes.options(num_classes=2) == {"class_names": ("cat", "Guinea pig"), "num_classes": 2}


@pytest.mark.parametrize(
    ("text", "keyword"),
    [
        *(("\n".join(names(255)), "254"), ("cat\n\ndog", "line 2"), ("background\ncat", "background"), ("", "empty")),
        *(("cat\nCAT", "CAT"), ("cat;dog", "cat;dog"), ("['cat']", "cat"), ("cat\nUnknown", "Unknown"), ("-", "-")),
    ],
)
def test_read_classes_rejects(tmp_path, text, keyword):
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(UserError, match=rf"classes\.txt.*{keyword}"):
        read_classes(tmp_path)
