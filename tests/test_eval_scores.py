"""eval.py: the scores that DeepLab's tables have, and both means of the IoU."""

import json

import numpy as np
import pytest
from test_eval import evaluate

from tool.files import save_npy_dict
from voc12.images import save_label


def test_the_scores_by_hand(tmp_path, capsys):
    """Of label 1's six pixels three are found, of label 2's two both; the other three are called 5, which is only predicted."""
    for folder in ("SegmentationClass", "png"):
        (tmp_path / folder).mkdir()
    (tmp_path / "list.txt").write_text("a\n")
    save_label(tmp_path / "SegmentationClass/a.png", np.array([[1, 1, 1, 1, 1, 1, 2, 2, 255]], np.uint8))
    save_label(tmp_path / "png/a.png", np.array([[1, 1, 1, 5, 5, 5, 2, 2, 7]], np.uint8))
    result = evaluate(tmp_path, "png")
    expected = {
        "miou": 100 * (3 / 6 + 1 + 0) / 3,
        "deeplab_miou": 100 * (3 / 6 + 1) / 2,
        "pixel_accuracy": 100 * 5 / 8,
        "mean_accuracy": 100 * (3 / 6 + 1) / 2,
        "frequency_weighted_iou": 100 * (3 / 6 * 6 + 1 * 2) / 8,
    }
    assert {name: result[name] for name in expected} == pytest.approx(expected, abs=1e-9)
    printed = (
        "mIoU             50.00   (mean of the 3 labels that occur)\n"
        "DeepLab's mIoU   75.00   (mean of the 2 labels that occur in the ground truth)\n"
        "pixel accuracy   62.50\n"
        "mean accuracy    75.00\n"
        "freq. w. IoU     62.50\n"
        "1 image of "
    )
    assert printed in capsys.readouterr().out
    result = evaluate(tmp_path, "SegmentationClass")
    assert result["miou"] == result["deeplab_miou"] == 100
    assert "DeepLab" not in capsys.readouterr().out


@pytest.mark.parametrize(("predictions", "flags"), [("png", ()), ("cam", ("--type", "npy", "--curve"))])
def test_nothing_counted_is_null_in_valid_json(tmp_path, predictions, flags):
    for folder in ("SegmentationClass", predictions):
        (tmp_path / folder).mkdir()
    (tmp_path / "list.txt").write_text("a\n")
    save_label(tmp_path / "SegmentationClass/a.png", np.full((2, 3), 255, np.uint8))
    if predictions == "png":
        save_label(tmp_path / "png/a.png", np.ones((2, 3), np.uint8))
    else:
        save_npy_dict(tmp_path / "cam/a.npy", {0: np.ones((2, 3), np.float32)})
    evaluate(tmp_path, predictions, *flags)
    result = json.loads((tmp_path / "out.json").read_text(), parse_constant=pytest.fail)
    scores = ("miou", "deeplab_miou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou")
    assert [result[name] for name in scores] == [None] * 5 and set(result["iou"].values()) == {None}
    assert all(point["miou"] is None for point in result.get("curve", []))
