import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import eval as script
from pseudo_label.crf import with_background
from pseudo_label.fusion import pseudo_label
from pseudo_label.scoring import evaluate_image
from tool.cli import UserError
from tool.files import save_npy_dict
from voc12.classes import LABELS
from voc12.images import save_label

REPO = Path(__file__).resolve().parents[1]
IDS = [f"2099_{number:06d}" for number in range(1, 21)]
SHAPE = (12, 15)


@pytest.fixture
def root(tmp_path):
    """Twenty images with random ground truth, saliency, maps, CRF probabilities and labels of theta 0.5."""
    generator = np.random.default_rng(0)
    for folder in ("SegmentationClass", "sal", "cam", "crf", "png"):
        (tmp_path / folder).mkdir()
    for image_id in IDS:
        truth = generator.integers(0, 4, SHAPE).astype(np.uint8) * 5
        truth[generator.random(SHAPE) < 0.1] = 255
        save_label(tmp_path / "SegmentationClass" / f"{image_id}.png", truth)
        saliency = generator.integers(0, 120, SHAPE).astype(np.uint8)
        Image.fromarray(saliency).save(tmp_path / "sal" / f"{image_id}.png")
        maps = generator.random((3, *SHAPE)).round(2).astype(np.float32)
        classes = np.array([4, 9, 14])
        save_npy_dict(tmp_path / "cam" / f"{image_id}.npy", dict(zip(classes.tolist(), maps, strict=True)))
        crf = with_background(maps)
        save_npy_dict(tmp_path / "crf" / f"{image_id}.npy", dict(zip([0, 5, 10, 15], crf, strict=True)))
        save_label(tmp_path / "png" / f"{image_id}.png", pseudo_label(maps, classes, theta=0.5))
    (tmp_path / "list.txt").write_text("".join(f"/JPEGImages/{i}.jpg /SegmentationClassAug/{i}.png\n" for i in IDS))
    return tmp_path


def evaluate(root: Path, predictions: str, *flags: str) -> dict:
    """Run the script's main in this process and return what --json holds."""
    arguments = ["--voc12_root", str(root), "--list", str(root / "list.txt"), "--predict_dir", str(root / predictions)]
    arguments += ["--json", str(root / "out.json"), "--num_workers", "1", *flags]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["eval.py", *arguments])
        script.main()
    return json.loads((root / "out.json").read_text())


def truth_of(root: Path, image_id: str) -> np.ndarray:
    return np.array(Image.open(root / "SegmentationClass" / f"{image_id}.png"))


def expected_miou(root: Path, label_of) -> float:
    """Percent, from a plain loop over labels and boolean masks over all pixels joined."""
    truth = np.concatenate([truth_of(root, image_id).ravel() for image_id in IDS])
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
    expected = expected_miou(root, lambda i: np.array(Image.open(root / "png" / f"{i}.png")))
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
            options |= {"saliency": np.array(Image.open(root / "sal" / f"{image_id}.png")), "alpha": 0.4, "beta": 0.9}
        return pseudo_label(scores[1:] if crf else scores, np.array([4, 9, 14]), **options)

    flags = ["--type", "npy", "--theta", "0.6", *(["--crf"] if crf else [])]
    if fused:
        flags += ["--sal_path", str(root / "sal"), "--alpha", "0.4", "--beta", "0.9"]
    result = evaluate(root, "crf" if crf else "cam", *flags)
    assert result["miou"] == pytest.approx(expected_miou(root, label), abs=1e-9)


@pytest.mark.parametrize("fused", [False, True])
def test_curve_is_each_theta_by_itself(root, capsys, fused):
    flags = ["--type", "npy"]
    if fused:
        flags += ["--sal_path", str(root / "sal"), "--alpha", "0.4", "--beta", "0.9"]
    result = evaluate(root, "cam", *flags, "--curve")
    printed = capsys.readouterr().out
    assert [point["theta"] for point in result["curve"]] == [round(step / 100, 2) for step in range(100)]
    for point in result["curve"][::9]:
        alone = evaluate(root, "cam", *flags, "--theta", str(point["theta"]))
        assert point["miou"] == pytest.approx(alone["miou"], abs=1e-9)
    best = max(result["curve"], key=lambda point: point["miou"])
    assert (result["theta"], result["miou"]) == (best["theta"], best["miou"])
    assert f"theta 0.07  mIoU {result['curve'][7]['miou']:6.2f}\n" in printed
    assert f"best: theta {best['theta']:.2f}, mIoU {best['miou']:.2f}\n" in printed


