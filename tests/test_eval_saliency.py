"""eval.py --saliency: mean absolute error and maximum F-measure against grey masks and label maps, equal to slow references."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_saliency import slow_curve

import eval as script
from tool.cli import UserError
from voc12.images import save_label

IDS = ["b", "a", "c d"]


def evaluate(root: Path, *flags: str) -> dict:
    """Run the script's main in this process and return what --json holds."""
    arguments = ["eval.py", "--saliency", "--predict_dir", f"{root}/sal", "--json", f"{root}/out.json", *flags]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", arguments)
        script.main()
    return json.loads((root / "out.json").read_text())


def expected(pairs: list[tuple[np.ndarray, np.ndarray]]) -> tuple[float, float, int]:
    """MAE, maximum F-measure and its threshold of (saliency, mask) pairs, in plain Python floats."""
    curves = [slow_curve(*pair) for pair in pairs]
    errors = []
    for saliency, mask in pairs:
        error = [abs(s / 255 - m) for s, m in zip(saliency.ravel().tolist(), mask.ravel().tolist(), strict=True)]
        errors.append(sum(error) / len(error))
    best, at = 0.0, 0
    for threshold in range(256):
        precision, recall = (sum(curve[i][threshold] for curve in curves) / len(curves) for i in (0, 1))
        measure = 1.3 * precision * recall / (0.3 * precision + recall) if precision + recall else 0
        if measure > best:
            best, at = measure, threshold
    return sum(errors) / len(errors), best, at


@pytest.fixture
def root(tmp_path) -> Path:
    """Three photos' saliency maps, soft grey masks, and label maps with void."""
    generator = np.random.default_rng(0)
    for folder in ("sal", "masks", "SegmentationClass"):
        (tmp_path / folder).mkdir()
    for number, i in enumerate(IDS):
        shape = (7 + number, 9)
        label = generator.choice([0, 0, 3, 20, 255], shape).astype(np.uint8)
        save_label(tmp_path / f"SegmentationClass/{i}.png", label)
        Image.fromarray(generator.choice([0, 127, 128, 255], shape).astype(np.uint8)).save(tmp_path / f"masks/{i}.png")
        saliency = (90 * (label % 255 > 0) + generator.integers(0, 150, shape)).astype(np.uint8)
        Image.fromarray(saliency).save(tmp_path / f"sal/{i}{'_sal_fuse' * (number > 0)}.png")
    (tmp_path / "list.txt").write_text("\n".join(IDS))
    return tmp_path


def read(root: Path, folder: str) -> list[np.ndarray]:
    return [np.array(Image.open(next((root / folder).glob(f"{i}*")))) for i in IDS]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_grey_masks(root, capsys, workers, monkeypatch):
    monkeypatch.setattr("pseudo_label.evaluation.CHUNK", 2)
    found = evaluate(root, "--gt_dir", f"{root}/masks", "--num_workers", workers)
    pairs = list(zip(read(root, "sal"), (mask >= 128 for mask in read(root, "masks")), strict=True))
    mae, max_f, at = expected(pairs)
    assert (found["mae"], found["max_f"]) == pytest.approx((mae, max_f), abs=1e-9)
    assert found["threshold"] == at and found["images"] == 3 and found["skipped"] == []
    assert f"MAE             {mae:.4f}\nmax F-measure   {max_f:.4f}   (where {at} and " in capsys.readouterr().out


def test_label_maps_void_left_out(root):
    found = evaluate(root, "--voc12_root", f"{root}", "--list", f"{root}/list.txt")
    labels = read(root, "SegmentationClass")
    pairs = [(s[label != 255], label[label != 255] > 0) for s, label in zip(read(root, "sal"), labels, strict=True)]
    mae, max_f, at = expected(pairs)
    assert (found["mae"], found["max_f"]) == pytest.approx((mae, max_f), abs=1e-9)
    assert found["threshold"] == at and 0.5 < max_f < 1


def test_faults(root):
    def line(*flags: str) -> str:
        with pytest.raises(UserError) as caught:
            evaluate(root, *flags)
        return str(caught.value)

    masks, devkit = ("--gt_dir", f"{root}/masks"), ("--voc12_root", f"{root}", "--list", f"{root}/list.txt")
    assert line(*masks, "--type", "npy").startswith("--saliency scores grey maps")
    (root / "empty").mkdir()
    assert line("--gt_dir", f"{root}/empty") == f"--gt_dir {root}/empty holds no mask (.png, .jpg, .jpeg)"
    Image.fromarray(np.full((7, 9), 255, np.uint8)).save(root / "masks/b.png")
    assert "b.png holds 0 and 255 only, background and void: masks of" in line(*devkit, *masks)
    Image.fromarray(np.full((7, 9), 77, np.uint8)).save(root / "masks/b.png")
    assert "b.png holds the value 77, where 0..20 was expected" in line(*devkit, *masks)
    Image.fromarray(np.ones((7, 9), np.uint8)).save(root / "masks/b.png")
    assert "mask" in line(*masks) and "holds 0 and 1 only" in line(*masks)
    Image.fromarray(np.ones((7, 9), bool)).save(root / "masks/b.png")
    assert "b.png has one bit a pixel: save masks as 8-bit grey, 0 and 255" in line(*masks)
    Image.fromarray(np.zeros((7, 8), np.uint8)).save(root / "masks/b.png")
    assert "is 9x7 pixels, its ground truth 8x7: resize it" in line(*masks)
    assert evaluate(root, *masks, "--skip_errors")["skipped"] == ["b"]
    (root / "sal/b.png").unlink()
    assert "saliency map" in line(*masks) and "does not exist" in line(*masks)
    (root / "sal/edam_manifest.json").write_text('{"output": "out_sal"}')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["eval.py", "--predict_dir", f"{root}/sal", *devkit])
        with pytest.raises(UserError, match="was written with --out_sal: it is read with --saliency"):
            script.main()
