"""infer_cls.py on the command line: parity figures and reruns."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import devices
import numpy as np
import pytest
from conftest import PARITY, REPO, SHARED, needs_shared
from devices import content
from PIL import Image

from pseudo_label.manifest import weights_digest
from tool.files import HOST, load_npy_dict
from voc12.classes import PALETTE
from voc12.images import load_label
from voc12.labels import read_annotation

OUTPUTS = ("out_cam", "out_cam_pred", "out_crf", "out_crf_pred")
FUSION = ("--theta", 0.2, "--alpha", 0.000001, "--beta", 0.99999)
DRAWN = PARITY / "synthetic" / "VOC2012"
PHOTOS = SHARED / "parity" / "VOC2012_small"
ROOTS = [DRAWN, pytest.param(PHOTOS, marks=needs_shared)]


def infer(root: Path, weights: Path, *args: object) -> str:
    """Run the script with all threads and return what it prints."""
    words = f"infer_cls.py --voc12_root {root} --weights {weights} --device {devices.name}".split()
    done = subprocess.run([sys.executable, *words, *map(str, args)], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def figure(root: Path, kind: str, image_id: str) -> np.ndarray:
    """Return a parity figure: "cam" and "crf" are scores (n, H, W), the others label maps (H, W)."""
    if root == DRAWN:
        return np.load(PARITY / "synthetic/figures.npz")[f"{kind}_{image_id}"]
    path = SHARED / f"parity/pseudo_labels/{kind}/{image_id}"
    if kind in ("cam", "crf"):
        return np.load(f"{path}.npz")[{"cam": "cam", "crf": "prob"}[kind]]
    return load_label(f"{path}.png")


def check_scores(path: Path, labels: list[int], expected: np.ndarray, difference) -> None:
    found = load_npy_dict(path)
    assert list(found) == labels
    assert all(found[c].dtype == np.float32 and found[c].shape == expected.shape[1:] for c in labels)
    assert difference(np.abs(np.stack(list(found.values())) - expected)) <= devices.limit(1e-3)


def check_labels(path: Path, expected: np.ndarray) -> None:
    found = load_label(path)
    assert found.shape == expected.shape and (found != expected).mean() <= devices.limit(1e-3)


@pytest.mark.parametrize("root", ROOTS)
def test_outputs(root, filled_weights, tmp_path):
    flags = [part for name in OUTPUTS for part in (f"--{name}", tmp_path / name)]
    infer(root, filled_weights, "--infer_list", root / "list.txt", *flags)
    for image_id in (path.stem for path in (root / "JPEGImages").iterdir()):
        classes = np.flatnonzero(read_annotation(root / f"Annotations/{image_id}.xml")).tolist()
        check_scores(tmp_path / f"out_cam/{image_id}.npy", classes, figure(root, "cam", image_id), np.max)
        labels = [0, *(c + 1 for c in classes)]
        check_scores(tmp_path / f"out_crf/{image_id}.npy", labels, figure(root, "crf", image_id), np.mean)
        for output, kind in (("out_cam_pred", "cam_png_theta0.5"), ("out_crf_pred", "crf_png")):
            check_labels(tmp_path / f"{output}/{image_id}.png", figure(root, kind, image_id))
    image = Image.open(tmp_path / f"out_cam_pred/{image_id}.png")
    assert image.mode == "P" and image.getpalette()[: 3 * 21] == PALETTE[:21].flatten().tolist()
    manifest = json.loads((tmp_path / "out_cam_pred/edam_manifest.json").read_text())
    assert manifest["weights_sha256"] == weights_digest(filled_weights) and manifest["theta"] == 0.5


@pytest.mark.parametrize(
    ("root", "ids"),
    [(DRAWN, ["2099_000001", "2099_000002"]), pytest.param(PHOTOS, ["2007_000648", "2007_001416"], marks=needs_shared)],
)
def test_label_pngs_with_saliency(root, ids, filled_weights, tmp_path):
    """The published test command. Labels without saliency are the same files as of a run without it."""
    lines = [f"/JPEGImages/{i}.jpg /SegmentationClassAug/{i}.png\n" for i in ids]
    (tmp_path / "train_aug.txt").write_text("".join(lines))
    same = ("--network", "network.resnet38_EDAM_cls", "--infer_list", tmp_path / "train_aug.txt")
    outputs = [part for name in ("cam", "crf", "plain") for part in (f"--out_{name}_pred", tmp_path / name)]
    infer(root, filled_weights, *same, *outputs, *FUSION, "--sal_path", root / "saliency")
    for image_id in ids:
        for folder, kind in (("cam", "cam_png_saliency"), ("crf", "crf_png_saliency"), ("plain", "crf_png")):
            check_labels(tmp_path / f"{folder}/{image_id}.png", figure(root, kind, image_id))
    files = sorted(path.name for path in (tmp_path / "crf").iterdir())
    assert files == [*(f"{i}.png" for i in ids), "edam_manifest.json"]
    rerun = infer(root, filled_weights, *same, "--out_crf_pred", tmp_path / "plain")
    assert "2 of 2 photos finished already" in rerun


def tiny_flags(drawn: Path, tiny_weights: Path) -> tuple[object, ...]:
    network = ("--network", "network.resnet38_EDAM_tiny", "--weights", tiny_weights)
    return ("--voc12_root", drawn, "--infer_list", "list.txt", *network, "--crf_workers", 0)


def test_reruns(commands, drawn, tiny_weights, tmp_path):
    """Finished photos stay; a list may grow; other settings are refused or, with --overwrite, replace the results."""
    ids = [f"2099_{number:06d}" for number in range(1, 6)]
    flags = (*tiny_flags(drawn, tiny_weights), "--out_cam", "cam", "--out_crf_pred", "crf")
    flags += ("--sal_path", drawn / "saliency")
    (tmp_path / "list.txt").write_text("\n".join([*ids[:3], ids[0]]))  # one of them twice
    assert "3 photos labelled in cam, crf" in commands.run(tmp_path, "infer_cls.py", *flags).stdout
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cam").glob("*.npy")}
    before = {path: content(path) for folder in ("cam", "crf") for path in (tmp_path / folder).iterdir()}
    assert sorted(times) == [f"{i}.npy" for i in ids[:3]]

    (tmp_path / "list.txt").write_text("\n".join(ids))
    (tmp_path / f"crf/{ids[1]}.png").unlink()
    leftover = tmp_path / f"crf/.{ids[1]}.png.{HOST}.999999999.tmp"  # no process has this number
    leftover.write_bytes(b"half")
    done = commands.run(tmp_path, "infer_cls.py", *flags)
    assert "2 of 5 photos finished already" in done.stdout and "5 photos labelled" in done.stdout
    assert not leftover.exists()
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cam").glob("*.npy")}
    assert [after[f"{i}.npy"] == times.get(f"{i}.npy") for i in ids] == [True, False, True, False, False]
    assert all(content(path) == data for path, data in before.items())

    line = commands.error(tmp_path, "infer_cls.py", *flags, "--theta", 0.3)
    assert line.startswith("crf") and "theta 0.5" in line
    assert all(content(path) == data for path, data in before.items())
    commands.run(tmp_path, "infer_cls.py", *flags, "--theta", 0.3, "--overwrite")
    assert json.loads((tmp_path / "crf/edam_manifest.json").read_text())["theta"] == 0.3
    assert len(list((tmp_path / "crf").glob("*.png"))) == 5

    shutil.copytree(drawn / "saliency", tmp_path / "moved")
    moved = (*flags, "--theta", 0.3, "--sal_path", "moved")
    assert "5 of 5 photos finished already" in commands.run(tmp_path, "infer_cls.py", *moved).stdout
    shutil.copy(tmp_path / f"moved/{ids[1]}.png", tmp_path / f"moved/{ids[0]}.png")
    assert "sal_sha256" in commands.error(tmp_path, "infer_cls.py", *moved)


def test_unused_flags_and_all_background_labels_are_noted(commands, drawn, tiny_weights, tmp_path):
    """The CRF computes its own background: theta, alpha and beta count for its labels with saliency only."""
    (tmp_path / "list.txt").write_text("2099_000001")
    flags = (*tiny_flags(drawn, tiny_weights), "--out_crf_pred", "crf")
    done = commands.run(tmp_path, "infer_cls.py", *flags, "--theta", 0.2, "--alpha", 0.1)
    assert len(done.stderr) == 1 and "--theta, --alpha" in done.stderr[0]
    assert "1 of 1 photo finished already" in commands.run(tmp_path, "infer_cls.py", *flags).stdout
    saliency = (*flags, "--sal_path", drawn / "saliency")
    assert "sal_path None" in commands.error(tmp_path, "infer_cls.py", *saliency)
    masks = (*tiny_flags(drawn, tiny_weights), "--sal_path", drawn / "saliency", "--out_cam_pred", "cam")
    assert "--keep_share" in commands.run(tmp_path, "infer_cls.py", *masks, "--keep_share", 0.1).stderr[0]
    assert "1 of 1 photo finished already" in commands.run(tmp_path, "infer_cls.py", *masks).stdout
    dark = commands.run(tmp_path, "infer_cls.py", *saliency, "--theta", 2.5, "--alpha", 1, "--overwrite")
    assert len(dark.stderr) == 1 and "all-background" in dark.stderr[0] and "2099_000001" in dark.stderr[0]
