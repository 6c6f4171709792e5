"""infer_sal.py through the command line: the maps of a plain computation, of which infer_cls.py makes use; reruns; faults."""

import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from disks import FULL, small_disk
from PIL import Image
from training import image_id

from tests.small_deeplab import Net as DeepLab
from tests.small_poolnet import JointNet, Net

IDS = [image_id(number) for number in range(1, 7)]
SMALLEST = 111


def saved(net: torch.nn.Module, path: Path) -> Path:
    torch.save(net.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    return saved(Net(), tmp_path_factory.mktemp("weights") / "final.pth")


@pytest.fixture
def photos(drawn, tmp_path) -> Path:
    """A folder of photos, not a devkit, the first three large enough for the network."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, i in enumerate(IDS):
        photo = Image.open(drawn / f"JPEGImages/{i}.jpg")
        photo.resize((130, 112) if number < 3 else (60, 45)).save(folder / f"{i}.png")
    return folder


def flags(photos: Path, weights: Path, *more: object) -> tuple[object, ...]:
    network = ("--network", "tests.small_poolnet", "--weights", weights, "--num_workers", 0)
    return ("--img_root", photos, "--out_sal", "sal", *network, *more)


def plain_map(net, path: Path) -> np.ndarray:
    """The map of a photo in float, one after the other as POOLNET's published test loop computes it."""
    picture = net.input.normalise(torch.from_numpy(np.array(Image.open(path).convert("RGB"))))[None]
    size = picture.shape[2:]
    factor = max(1, SMALLEST / min(size))
    with torch.no_grad():
        if factor > 1:
            larger = [max(SMALLEST, round(side * factor)) for side in size]
            logits = net.eval()(F.interpolate(picture, larger, mode="bilinear", align_corners=False))
            return 255 * F.interpolate(logits, size, mode="bilinear", align_corners=False)[0, 0].sigmoid().numpy()
        return 255 * net.eval()(picture)[0, 0].sigmoid().numpy()


@pytest.mark.parametrize("kind", [Net, JointNet])
def test_maps(kind, commands, photos, tmp_path):
    torch.manual_seed(1)
    net = kind()
    arguments = flags(photos, saved(net, tmp_path / "w.pth"))
    done = commands.run(tmp_path, "infer_sal.py", *arguments)
    assert ("without its edge branch" in done.stdout) == (kind is Net)
    small = ", ".join(IDS[3:])
    assert done.stderr == [f"note: 3 photos too small for PoolNet, computed enlarged: {small}"]
    for i in IDS:
        found = Image.open(tmp_path / f"sal/{i}.png")
        assert found.mode == "L" and found.size == Image.open(photos / f"{i}.png").size
        assert np.abs(np.array(found) - plain_map(net, photos / f"{i}.png")).max() <= 0.51
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "sal").glob("*.png")}
    assert "6 of 6 photos finished already" in commands.run(tmp_path, "infer_sal.py", *arguments).stdout
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "sal").glob("*.png")}


def test_maps_of_a_devkit_go_into_infer_cls(commands, drawn, weights, tiny_weights, tmp_path):
    (tmp_path / "list.txt").write_text("\n".join(IDS))
    data = ("--voc12_root", drawn, "--infer_list", "list.txt", "--num_workers", 0)
    commands.run(tmp_path, "infer_sal.py", *data, *flags(Path("x"), weights)[2:])
    network = ("--network", "network.resnet38_EDAM_tiny", "--weights", tiny_weights)
    done = commands.run(
        tmp_path, "infer_cls.py", *data, *network, "--sal_path", "sal", "--theta", 0.2, "--out_cam_pred", "out"
    )
    assert "6 photos labelled in out" in done.stdout


def test_faults(commands, photos, weights, tiny_weights, tmp_path):
    def line(*arguments: object, **options) -> str:
        return commands.error(tmp_path, "infer_sal.py", *arguments, **options)

    arguments = flags(photos, weights)
    assert line(*arguments[2:]) == "give the photos: either --voc12_root with --infer_list, or --img_root"
    assert line("--img_root", "nowhere", *arguments[2:]) == "nowhere is no folder: name the folder of the photos"
    assert "tiny.pth" in line(*flags(photos, tiny_weights))
    deeplab = saved(DeepLab(), tmp_path / "deeplab.pth")
    assert f"{deeplab}: " in line(*flags(photos, deeplab))
    state = torch.load(weights, weights_only=True)
    resnet = {name.removeprefix("base.resnet."): tensor for name, tensor in state.items() if ".resnet." in name}
    torch.save(resnet, tmp_path / "resnet.pth")
    assert line(*flags(photos, tmp_path / "resnet.pth")).endswith(
        "no trained PoolNet, which is what makes saliency maps"
    )
    (tmp_path / "VOC/JPEGImages").mkdir(parents=True)
    shutil.copy(photos / f"{IDS[0]}.png", tmp_path / "VOC/JPEGImages")
    (tmp_path / "list.txt").write_text("\n".join(IDS[:2]))
    missing = line("--voc12_root", "VOC", "--infer_list", "list.txt", *arguments[2:])
    assert missing.startswith(f"photo VOC/JPEGImages/{IDS[1]}.jpg does not exist (--skip_errors goes on without it)")
    sound = (photos / f"{IDS[1]}.png").read_bytes()
    (photos / f"{IDS[1]}.png").write_bytes(sound[: len(sound) // 2])
    assert re.match(rf"photo .*{IDS[1]}.png cannot be read: .*\(--skip_errors goes on without it\)$", line(*arguments))
    done = commands.run(tmp_path, "infer_sal.py", *arguments, "--skip_errors", status=1)
    assert "5 photos labelled in sal" in done.stdout
    (photos / f"{IDS[1]}.png").write_bytes(sound)
    shutil.rmtree(tmp_path / "sal")
    with small_disk(tmp_path / "sal", 9_000) as limits:
        assert re.match(rf"cannot write sal/2099_\d+\.png: {FULL}$", line(*arguments, limits=limits))
    command = commands.start(tmp_path, "infer_sal.py", *arguments)
    assert command.until(lambda: len(list((tmp_path / "sal").glob("[!.]*.png"))) >= 4)
    command.send(signal.SIGKILL)
    commands.run(tmp_path, "infer_sal.py", *arguments)
    assert sorted(path.stem for path in (tmp_path / "sal").glob("*.png")) == IDS
