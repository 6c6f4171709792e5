"""eval.py: scores equal to plain loops, for label PNGs, class scores and saliency maps."""

from dataclasses import replace
from pathlib import Path

import evaluation
import numpy as np
import pytest
from evaluation import IDS, SHAPE, evaluate, pixels, score_saliency
from test_metrics import slow_f_measure

from pseudo_label.evaluate import CURVE, LabelSource
from pseudo_label.fusion import pseudo_label
from tool.cli import UserError
from tool.files import save_npy_dict
from voc12.classes import LABELS
from voc12.images import save_label

root = evaluation.root  # fixture


def expected_miou(root: Path, label_of) -> float:
    """Percent, from a plain loop over labels and boolean masks over all pixels joined."""
    truth = np.concatenate([pixels(root, "SegmentationClass", image_id).ravel() for image_id in IDS])
    predicted = np.concatenate([label_of(image_id).ravel() for image_id in IDS])
    predicted, truth = predicted[truth != 255], truth[truth != 255]
    values = []
    for label in range(21):
        union = ((truth == label) | (predicted == label)).sum()
        if union:
            values.append(((truth == label) & (predicted == label)).sum() / union)
    return 100 * float(np.mean(values))


def scores_of(root: Path, folder: str, image_id: str) -> np.ndarray:
    scores = np.load(root / folder / f"{image_id}.npy", allow_pickle=True).item()
    return np.stack([scores[key] for key in sorted(scores)])


def test_ground_truth_against_itself_is_100(root, capsys):
    result = evaluate(root, "SegmentationClass")
    assert result["miou"] == 100 and result["images"] == 20 and result["skipped"] == []
    assert {name: value for name, value in result["iou"].items() if value is not None} == {
        LABELS[label]: 100 for label in (0, 5, 10, 15)
    }
    printed = capsys.readouterr().out
    assert "bottle          100.00\n" in printed and "train           absent\n" in printed
    assert "mIoU            100.00   (mean of the 4 labels that occur)\n" in printed


