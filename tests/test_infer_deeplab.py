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

FLAGS = ("--voc12_root", "VOC2012", "--infer_list", "list.txt", "--weights", "net.pth", "--num_workers", 0)
FLAGS += ("--network", "tests.small_deeplab", "--out_pred", "pred")


@pytest.fixture
def photos(drawn, tmp_path) -> Path:
    """Return a folder JPEGImages in a dataset's; a list of its photos and weights are in the working folder."""
    folder = tmp_path / "VOC2012/JPEGImages"
    folder.mkdir(parents=True)
    for i in IDS:
        shutil.copy(drawn / f"JPEGImages/{i}.jpg", folder)
    (tmp_path / "list.txt").write_text("\n".join(IDS))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(Net().state_dict(), tmp_path / "net.pth")
    return folder


def test_outputs_against_a_plain_computation(photos, commands, tmp_path):
    """A rerun does nothing, and other settings are refused."""
    arguments = (*FLAGS, "--out_crf_pred", "crf", "--out_prob", "prob", "--flip")
    commands.run(tmp_path, "infer_deeplab.py", *arguments)
    net = Net().eval()
    net.load_state_dict(torch.load(tmp_path / "net.pth", weights_only=True))
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
    assert "8 of 8 photos finished already" in commands.run(tmp_path, "infer_deeplab.py", *arguments).stdout
    line = commands.error(tmp_path, "infer_deeplab.py", *arguments, "--scales", 2)
    assert "pred" in line and "scales" in line


def test_bad_photos_and_networks(photos, commands, tmp_path):
    line = commands.error(tmp_path, "infer_deeplab.py", *FLAGS, "--network", "network.resnet38_EDAM_tiny")
    assert "--network network.resnet38_EDAM_tiny" in line
    Image.new("RGB", (1, 1)).save(photos / f"{IDS[1]}.jpg")
    done = commands.run(tmp_path, "infer_deeplab.py", *FLAGS, "--skip_errors", status=1)
    assert IDS[1] in done.stderr[0] and "--scales" in done.stderr[0] and len(done.stderr) == 2
    assert len(list((tmp_path / "pred").glob("*.png"))) == 7
