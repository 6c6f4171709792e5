"""eval.py: scores equal to plain loops, for label PNGs, class scores and saliency maps; flags, bad files and the log."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_metrics import slow_f_measure, slow_iou

import eval as script
from pseudo_label.crf import with_background
from pseudo_label.evaluate import CURVE, read_scores
from pseudo_label.fusion import pseudo_label
from tool.cli import UserError
from tool.files import save_npy_dict
from voc12.images import save_label

IDS = [f"2099_{number:06d}" for number in range(1, 21)]
SHAPE = (12, 15)
CLASSES = np.array([4, 9, 14])


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """Make twenty images with random ground truth, masks, saliency, maps, CRF and labels of theta 0.5 the working folder."""
    generator = np.random.default_rng(0)
    monkeypatch.chdir(tmp_path)
    for folder in ("SegmentationClass", "masks", "sal", "cam", "crf", "png"):
        (tmp_path / folder).mkdir()
    for image_id in IDS:
        truth = generator.integers(0, 4, SHAPE).astype(np.uint8) * 5
        truth[generator.random(SHAPE) < 0.1] = 255
        save_label(f"SegmentationClass/{image_id}.png", truth)
        for folder, most in (("masks", 256), ("sal", 120)):
            Image.fromarray(generator.integers(0, most, SHAPE).astype(np.uint8)).save(f"{folder}/{image_id}.png")
        maps = generator.random((3, *SHAPE)).round(2).astype(np.float32)
        save_npy_dict(f"cam/{image_id}.npy", dict(zip(CLASSES.tolist(), maps, strict=True)))
        save_npy_dict(f"crf/{image_id}.npy", dict(zip([0, 5, 10, 15], with_background(maps), strict=True)))
        save_label(f"png/{image_id}.png", pseudo_label(maps, CLASSES, theta=0.5))
    (tmp_path / "list.txt").write_text("".join(f"/JPEGImages/{i}.jpg /SegmentationClassAug/{i}.png\n" for i in IDS))
    return tmp_path


def run(root: Path, *flags: str) -> dict:
    """Run the script's main in this process and return what --json holds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["eval.py", "--json", "out.json", *flags])
        script.main()
    return json.loads((root / "out.json").read_text(), parse_constant=pytest.fail)


def evaluate(root: Path, predictions: str, *flags: str) -> dict:
    dataset = ("--voc12_root", ".", "--list", "list.txt", "--num_workers", "1")
    return run(root, *dataset, "--predict_dir", predictions, *flags)


def pixels(root: Path, folder: str, image_id: str) -> np.ndarray:
    return np.array(Image.open(next((root / folder).glob(f"{image_id}*"))))


def expected_miou(root: Path, label_of) -> float:
    truth = np.concatenate([pixels(root, "SegmentationClass", image_id) for image_id in IDS])
    predicted = np.concatenate([label_of(image_id) for image_id in IDS])
    return 100 * np.nanmean([slow_iou(truth, predicted, label) for label in range(21)])


@pytest.mark.parametrize("workers", ["1", "2"])
def test_label_pngs(root, workers):
    expected = expected_miou(root, lambda image_id: pixels(root, "png", image_id))
    assert 5 < expected < 60
    assert evaluate(root, "png", "--num_workers", workers)["miou"] == pytest.approx(expected, abs=1e-9)


FUSED = ("--alpha", "0.4", "--beta", "0.9")