def test_label_pngs_and_class_maps_of_one_theta_agree(root):
    expected = expected_miou(root, lambda image_id: pixels(root, "png", image_id))
    assert 5 < expected < 60
    assert evaluate(root, "png")["miou"] == pytest.approx(expected, abs=1e-9)
    assert evaluate(root, "cam", "--type", "npy", "--theta", "0.5")["miou"] == pytest.approx(expected, abs=1e-9)
    assert evaluate(root, "png", "--num_workers", "2")["miou"] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("crf", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_scores_with_and_without_crf_and_saliency(root, crf, fused):
    def label(image_id):
        scores = scores_of(root, "crf" if crf else "cam", image_id)
        options = {"theta": 0.6, "background": scores[0] if crf else None}
        if fused:
            options |= {"saliency": pixels(root, "sal", image_id), "alpha": 0.4, "beta": 0.9}
        return pseudo_label(scores[1:] if crf else scores, np.array([4, 9, 14]), **options)

    flags = ["--type", "npy", "--theta", "0.6", *(["--crf"] if crf else [])]
    if fused:
        flags += ["--sal_path", str(root / "sal"), "--alpha", "0.4", "--beta", "0.9"]
    result = evaluate(root, "crf" if crf else "cam", *flags)
    assert result["miou"] == pytest.approx(expected_miou(root, label), abs=1e-9)
    assert ("theta" in result) == (fused or not crf)


@pytest.mark.parametrize("fused", [False, True])
def test_curve_equals_each_theta_alone(root, capsys, fused):
    flags = ["--type", "npy"]
    if fused:
        flags += ["--sal_path", str(root / "sal"), "--alpha", "0.4", "--beta", "0.9"]
    result = evaluate(root, "cam", *flags, "--curve")
    printed = capsys.readouterr().out
    assert tuple(point["theta"] for point in result["curve"]) == CURVE
    for point in result["curve"][::9]:
        alone = evaluate(root, "cam", *flags, "--theta", str(point["theta"]))
        assert point["miou"] == pytest.approx(alone["miou"], abs=1e-9)
    best = max(result["curve"], key=lambda point: point["miou"])
    assert (result["theta"], result["miou"]) == (best["theta"], best["miou"])
    assert f"theta 0.07  mIoU {result['curve'][7]['miou']:6.2f}\n" in printed
    assert f"best: theta {best['theta']:.2f}, mIoU {best['miou']:.2f}\n" in printed


def test_scores_by_hand(root, capsys):
    """Of label 1's six pixels three are found, of label 2's two both; the other three are called 5, which is only predicted."""
    (root / "list.txt").write_text("a\n")
    save_label(root / "SegmentationClass/a.png", np.array([[1, 1, 1, 1, 1, 1, 2, 2, 255]], np.uint8))
    save_label(root / "png/a.png", np.array([[1, 1, 1, 5, 5, 5, 2, 2, 7]], np.uint8))
    result = evaluate(root, "png")
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
    result = evaluate(root, "SegmentationClass")
    assert result["miou"] == result["deeplab_miou"] == 100
    assert "DeepLab" not in capsys.readouterr().out


@pytest.mark.parametrize(("predictions", "flags"), [("png", ()), ("cam", ("--type", "npy", "--curve"))])
def test_nothing_counted_is_null_in_json(root, predictions, flags):
    (root / "list.txt").write_text("a\n")
    save_label(root / "SegmentationClass/a.png", np.full((2, 3), 255, np.uint8))
    if predictions == "png":
        save_label(root / "png/a.png", np.ones((2, 3), np.uint8))
    else:
        save_npy_dict(root / "cam/a.npy", {0: np.ones((2, 3), np.float32)})
    result = evaluate(root, predictions, *flags)
    scores = ("miou", "deeplab_miou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou")
    assert [result[name] for name in scores] == [None] * 5 and set(result["iou"].values()) == {None}
    assert all(point["miou"] is None for point in result.get("curve", []))


def test_names_and_void_of_another_dataset(root):
    truth, label = root / "SegmentationClass/a.png", root / "png/a.png"
    save_label(truth, np.array([[0, 1, 2, 9]], np.uint8))
    save_label(label, np.array([[0, 1, 1, 9]], np.uint8))
    source = LabelSource(root / "png", root / "SegmentationClass", ("background", "pip", "stem"), void=9)
    total = source.score([truth, label]).total
    assert total.tolist() == [[[1, 0, 0], [0, 1, 0], [0, 1, 0]]]
    text, result = source.report(total, 1)
    assert result["iou"] == {"background": 100, "pip": 50, "stem": 0} and result["miou"] == 50
    assert "pip              50.00\nstem              0.00\nmIoU             50.00\n" in text
    save_npy_dict(root / "cam/a.npy", {1: np.array([[0.1, 0.2, 0.9, 0.9]])})
    total = replace(source, npy=True).score([truth, root / "cam/a.npy"]).total
    assert total.tolist() == [[[1, 0, 0], [1, 0, 0], [0, 0, 1]]]
    with pytest.raises(UserError, match=r"a\.png: holds the value 9"):
        replace(source, void=255).score([truth, label])


def test_photos_without_classes_and_repeated_ids(root, capsys):
    for image_id in IDS:
        save_npy_dict(root / "cam" / f"{image_id}.npy", {})
    (root / "list.txt").write_text("\r\n\r\n".join(IDS + IDS[:5]))
    result = evaluate(root, "cam", "--type", "npy")
    assert result["images"] == 20 and "20 of the 20 predictions" in capsys.readouterr().err
    (root / "cam/edam_manifest.json").write_text('{"output": "baseline_background"}')  # it is meant to be so
    assert evaluate(root, "cam", "--type", "npy") == result and "predictions" not in capsys.readouterr().err
    assert result["miou"] == pytest.approx(expected_miou(root, lambda _: np.zeros(SHAPE, np.uint8)), abs=1e-9)
    assert evaluate(root, "cam", "--type", "npy", "--curve")["miou"] == result["miou"]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_saliency_against_grey_masks(root, capsys, workers):
    result = score_saliency(root, "--gt_dir", f"{root}/masks", "--num_workers", workers)
    pairs = [(pixels(root, "sal", image_id), pixels(root, "masks", image_id) >= 128) for image_id in IDS]
    error, best, at = slow_f_measure(pairs)
    assert (result["mae"], result["max_f"]) == pytest.approx((error, best), abs=1e-9)
    assert result["threshold"] == at and result["images"] == 20 and result["skipped"] == []
    assert f"MAE             {error:.4f}\nmax F-measure   {best:.4f}   (where {at} and " in capsys.readouterr().out


def test_saliency_against_label_maps_leaves_void_out(root):
    result = score_saliency(root, "--voc12_root", f"{root}", "--list", f"{root}/list.txt")
    pairs = []
    for image_id in IDS:
        saliency, label = pixels(root, "sal", image_id), pixels(root, "SegmentationClass", image_id)
        pairs.append((saliency[label != 255], label[label != 255] > 0))
    error, best, at = slow_f_measure(pairs)
    assert (result["mae"], result["max_f"], result["threshold"]) == pytest.approx((error, best, at), abs=1e-9)
