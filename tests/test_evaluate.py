"""eval.py: scores equal to plain loops, for label PNGs, class scores and saliency maps; flags, bad files and the log."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_metrics import slow_f_measure

import eval as script
from pseudo_label.crf import with_background
from pseudo_label.evaluate import CURVE, LabelSource
from pseudo_label.fusion import pseudo_label
from tool.cli import UserError
from tool.files import save_npy_dict
from voc12.classes import LABELS
from voc12.images import save_label

REPO = Path(__file__).resolve().parents[1]
IDS = [f"2099_{number:06d}" for number in range(1, 21)]
SHAPE = (12, 15)
SALIENCY_IDS = ["b", "a", "c d"]


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


@pytest.fixture
def salient(tmp_path) -> Path:
    """Three photos' saliency maps, soft grey masks, and label maps with void."""
    generator = np.random.default_rng(0)
    for folder in ("sal", "masks", "SegmentationClass"):
        (tmp_path / folder).mkdir()
    for number, i in enumerate(SALIENCY_IDS):
        shape = (7 + number, 9)
        label = generator.choice([0, 0, 3, 20, 255], shape).astype(np.uint8)
        save_label(tmp_path / f"SegmentationClass/{i}.png", label)
        Image.fromarray(generator.choice([0, 127, 128, 255], shape).astype(np.uint8)).save(tmp_path / f"masks/{i}.png")
        saliency = (90 * (label % 255 > 0) + generator.integers(0, 150, shape)).astype(np.uint8)
        Image.fromarray(saliency).save(tmp_path / f"sal/{i}{'_sal_fuse' * (number > 0)}.png")
    (tmp_path / "list.txt").write_text("\n".join(SALIENCY_IDS))
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


def test_scores_by_hand(tmp_path, capsys):
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
def test_nothing_counted_is_null_in_json(tmp_path, predictions, flags):
    for folder in ("SegmentationClass", predictions):
        (tmp_path / folder).mkdir()
    (tmp_path / "list.txt").write_text("a\n")
    save_label(tmp_path / "SegmentationClass/a.png", np.full((2, 3), 255, np.uint8))
    if predictions == "png":
        save_label(tmp_path / "png/a.png", np.ones((2, 3), np.uint8))
    else:
        save_npy_dict(tmp_path / "cam/a.npy", {0: np.ones((2, 3), np.float32)})
    result = evaluate(tmp_path, predictions, *flags)
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
    assert result["miou"] == pytest.approx(expected_miou(root, lambda _: np.zeros(SHAPE, np.uint8)), abs=1e-9)
    assert evaluate(root, "cam", "--type", "npy", "--curve")["miou"] == result["miou"]


def save_wrong_value(path: Path, value: int) -> None:
    save_label(path, np.full(SHAPE, value, np.uint8))


BAD_FILES = {
    "png/2099_000003.png": [
        ("does not exist", lambda path: path.unlink()),
        ("pixels", lambda path: save_label(path, np.zeros((15, 12), np.uint8))),
        ("value 21", lambda path: save_wrong_value(path, 21)),
        ("void", lambda path: save_wrong_value(path, 255)),
        ("cannot be read", lambda path: path.write_bytes(path.read_bytes()[:-30])),
    ],
    "SegmentationClass/2099_000003.png": [
        ("does not exist", lambda path: path.unlink()),
        ("value 77", lambda path: save_wrong_value(path, 77)),
    ],
}


@pytest.mark.parametrize(
    ("name", "keyword", "spoil"), [(name, *fault) for name, faults in BAD_FILES.items() for fault in faults]
)
def test_bad_image_is_named_and_skipped_on_demand(root, capsys, name, keyword, spoil):
    spoil(root / name)
    (root / "png" / f"{IDS[6]}.png").unlink()
    with pytest.raises(UserError, match="of 20 images"):
        evaluate(root, "png")
    assert not (root / "out.json").exists()
    result = evaluate(root, "png", "--skip_errors")
    assert result["images"] == 18 and result["skipped"] == [IDS[2], IDS[6]]
    skipped = [line for line in capsys.readouterr().err.splitlines() if line.startswith("skipped")]
    assert len(skipped) == 2 and any(name in line and keyword in line for line in skipped)


