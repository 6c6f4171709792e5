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

from pseudo_label.manifest import weights_digest
from tool.files import HOST, load_npy_dict
from voc12.classes import PALETTE
from voc12.images import load_label
from voc12.labels import read_annotation

OUTPUTS = ("out_cam", "out_cam_pred", "out_crf", "out_crf_pred")
FUSION = ("--theta", "0.2", "--alpha", "0.000001", "--beta", "0.99999")
SYNTHETIC = PARITY / "synthetic" / "VOC2012"
PHOTOS = SHARED / "parity" / "VOC2012_small"


def infer(root: Path, weights: Path, *args: object) -> str:
    """Run the script with all threads and return what it prints."""
    command = [
        sys.executable,
        "infer_cls.py",
        "--voc12_root",
        root,
        "--weights",
        weights,
        "--device",
        devices.name,
        *args,
    ]
    done = subprocess.run([str(part) for part in command], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def same_maps(path: Path, classes: list[int], expected: np.ndarray) -> None:
    found = load_npy_dict(path)
    assert list(found) == classes
    assert all(found[c].dtype == np.float32 and found[c].shape == expected.shape[1:] for c in classes)
    assert max(np.abs(found[c] - e).max() for c, e in zip(classes, expected, strict=True)) <= devices.limit(1e-3)


def same_probabilities(path: Path, labels: list[int], expected: np.ndarray) -> None:
    found = load_npy_dict(path)
    assert list(found) == labels
    assert np.mean([np.abs(found[c] - e).mean() for c, e in zip(labels, expected, strict=True)]) <= devices.limit(1e-3)


def same_labels(path: Path, expected: np.ndarray) -> None:
    found = load_label(path)
    assert found.shape == expected.shape and (found != expected).mean() <= devices.limit(1e-3)


@pytest.fixture(scope="module")
def synthetic() -> dict[str, np.ndarray]:
    return dict(np.load(PARITY / "synthetic" / "figures.npz"))


def test_outputs_of_drawn_pictures(synthetic, filled_weights, tmp_path):
    folders = {name: tmp_path / name for name in OUTPUTS}
    flags = [part for name, folder in folders.items() for part in (f"--{name}", folder)]
    infer(SYNTHETIC, filled_weights, "--infer_list", SYNTHETIC / "list.txt", *flags)
    for image_id in ("2099_000001", "2099_000002"):
        classes = np.flatnonzero(read_annotation(SYNTHETIC / f"Annotations/{image_id}.xml")).tolist()
        same_maps(folders["out_cam"] / f"{image_id}.npy", classes, synthetic[f"cam_{image_id}"])
        labels = [0, *(c + 1 for c in classes)]
        same_probabilities(folders["out_crf"] / f"{image_id}.npy", labels, synthetic[f"crf_{image_id}"])
        same_labels(folders["out_cam_pred"] / f"{image_id}.png", synthetic[f"cam_png_theta0.5_{image_id}"])
        same_labels(folders["out_crf_pred"] / f"{image_id}.png", synthetic[f"crf_png_{image_id}"])
    manifest = json.loads((folders["out_cam_pred"] / "edam_manifest.json").read_text())
    assert manifest["weights_sha256"] == weights_digest(filled_weights) and manifest["theta"] == 0.5


def test_label_pngs_with_saliency_of_drawn_pictures(synthetic, filled_weights, tmp_path):
    flags = (
        "--out_cam_pred",
        tmp_path / "cam",
        "--out_crf_pred",
        tmp_path / "crf",
        "--out_plain_pred",
        tmp_path / "plain",
        "--sal_path",
        SYNTHETIC / "saliency",
    )
    infer(SYNTHETIC, filled_weights, "--infer_list", SYNTHETIC / "list.txt", *flags, *FUSION)
    for image_id in ("2099_000001", "2099_000002"):
        same_labels(tmp_path / f"cam/{image_id}.png", synthetic[f"cam_png_saliency_{image_id}"])
        same_labels(tmp_path / f"crf/{image_id}.png", synthetic[f"crf_png_saliency_{image_id}"])
        same_labels(tmp_path / f"plain/{image_id}.png", synthetic[f"crf_png_{image_id}"])
    # The same files as of a run without saliency, which finds them finished.
    outputs = ("--out_crf_pred", tmp_path / "plain")
    assert "2 of 2 photos finished already" in infer(
        SYNTHETIC, filled_weights, "--infer_list", SYNTHETIC / "list.txt", *outputs
    )


@needs_shared
def test_outputs_of_photos(filled_weights, tmp_path):
    flags = [part for name in OUTPUTS for part in (f"--{name}", tmp_path / name)]
    infer(PHOTOS, filled_weights, "--infer_list", PHOTOS / "list.txt", *flags)
    figures = PHOTOS.parent / "pseudo_labels"
    for image_id in (path.stem for path in sorted((PHOTOS / "JPEGImages").iterdir())):
        maps, crf = (np.load(figures / kind / f"{image_id}.npz") for kind in ("cam", "crf"))
        same_maps(tmp_path / f"out_cam/{image_id}.npy", maps["classes"].tolist(), maps["cam"])
        same_probabilities(tmp_path / f"out_crf/{image_id}.npy", crf["classes"].tolist(), crf["prob"])
        for output, figure in (("out_cam_pred", "cam_png_theta0.5"), ("out_crf_pred", "crf_png")):
            same_labels(tmp_path / f"{output}/{image_id}.png", load_label(figures / figure / f"{image_id}.png"))


@needs_shared
@pytest.mark.parametrize(
    ("output", "figure", "ids"),
    [
        # The published test command
        ("--out_crf_pred", "crf_png_saliency", ("2007_000648",)),
        ("--out_cam_pred", "cam_png_saliency", ("2007_001416",)),
    ],
)
def test_label_pngs_with_saliency_of_photos(output, figure, ids, filled_weights, tmp_path):
    (tmp_path / "train_aug.txt").write_text(
        "".join(f"/JPEGImages/{i}.jpg /SegmentationClassAug/{i}.png\n" for i in ids)
    )
    network = ("--network", "network.resnet38_EDAM_cls", "--infer_list", tmp_path / "train_aug.txt")
    infer(PHOTOS, filled_weights, *network, output, tmp_path / "out", *FUSION, "--sal_path", PHOTOS / "saliency")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *(f"{i}.png" for i in ids),
        "edam_manifest.json",
    ]
    for image_id in ids:
        same_labels(
            tmp_path / f"out/{image_id}.png", load_label(PHOTOS.parent / f"pseudo_labels/{figure}/{image_id}.png")
        )