def test_names_and_void_of_another_dataset(root):
    """Two classes, void 9: what is counted, what is out of range, and the table come from the source alone."""
    truth = np.array([[0, 1, 2, 9]], np.uint8)
    save_label(root / "SegmentationClass" / "a.png", truth)
    save_label(root / "png" / "a.png", np.array([[0, 1, 1, 9]], np.uint8))
    save_npy_dict(root / "cam" / "a.npy", {1: np.array([[0.1, 0.2, 0.9, 0.9]])})
    source = script.check_arguments(
        script.get_parser().parse_args(["--voc12_root", str(root), "--predict_dir", str(root / "png")])
    )
    source = replace(source, names=("background", "pip", "stem"), void=9)
    total = evaluate_image("a", source)
    assert total.tolist() == [[[1, 0, 0], [0, 1, 0], [0, 1, 0]]]
    text, result = script.report(total, source, 1)
    assert result["iou"] == {"background": 100, "pip": 50, "stem": 0} and result["miou"] == 50
    assert "pip              50.00\nstem              0.00\nmIoU             50.00\n" in text
    maps = replace(source, npy=True, predict_dir=root / "cam")
    assert evaluate_image("a", maps).tolist() == [[[1, 0, 0], [1, 0, 0], [0, 0, 1]]]
    assert script.evaluate(["a"], replace(maps, curve=True), 1).total.shape == (100, 3, 3)
    with pytest.raises(UserError, match=r"a\.png holds the value 9, where 0\.\.2 was expected"):
        evaluate_image("a", replace(source, void=255))
    save_npy_dict(root / "cam" / "a.npy", {2: np.zeros((1, 4))})
    with pytest.raises(UserError, match=r"holds 2 as a class, where 0\.\.1 was expected; --crf"):
        evaluate_image("a", maps)


def test_a_photo_without_classes_and_repeated_ids(root):
    for image_id in IDS:
        save_npy_dict(root / "cam" / f"{image_id}.npy", {})
    (root / "list.txt").write_text("\r\n\r\n".join(IDS + IDS[:5]))
    result = evaluate(root, "cam", "--type", "npy")
    assert result["images"] == 20
    assert result["miou"] == pytest.approx(expected_miou(root, lambda _: np.zeros(SHAPE, np.uint8)), abs=1e-9)
    assert evaluate(root, "cam", "--type", "npy", "--curve")["miou"] == result["miou"]