def test_skipping_everything_is_an_error(root):
    for image_id in IDS:
        (root / "cam" / f"{image_id}.npy").write_bytes(b"x")
    with pytest.raises(UserError, match="20 of 20 images"):
        evaluate(root, "cam", "--type", "npy", "--skip_errors")


@pytest.mark.parametrize(
    ("scores", "crf", "keyword"),
    [
        ({20: np.zeros(SHAPE)}, False, "--crf"),
        ({"cat": np.zeros(SHAPE)}, False, "'cat'"),
        ({21: np.zeros(SHAPE)}, True, r"0\.\.20"),
        ({5: np.zeros(SHAPE)}, True, "no background"),
        ({5: np.zeros((12, 14))}, False, "12x14"),
        ({5: np.zeros(12)}, False, "height"),
        ({5: np.full(SHAPE, np.nan)}, False, "not finite"),
        ({5: np.full(SHAPE, 2.0)}, False, "Divide"),
    ],
)
def test_bad_score_file_is_named(root, scores, crf, keyword):
    path, truth = root / "cam" / f"{IDS[0]}.npy", root / "SegmentationClass" / f"{IDS[0]}.png"
    save_npy_dict(path, scores)
    with pytest.raises(UserError, match=keyword) as error:
        LabelSource(root / "cam", root / "SegmentationClass", LABELS, npy=True, crf=crf).score([truth, path])
    assert str(path) in str(error.value)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_saliency_against_grey_masks(salient, capsys, workers, monkeypatch):
    monkeypatch.setattr("pseudo_label.evaluate.CHUNK", 2)
    found = score_saliency(salient, "--gt_dir", f"{salient}/masks", "--num_workers", workers)
    pairs = [(pixels(salient, "sal", i), pixels(salient, "masks", i) >= 128) for i in SALIENCY_IDS]
    error, best, at = slow_f_measure(pairs)
    assert (found["mae"], found["max_f"]) == pytest.approx((error, best), abs=1e-9)
    assert found["threshold"] == at and found["images"] == 3 and found["skipped"] == []
    assert f"MAE             {error:.4f}\nmax F-measure   {best:.4f}   (where {at} and " in capsys.readouterr().out


def test_saliency_against_label_maps_leaves_void_out(salient):
    found = score_saliency(salient, "--voc12_root", f"{salient}", "--list", f"{salient}/list.txt")
    pairs = []
    for i in SALIENCY_IDS:
        saliency, label = pixels(salient, "sal", i), pixels(salient, "SegmentationClass", i)
        pairs.append((saliency[label != 255], label[label != 255] > 0))
    error, best, at = slow_f_measure(pairs)
    assert (found["mae"], found["max_f"]) == pytest.approx((error, best), abs=1e-9)
    assert found["threshold"] == at and 0.5 < best < 1


@pytest.mark.parametrize(
    ("name", "picture", "devkit", "keyword"),
    [
        ("masks/b.png", np.full((7, 9), 255, np.uint8), True, "holds 0 and 255 only"),
        ("masks/b.png", np.full((7, 9), 77, np.uint8), True, "value 77"),
        ("masks/b.png", np.ones((7, 9), np.uint8), False, "0 and 1 only"),
        ("masks/b.png", np.ones((7, 9), bool), False, "one bit"),
        ("masks/b.png", np.zeros((7, 8), np.uint8), False, "pixels"),
        ("sal/b.png", None, False, "does not exist"),
    ],
)
def test_bad_saliency_file_is_named(salient, name, picture, devkit, keyword):
    (salient / name).unlink()
    if picture is not None:
        Image.fromarray(picture).save(salient / name)
    flags = ["--gt_dir", f"{salient}/masks"]
    if devkit:
        flags += ["--voc12_root", f"{salient}", "--list", f"{salient}/list.txt"]
    with pytest.raises(UserError, match=keyword) as error:
        score_saliency(salient, *flags)
    assert "b.png" in str(error.value)
    if not devkit:  # whose label maps the other grey masks are not, either
        assert score_saliency(salient, *flags, "--skip_errors")["skipped"] == ["b"]