def test_reruns(commands, drawn, tiny_weights, tmp_path):
    """Finished photos stay; a list may grow; other settings are refused or, with --overwrite, replace the results."""
    ids = [f"2099_{number:06d}" for number in range(1, 6)]
    flags = ("--voc12_root", drawn, "--weights", tiny_weights, "--network", "network.resnet38_EDAM_tiny")
    flags += ("--infer_list", "list.txt", "--out_cam", "cam", "--out_crf_pred", "crf", "--num_workers", 0)
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
    moved = commands.run(tmp_path, "infer_cls.py", *flags, "--theta", 0.3, "--sal_path", "moved")
    assert "5 of 5 photos finished already" in moved.stdout


def test_unused_settings_do_not_matter(commands, drawn, tiny_weights, tmp_path):
    """The CRF computes its own background: theta, alpha and beta count for its labels with saliency only."""
    (tmp_path / "list.txt").write_text("2099_000001")
    flags = ("--voc12_root", drawn, "--weights", tiny_weights, "--network", "network.resnet38_EDAM_tiny")
    flags += ("--infer_list", "list.txt", "--out_crf_pred", "crf", "--num_workers", 0, "--crf_workers", 0)
    done = commands.run(tmp_path, "infer_cls.py", *flags, "--theta", 0.2, "--alpha", 0.1)
    assert len(done.stderr) == 1 and "--theta, --alpha" in done.stderr[0]
    assert "1 of 1 photo finished already" in commands.run(tmp_path, "infer_cls.py", *flags).stdout
    saliency = ("--sal_path", drawn / "saliency")
    assert "sal_path None" in commands.error(tmp_path, "infer_cls.py", *flags, *saliency)
    assert "--sal_path" in commands.error(tmp_path, "infer_cls.py", *flags, "--out_plain_pred", "plain")


def test_label_pngs_are_palette_images(commands, drawn, tiny_weights, tmp_path):
    from PIL import Image

    (tmp_path / "list.txt").write_text("2099_000001\r\n\r\n")
    flags = ("--voc12_root", drawn, "--weights", tiny_weights, "--network", "network.resnet38_EDAM_tiny")
    commands.run(
        tmp_path, "infer_cls.py", *flags, "--infer_list", "list.txt", "--out_cam_pred", "a/b", "--crf_workers", 0
    )
    image = Image.open(tmp_path / "a/b/2099_000001.png")
    assert image.mode == "P" and image.size == Image.open(drawn / "JPEGImages/2099_000001.jpg").size
    assert image.getpalette()[: 3 * 21] == PALETTE[:21].flatten().tolist()


def test_all_background_labels_are_noted(commands, drawn, tiny_weights, tmp_path):
    (tmp_path / "list.txt").write_text("2099_000001")
    flags = ("--voc12_root", drawn, "--weights", tiny_weights, "--network", "network.resnet38_EDAM_tiny")
    flags += ("--infer_list", "list.txt", "--out_cam_pred", "out", "--crf_workers", 0)
    done = commands.run(
        tmp_path, "infer_cls.py", *flags, "--sal_path", drawn / "saliency", "--theta", 2.5, "--alpha", 1
    )
    assert len(done.stderr) == 1 and "all-background" in done.stderr[0] and "2099_000001" in done.stderr[0]