def spoil(root: Path, fault: str) -> None:
    label = np.zeros(SHAPE, np.uint8)
    third, seventh = root / "png" / f"{IDS[2]}.png", root / "png" / f"{IDS[6]}.png"
    if fault == "missing":
        third.unlink()
    elif fault == "size":
        save_label(third, np.zeros((15, 12), np.uint8))
    elif fault == "range":
        label[3, 4] = 21
        save_label(third, label)
    elif fault == "void":
        label[truth_of(root, IDS[2]) != 255] = 255
        save_label(third, label)
    elif fault == "truncated":
        third.write_bytes(third.read_bytes()[:-30])
    elif fault == "truth":
        (root / "SegmentationClass" / f"{IDS[2]}.png").unlink()
    elif fault == "truth range":
        save_label(root / "SegmentationClass" / f"{IDS[2]}.png", np.full(SHAPE, 77, np.uint8))
    if fault in ("missing", "size", "truncated", "truth"):  # found before anything is evaluated
        seventh.unlink()
    else:
        save_label(seventh, np.full(SHAPE, 30, np.uint8))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("missing", r"label map .*png/2099_000003\.png does not exist"),
        (
            "size",
            r"label map .*png/2099_000003\.png is 12x15 pixels, its ground truth 15x12: resize it without mixing values",
        ),
        ("range", r"png/2099_000003\.png holds the value 21, where 0\.\.20 was expected"),
        ("void", r"png/2099_000003\.png holds the value 255, where 0\.\.20 was expected"),
        ("truncated", r"label map .*png/2099_000003\.png cannot be read"),
        ("truth", r"ground truth .*SegmentationClass/2099_000003\.png does not exist"),
        ("truth range", r"SegmentationClass/2099_000003\.png holds the value 77"),
    ],
)
def test_bad_images_are_named_and_the_run_fails_unless_told_to_skip(root, capsys, fault, message):
    spoil(root, fault)
    with pytest.raises(
        UserError, match=rf"^2 of 20 images cannot be evaluated, the first: .*{message}.*; --skip_errors"
    ):
        evaluate(root, "png")
    assert not (root / "out.json").exists()
    result = evaluate(root, "png", "--skip_errors")
    assert result["images"] == 18 and result["skipped"] == [IDS[2], IDS[6]]
    skipped = capsys.readouterr().err.splitlines()
    assert len(skipped) == 2 and "2099_000003.png" in skipped[0] and "png/2099_000007.png" in skipped[1]


def test_skipping_everything_is_an_error(root):
    for image_id in IDS:
        (root / "cam" / f"{image_id}.npy").write_bytes(b"x")
    with pytest.raises(
        UserError, match=r"^20 of 20 images cannot be evaluated, the first: .*npy is not a dict of arrays"
    ):
        evaluate(root, "cam", "--type", "npy", "--skip_errors")


@pytest.mark.parametrize(
    ("scores", "flags", "message"),
    [
        ({20: np.zeros(SHAPE)}, [], r"holds 20 as a class, where 0\.\.19 was expected; --crf reads"),
        ({"cat": np.zeros(SHAPE)}, [], "holds 'cat' as a class"),
        ({21: np.zeros(SHAPE)}, ["--crf"], r"holds 21 as a class, where 0\.\.20 was expected$"),
        ({5: np.zeros(SHAPE)}, ["--crf"], r"holds no background \(0\)"),
        ({5: np.zeros((12, 14))}, [], r"is 12x14, but the ground truth is 12x15"),
        ({5: np.zeros(12)}, [], r"is 12, but the ground truth is 12x15"),
        ({5: np.full(SHAPE, np.nan)}, [], "holds values that are not finite for class 5"),
    ],
)
def test_bad_score_files(root, scores, flags, message):
    path = root / "cam" / f"{IDS[0]}.npy"
    save_npy_dict(path, scores)
    arguments = script.get_parser().parse_args(
        ["--predict_dir", str(root / "cam"), "--voc12_root", str(root), "--type", "npy", *flags]
    )
    with pytest.raises(UserError, match=message) as error:
        evaluate_image(IDS[0], script.check_arguments(arguments))
    assert str(path) in str(error.value)


def test_bad_saliency_map(root):
    Image.fromarray(np.zeros((5, 6), np.uint8)).save(root / "sal" / f"{IDS[1]}.png")
    with pytest.raises(
        UserError, match=r"the first: .*sal/2099_000002\.png is 6x5 pixels, its ground truth 15x12: resize it; --skip"
    ):
        evaluate(root, "cam", "--type", "npy", "--sal_path", str(root / "sal"))


def test_the_result_names_theta_only_where_it_counts(root):
    assert evaluate(root, "cam", "--type", "npy", "--theta", "0.3")["theta"] == 0.3
    assert "theta" not in evaluate(root, "crf", "--type", "npy", "--crf")
    fused = ("--theta", "0.3", "--sal_path", str(root / "sal"))
    assert evaluate(root, "crf", "--type", "npy", "--crf", *fused)["theta"] == 0.3
    assert "theta" not in evaluate(root, "png")
