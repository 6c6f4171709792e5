"""infer_deeplab.py through the command line."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from training import IDS

from pseudo_label.crf import DEEPLAB, dense_crf
from tests.small_deeplab import Net
from voc12.images import load_label


@pytest.fixture(scope="module")
def net() -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Net().eval()


@pytest.fixture
def photos(drawn, net, tmp_path) -> Path:
    """A dataset's folder, with a list of its photos and weights in the working folder."""
    (tmp_path / "VOC2012/JPEGImages").mkdir(parents=True)
    for i in IDS:
        shutil.copy(drawn / f"JPEGImages/{i}.jpg", tmp_path / "VOC2012/JPEGImages")
    (tmp_path / "list.txt").write_text("\n".join(IDS))
    torch.save(net.state_dict(), tmp_path / "net.pth")
    return tmp_path / "VOC2012"


def flags(root: Path, *more: object) -> tuple[object, ...]:
    data = ("--voc12_root", root, "--infer_list", "list.txt", "--network", "tests.small_deeplab")
    return (*data, "--weights", "net.pth", "--num_workers", 0, *more)


def test_outputs_against_a_plain_computation(photos, net, commands, tmp_path):
    """A rerun does nothing, and other settings are refused."""
    arguments = flags(photos, "--out_pred", "pred", "--out_crf_pred", "crf", "--out_prob", "prob", "--flip")
    commands.run(tmp_path, "infer_deeplab.py", *arguments)
    for i in IDS[:3]:
        photo = np.array(Image.open(photos / f"JPEGImages/{i}.jpg"))
        views = [net.input.normalise(torch.from_numpy(view.copy()))[None] for view in (photo, photo[:, ::-1])]
        with torch.no_grad():
            logits = [F.interpolate(net(v), photo.shape[:2], mode="bilinear", align_corners=False) for v in views]
        probability = (logits[0].softmax(1) + logits[1].softmax(1).flip(-1))[0].numpy() / 2
        np.testing.assert_allclose(np.load(tmp_path / f"prob/{i}.npy"), probability, atol=1e-3)
        assert (load_label(tmp_path / f"pred/{i}.png") == probability.argmax(0)).mean() > 0.999
        refined = dense_crf(photo, probability, DEEPLAB).argmax(0)
        assert (load_label(tmp_path / f"crf/{i}.png") == refined).mean() > 0.99
    manifest = json.loads((tmp_path / "crf/edam_manifest.json").read_text())
    assert manifest["scales"] == [0.5] and manifest["flip"] is True
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*.png")}
    commands.run(tmp_path, "infer_deeplab.py", *arguments)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*.png")} == times and len(times) == 16
    line = commands.error(tmp_path, "infer_deeplab.py", *arguments, "--scales", 2)
    assert "pred" in line and "scales" in line


@pytest.mark.parametrize("kind", ["truncated", "tiny"])
def test_bad_photos_are_skipped(kind, photos, commands, tmp_path):
    bad = photos / f"JPEGImages/{IDS[1]}.jpg"
    if kind == "tiny":
        Image.new("RGB", (1, 1)).save(bad)
    else:
        bad.write_bytes(b"\xff\xd8\xff cut")
    arguments = flags(photos, "--out_pred", "p")
    assert IDS[1] in commands.error(tmp_path, "infer_deeplab.py", *arguments)
    done = commands.run(tmp_path, "infer_deeplab.py", *arguments, "--skip_errors", status=1)
    assert len(list((tmp_path / "p").glob("*.png"))) == 7 and IDS[1] in done.stderr[0]


def test_output_folder_that_holds_the_photos(photos, commands, tmp_path):
    """PNGs among the JPEGs would make two photos of each id."""
    before = sorted((photos / "JPEGImages").iterdir())
    line = commands.error(tmp_path, "infer_deeplab.py", *flags(photos, "--out_pred", photos / "JPEGImages"))
    assert "--out_pred" in line and sorted((photos / "JPEGImages").iterdir()) == before


@pytest.mark.parametrize(
    ("script", "network", "more"),
    [
        ("infer_deeplab.py", "network.resnet38_EDAM_tiny", "--out_pred p --infer_list list.txt"),
        ("train_deeplab.py", "network.resnet38_EDAM_tiny", "--label_dir labels --train_list list.txt"),
        ("infer_cls.py", "tests.small_deeplab", "--out_cam p --infer_list list.txt"),
    ],
)
def test_networks_for_other_work(script, network, more, photos, commands, tmp_path):
    (tmp_path / "labels").mkdir()
    (photos / "Annotations").mkdir()
    for i in IDS:
        (photos / f"Annotations/{i}.xml").write_text("<annotation><object><name>cat</name></object></annotation>")
    same = ("--voc12_root", photos, "--weights", "net.pth", "--network", network)
    assert f"--network {network}" in commands.error(tmp_path, script, *same, *more.split())
