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
    """A folder JPEGImages in a dataset's, with a list of its photos and weights in the working folder."""
    folder = tmp_path / "VOC2012/JPEGImages"
    folder.mkdir(parents=True)
    for i in IDS:
        shutil.copy(drawn / f"JPEGImages/{i}.jpg", folder)
    (tmp_path / "list.txt").write_text("\n".join(IDS))
    torch.save(net.state_dict(), tmp_path / "net.pth")
    return folder


FLAGS = ("--voc12_root", "VOC2012", "--infer_list", "list.txt", "--weights", "net.pth", "--network")
SMALL = (*FLAGS, "tests.small_deeplab", "--num_workers", 0)


def test_outputs_against_a_plain_computation(photos, net, commands, tmp_path):
    """A rerun does nothing, and other settings are refused."""
    arguments = (*SMALL, "--out_pred", "pred", "--out_crf_pred", "crf", "--out_prob", "prob", "--flip")
    commands.run(tmp_path, "infer_deeplab.py", *arguments)
    for i in IDS[:3]:
        photo = np.array(Image.open(photos / f"{i}.jpg"))
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


def test_bad_photos_are_skipped(photos, commands, tmp_path):
    Image.new("RGB", (1, 1)).save(photos / f"{IDS[1]}.jpg")
    assert IDS[1] in commands.error(tmp_path, "infer_deeplab.py", *SMALL, "--out_pred", "p")
    (photos / f"{IDS[2]}.jpg").write_bytes(b"\xff\xd8\xff cut")
    assert IDS[2] in commands.error(tmp_path, "infer_deeplab.py", *SMALL, "--out_pred", "p")
    done = commands.run(tmp_path, "infer_deeplab.py", *SMALL, "--out_pred", "p", "--skip_errors", status=1)
    assert len(list((tmp_path / "p").glob("*.png"))) == 6 and len(done.stderr) == 3


def test_network_for_other_work(photos, commands, tmp_path):
    line = commands.error(tmp_path, "infer_deeplab.py", *FLAGS, "network.resnet38_EDAM_tiny", "--out_pred", "p")
    assert "--network network.resnet38_EDAM_tiny" in line
