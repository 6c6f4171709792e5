"""infer_cls.py on the command line: parity figures and reruns."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import devices
import numpy as np
import pytest
from conftest import DRAWN, PHOTOS, REPO, figure, needs_shared
from devices import content
from PIL import Image

from infer_cls import get_parser, write_labels
from pseudo_label.fusion import pseudo_label
from pseudo_label.loop import Photo
from pseudo_label.manifest import weights_digest
from tool.files import HOST, load_npy_dict
from voc12.classes import PALETTE
from voc12.images import load_label
from voc12.labels import read_annotation


def check_scores(path: Path, labels: list[int], expected: np.ndarray, difference) -> np.ndarray:
    """Compare a file of scores with a figure and return its scores (n, H, W)."""
    found = load_npy_dict(path)
    assert list(found) == labels
    assert all(found[c].dtype == np.float32 and found[c].shape == expected.shape[1:] for c in labels)
    scores = np.stack(list(found.values()))
    assert difference(np.abs(scores - expected)) <= devices.limit(1e-3)
    return scores


def check_labels(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape and (found != expected).mean() <= devices.limit(1e-3)


def test_keep_share_restores_what_saliency_removed(tmp_path):
    Image.new("L", (8, 6)).save(tmp_path / "dark.png")
    flags = f"--weights w --sal_path S --out_crf_pred {tmp_path} --out_plain_pred {tmp_path}/plain --keep_share".split()
    (tmp_path / "plain").mkdir()
    maps = np.repeat([[[0.9] * 4 + [0.0] * 4], [[0.0] * 4 + [0.9] * 4]], 6, 1).astype(np.float32)
    for share, kept in (("0", set()), ("1", {4, 8})):
        given = get_parser().parse_args([*flags, share])
        write_labels(Photo("a", np.zeros((6, 8, 3), np.uint8)), [3, 7], maps, tmp_path / "dark.png", given)
        assert set(np.unique(load_label(tmp_path / "a.png"))) - {0} == kept
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "plain/a.png").read_bytes()


@pytest.mark.parametrize("root", [DRAWN, pytest.param(PHOTOS, marks=needs_shared)])
def test_published_command(root, filled_weights, tmp_path):
    """Run it with all threads. Labels without saliency are the same files as of a run without it."""
    same = f"infer_cls.py --voc12_root {root} --infer_list {root}/list.txt --weights {filled_weights} --device {devices.name}"
    command = f"{same} --sal_path {root}/saliency --theta 0.2 --alpha 0.000001 --beta 0.99999"
    command += "".join(
        f" --out_{name} {tmp_path}/{name}" for name in ("cam", "cam_pred", "crf", "crf_pred", "plain_pred")
    )
    subprocess.run([sys.executable, *command.split()], cwd=REPO, check=True)
    ids = [path.stem for path in (root / "JPEGImages").iterdir()]
    for image_id in ids:
        classes = np.flatnonzero(read_annotation(root / f"Annotations/{image_id}.xml"))
        maps = check_scores(tmp_path / f"cam/{image_id}.npy", [*classes], figure(root, "cam", image_id), np.max)
        check_labels(pseudo_label(maps, classes), figure(root, "cam_png_theta0.5", image_id))
        labels = [0, *(classes + 1)]
        check_scores(tmp_path / f"crf/{image_id}.npy", labels, figure(root, "crf", image_id), np.mean)
        for output, kind in (("cam", "cam_png_saliency"), ("crf", "crf_png_saliency"), ("plain", "crf_png")):
            check_labels(load_label(tmp_path / f"{output}_pred/{image_id}.png"), figure(root, kind, image_id))
    image = Image.open(tmp_path / f"crf_pred/{image_id}.png")
    assert image.mode == "P" and image.getpalette()[: 3 * 21] == PALETTE[:21].flatten().tolist()
    names = sorted(path.name for path in (tmp_path / "crf_pred").iterdir())
    assert names == [*(f"{i}.png" for i in sorted(ids)), "edam_manifest.json"]
    manifest = json.loads((tmp_path / "crf_pred/edam_manifest.json").read_text())
    assert manifest["weights_sha256"] == weights_digest(filled_weights) and manifest["theta"] == 0.2
    command = f"{same} --out_crf_pred {tmp_path}/plain_pred"
    rerun = subprocess.run([sys.executable, *command.split()], cwd=REPO, capture_output=True, text=True, check=True)
    assert f"{len(ids)} of {len(ids)} photos finished already" in rerun.stdout


def test_reruns(commands, drawn, tiny_weights, tmp_path):
    """Finished photos stay; a list may grow; other settings are refused or, with --overwrite, replace the results."""
    ids = [f"2099_{number:06d}" for number in range(1, 6)]
    flags = ("--voc12_root", drawn, "--infer_list", "list.txt", "--network", "network.resnet38_EDAM_tiny")
    flags += ("--weights", tiny_weights, "--crf_workers", 0, "--out_cam", "cam", "--out_crf_pred", "crf")
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

    refused = commands.run(tmp_path, "infer_cls.py", *flags, "--theta", 0.3, status=1)
    assert "crf: " in refused.stderr[0] and "theta 0.5" in refused.stderr[0]
    assert "finished already" not in refused.stdout
    assert all(content(path) == data for path, data in before.items())
    flags += ("--theta", 2.5, "--alpha", 1)
    dark = commands.run(tmp_path, "infer_cls.py", *flags, "--overwrite").stderr[0]
    assert "photos with image labels but an all-background pseudo label" in dark and ids[0] in dark
    assert json.loads((tmp_path / "crf/edam_manifest.json").read_text())["theta"] == 2.5
    assert len(list((tmp_path / "crf").glob("*.png"))) == 5

    shutil.copytree(drawn / "saliency", tmp_path / "moved")
    moved = (*flags, "--sal_path", "moved")
    assert "5 of 5 photos finished already" in commands.run(tmp_path, "infer_cls.py", *moved).stdout
    shutil.copy(tmp_path / f"moved/{ids[1]}.png", tmp_path / f"moved/{ids[0]}.png")
    assert "sal_sha256" in commands.error(tmp_path, "infer_cls.py", *moved)