@pytest.mark.parametrize("crf", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_scores_with_and_without_crf_and_saliency(root, crf, fused):
    def label(image_id):
        loaded = np.load(root / folder / f"{image_id}.npy", allow_pickle=True).item()
        scores = np.stack([loaded[key] for key in sorted(loaded)])
        options = {"theta": 0.6, "background": scores[0] if crf else None}
        if fused:
            options |= {"saliency": pixels(root, "sal", image_id), "alpha": 0.4, "beta": 0.9}
        return pseudo_label(scores[1:] if crf else scores, CLASSES, **options)

    folder = "crf" if crf else "cam"
    flags = ["--type", "npy", "--theta", "0.6", *(["--crf"] if crf else [])]
    flags += ["--sal_path", "sal", *FUSED] if fused else []
    result = evaluate(root, folder, *flags)
    assert result["miou"] == pytest.approx(expected_miou(root, label), abs=1e-9)
    assert ("theta" in result) == (fused or not crf)


@pytest.mark.parametrize("fused", [False, True])
def test_curve_equals_each_theta_alone(root, capsys, fused):
    flags = ["--type", "npy", *(["--sal_path", "sal", *FUSED] if fused else [])]
    result = evaluate(root, "cam", *flags, "--curve")
    printed = capsys.readouterr().out
    assert tuple(point["theta"] for point in result["curve"]) == CURVE
    for point in result["curve"][::9]:
        alone = evaluate(root, "cam", *flags, "--theta", str(point["theta"]))
        assert point["miou"] == pytest.approx(alone["miou"], abs=1e-9)
    assert {"theta": result["theta"], "miou": result["miou"]} == max(result["curve"], key=lambda point: point["miou"])
    assert f"best: theta {result['theta']:.2f}, mIoU {result['miou']:.2f}\n" in printed


def test_scores_by_hand(root, capsys):
    """Of label 1's 6 pixels 3 are found, of label 2's 2 both; the others are called 5: IoU 3 / 6, 2 / 2 and 0 / 3."""
    (root / "list.txt").write_text("a\n")
    save_label(root / "SegmentationClass/a.png", np.array([[1, 1, 1, 1, 1, 1, 2, 2, 255]], np.uint8))
    save_label(root / "png/a.png", np.array([[1, 1, 1, 5, 5, 5, 2, 2, 7]], np.uint8))
    result = evaluate(root, "png")
    scores = ("miou", "deeplab_miou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou")
    assert [result[name] for name in scores] == pytest.approx([50, 75, 62.5, 75, 62.5], abs=1e-9)
    printed = capsys.readouterr().out
    assert "bicycle         100.00\n" in printed and "train           absent\n" in printed
    expected = (
        "mIoU             50.00   (mean of the 3 labels that occur)\n"
        "DeepLab's mIoU   75.00   (mean of the 2 labels that occur in the ground truth)\n"
        "pixel accuracy   62.50\n"
        "mean accuracy    75.00\n"
        "freq. w. IoU     62.50\n"
        "1 image of "
    )
    assert expected in printed


def test_nothing_counted_is_null_in_json(root):
    for image_id in IDS:
        save_label(f"SegmentationClass/{image_id}.png", np.full(SHAPE, 255, np.uint8))
    result = evaluate(root, "cam", "--type", "npy", "--curve")
    scores = ("miou", "deeplab_miou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou")
    assert [result[name] for name in scores] == [None] * 5 and set(result["iou"].values()) == {None}
    assert all(point["miou"] is None for point in result["curve"])


def test_photos_without_classes_and_repeated_ids(root):
    for image_id in IDS:
        save_npy_dict(root / "cam" / f"{image_id}.npy", {})
    (root / "list.txt").write_text("\r\n\r\n".join(IDS + IDS[:5]))
    result = evaluate(root, "cam", "--type", "npy")
    assert result["images"] == 20
    assert result["miou"] == pytest.approx(expected_miou(root, lambda _: np.zeros(SHAPE, np.uint8)), abs=1e-9)
    assert evaluate(root, "cam", "--type", "npy", "--curve")["miou"] == result["miou"]


@pytest.mark.parametrize("masks", ["grey", "labels"])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_saliency_against_grey_masks_and_label_maps(root, capsys, masks, workers):
    """Void pixels of label maps are left out."""
    truth = {"grey": ["--gt_dir", "masks"], "labels": ["--voc12_root", ".", "--list", "list.txt"]}[masks]
    result = run(root, "--saliency", "--predict_dir", "sal", "--num_workers", workers, *truth)
    pairs = []
    for image_id in IDS:
        saliency, grey, label = (pixels(root, folder, image_id) for folder in ("sal", "masks", "SegmentationClass"))
        counted = (label != 255) | (masks == "grey")
        pairs.append((saliency[counted], (grey > 127 if masks == "grey" else label > 0)[counted]))
    error, best, at = slow_f_measure(pairs)
    assert (result["mae"], result["max_f"]) == pytest.approx((error, best), abs=1e-9)
    assert result["threshold"] == at and result["images"] == 20 and result["skipped"] == []
    assert f"MAE             {error:.4f}\nmax F-measure   {best:.4f}   (where {at} and " in capsys.readouterr().out


SALIENCY = ("--saliency", "--predict_dir", "sal")


@pytest.mark.parametrize(
    ("flags", "name", "picture", "keyword"),
    [
        ((), "png/{}.png", np.full(SHAPE, 21), "value 21"),
        ((), "png/{}.png", np.arange(180).reshape(SHAPE), "--saliency"),
        ((), "png/{}.png", np.full(SHAPE, 255), "void"),
        ((), "SegmentationClass/{}.png", np.full(SHAPE, 77), "value 77"),
        (SALIENCY, "SegmentationClass/{}.png", np.full(SHAPE, 255), "0 and 255 only"),
        (SALIENCY, "sal/{}.png", np.ones(SHAPE), "0 and 1 only"),
    ],
)
def test_bad_image_is_named_and_skipped_on_demand(root, capsys, flags, name, picture, keyword):
    Image.fromarray(picture.astype(np.uint8)).save(name.format(IDS[2]))
    (root / name.format(IDS[6])).write_bytes(b"")
    with pytest.raises(UserError, match="of 20 images"):
        evaluate(root, "png", *flags)
    assert not (root / "out.json").exists()
    result = evaluate(root, "png", *flags, "--skip_errors")
    assert result["images"] == 18 and result["skipped"] == [IDS[2], IDS[6]]
    skipped = [line for line in capsys.readouterr().err.splitlines() if line.startswith("skipped")]
    assert len(skipped) == 2 and any(f"{IDS[2]}.png" in line and keyword in line for line in skipped)


@pytest.mark.parametrize(
    ("scores", "crf", "keyword"),
    [
        ({20: np.zeros(SHAPE)}, False, "--crf"),
        ({"cat": np.zeros(SHAPE)}, False, "'cat'"),
        ({5: np.zeros(SHAPE)}, True, "background"),
        ({5: np.zeros(12)}, False, "height"),
        ({5: np.full(SHAPE, np.nan)}, False, "nan"),
        ({5: np.full(SHAPE, 2.0)}, False, "Divide"),
    ],
)
def test_bad_score_file_is_named(root, scores, crf, keyword):
    save_npy_dict(root / "a.npy", scores)
    with pytest.raises(UserError, match=rf"a\.npy.*{keyword}"):
        read_scores(root / "a.npy", SHAPE, 21, crf)


@pytest.mark.parametrize(
    ("predictions", "flags", "keyword"),
    [
        ("png", ("--curve",), "--type npy"),
        ("png", ("--saliency", "--type", "npy"), "--saliency"),
        ("crf", ("--type", "npy", "--crf", "--curve"), "--sal_path"),
        ("png", ("--list", "nowhere.txt"), r"nowhere\.txt"),
        ("png", ("--logfile", "nowhere/log.txt"), r"nowhere/log\.txt"),
    ],
)
def test_flags_that_cannot_work(root, monkeypatch, predictions, flags, keyword):
    monkeypatch.setattr(script, "evaluate", lambda *_: pytest.fail("evaluated first"))
    with pytest.raises(UserError, match=keyword):
        evaluate(root, predictions, *flags)


def test_log_grows_by_an_entry_a_run(root):
    evaluate(root, "png")
    assert not (root / "evallog.txt").exists()
    first = evaluate(root, "png", "--comment", "first try")
    evaluate(root, "SegmentationClass", "--logfile", "evallog.txt")
    log = (root / "evallog.txt").read_text()
    assert log.count("== ") == 2 and "first try" in log and "--predict_dir png " in log
    assert log.index(f"mIoU          {first['miou']:8.2f}") < log.index("mIoU            100.00")
