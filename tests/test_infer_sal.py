"""infer_sal.py on the command line: maps of a plain computation, and faults."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from training import image_id

from tests.small_deeplab import Net as DeepLab
from tests.small_poolnet import JointNet, Net

IDS = [image_id(number) for number in range(1, 7)]
SMALLEST = 111
FLAGS = ("--img_root", "photos", "--out_sal", "sal", "--network", "tests.small_poolnet", "--num_workers", 0)


@pytest.fixture
def photos(drawn, tmp_path) -> Path:
    """Return a folder of photos, the first three large enough for the network."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, i in enumerate(IDS):
        photo = Image.open(drawn / f"JPEGImages/{i}.jpg")
        photo.resize((130, 112) if number < 3 else (60, 45)).save(folder / f"{i}.png")
    return folder


def plain_map(net, path: Path) -> np.ndarray:
    """Return the map of a photo as the published test loop computes it, in float."""
    picture = net.input.normalise(torch.from_numpy(np.array(Image.open(path).convert("RGB"))))[None]
    size = picture.shape[2:]
    factor = max(1, SMALLEST / min(size))
    larger = [max(SMALLEST, round(side * factor)) for side in size] if factor > 1 else size
    with torch.no_grad():
        logits = net.eval()(F.interpolate(picture, larger, mode="bilinear", align_corners=False))
    return 255 * F.interpolate(logits, size, mode="bilinear", align_corners=False)[0, 0].sigmoid().numpy()


@pytest.mark.parametrize("kind", [Net, JointNet])
def test_maps(kind, commands, photos, tmp_path):
    torch.manual_seed(1)
    net = kind()
    torch.save(net.state_dict(), tmp_path / "w.pth")
    assert commands.run(tmp_path, "infer_sal.py", *FLAGS, "--weights", "w.pth").stderr == []
    for i in IDS:
        found = Image.open(tmp_path / f"sal/{i}.png")
        assert found.mode == "L" and found.size == Image.open(photos / f"{i}.png").size
        assert np.abs(np.array(found) - plain_map(net, photos / f"{i}.png")).max() <= 0.51
    again = commands.run(tmp_path, "infer_sal.py", *FLAGS, "--weights", "w.pth")
    assert "6 of 6 photos finished already" in again.stdout


def test_bad_flags_and_weights(commands, photos, tiny_weights, tmp_path):
    torch.save(DeepLab().state_dict(), tmp_path / "deeplab.pth")
    state = Net().state_dict()
    resnet = {name.removeprefix("base.resnet."): tensor for name, tensor in state.items() if ".resnet." in name}
    torch.save(resnet, tmp_path / "resnet.pth")
    assert "--img_root" in commands.error(tmp_path, "infer_sal.py", *FLAGS[2:], "--weights", "resnet.pth")
    for weights in (tiny_weights, "deeplab.pth", "resnet.pth"):
        assert Path(weights).name in commands.error(tmp_path, "infer_sal.py", *FLAGS, "--weights", weights)