@pytest.mark.parametrize(
    ("predictions", "flags", "keyword"),
    [
        ("absent", (), "absent: no such folder"),
        ("pgn", (), "mean png"),
        ("cam", (), r"no label map .*\.npy"),
        ("png", ("--type", "npy"), r"no score file .*\.png"),
        ("png", ("--gt_dir", "nowhere"), "nowhere"),
        ("png", ("--sal_path", "sal"), "--type npy"),
        ("png", ("--curve",), "--type npy"),
        ("png", ("--saliency", "--crf"), "--saliency"),
        ("crf", ("--type", "npy", "--crf", "--curve"), "--sal_path"),
        ("cam", ("--type", "npy", "--sal_path", "nowhere"), "nowhere"),
        ("png", ("--list", "nowhere.txt"), r"nowhere\.txt"),
        ("png", ("--logfile", "nowhere/log.txt"), r"nowhere/log\.txt"),
        ("png", ("--json", "nowhere/out.json"), r"nowhere/out\.json"),
        ("cam", ("--type", "npy", "--theta", "20", "--sal_path", "."), "--theta 20"),
    ],
)
def test_flags_that_cannot_work(root, monkeypatch, predictions, flags, keyword):
    monkeypatch.setattr(script, "evaluate", lambda *_: pytest.fail("evaluated first"))
    with pytest.raises((UserError, OSError), match=keyword):
        evaluate(root, predictions, *flags)


@pytest.mark.parametrize(
    ("output", "remedy"), [("out_sal", "--saliency"), ("out_crf", "--crf"), ("out_prob", "--out_pred")]
)
def test_folder_of_another_output_is_refused(root, output, remedy):
    (root / "png/edam_manifest.json").write_text(json.dumps({"output": output}))
    with pytest.raises(UserError, match=f"png.*Give .*{remedy}"):
        evaluate(root, "png")


def test_folder_above_the_devkit_is_recognised(root):
    devkit = root / "above/VOC2012"
    devkit.mkdir(parents=True)
    with pytest.raises(UserError, match=f"mean {devkit}"):
        evaluate(root, "png", "--voc12_root", str(root / "above"))


def test_log_grows_by_an_entry_a_run(root, monkeypatch):
    monkeypatch.chdir(root)
    evaluate(root, "png")
    assert not (root / "evallog.txt").exists()
    first = evaluate(root, "png", "--comment", "first try")
    evaluate(root, "SegmentationClass", "--comment", "the truth")
    log = (root / "evallog.txt").read_text()
    assert log.count("== ") == 2 and log.index("first try") < log.index("the truth")
    assert f"mIoU          {first['miou']:8.2f}" in log and "mIoU            100.00" in log
    assert f"--predict_dir {root / 'png'} " in log
    evaluate(root, "png", "--logfile", "other.txt")
    assert (root / "other.txt").read_text().count("mIoU") == 1


def test_command_line_ends_with_one_line_and_a_status(root):
    command = [sys.executable, "eval.py", "--list", str(root / "list.txt"), "--predict_dir", str(root / "png")]
    good = subprocess.run([*command, "--voc12_root", str(root)], cwd=REPO, capture_output=True, text=True)
    assert good.returncode == 0 and good.stderr == "" and "mIoU" in good.stdout
    bad = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert (bad.returncode, bad.stdout) == (1, "")
    assert bad.stderr.startswith("eval.py: error: ") and bad.stderr.count("\n") == 1
