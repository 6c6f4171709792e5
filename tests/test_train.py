"""The three trainings through the command line: killed, full disk, bad files, settings, pictures."""

import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from disks import FULL, small_disk
from PIL import Image
from training import CASES, IDS, Case, curve, events, make_data, same_run, same_tensors

from tests import small_deeplab, small_poolnet

STEPS = 6


@pytest.fixture(scope="module")
def data(drawn, tmp_path_factory) -> Path:
    """Data of all cases; not to be changed."""
    return make_data(drawn, tmp_path_factory.mktemp("data") / "data")


@pytest.fixture
def broken(data, tmp_path) -> Path:
    """A copy of the data for a test to break."""
    return shutil.copytree(data, tmp_path / "data")


@pytest.fixture(scope="module", params=CASES)
def case(request) -> Case:
    return CASES[request.param]


@pytest.fixture(scope="module")
def whole(case, commands, data, tmp_path_factory) -> Path:
    """Folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    commands.run(folder, case.script, *case.flags(data, "--vis_every", 3, "--save_every", 1))
    return folder


def test_pictures_in_tensorboard(whole, case):
    found = events(whole / "runs/s")
    tags = found.Tags()["images"]
    assert len(tags) == 4 and case.pictures.format(IDS[0]) in tags
    assert all([picture.step for picture in found.Images(tag)] == [2, 5] for tag in tags)
    assert found.Images(tags[0])[0].width >= 2 * 64  # the photo, and what the network makes of it


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_and_resumed(case, whole, commands, data, tmp_path, workers):
    flags = case.flags(data, "--vis_every", 3, "--save_every", 1, "--resume", "--num_workers", workers)
    state = tmp_path / "checkpoints/s/state.pth"
    for after in (1, 4):
        command = commands.start(tmp_path, case.script, *flags)
        assert command.until(
            lambda after=after: state.is_file() and torch.load(state, weights_only=True)["step"] >= after
        )
        killed = command.send(signal.SIGKILL) == -signal.SIGKILL
        assert killed or after == 4  # on a busy machine the last two steps may end before the signal
    done = commands.run(tmp_path, case.script, *flags)
    assert re.search(rf"resumed checkpoints/s/state.pth after step [1-6] of {STEPS}", done.stdout)
    assert same_run(tmp_path, whole, "s")


def test_full_disk_of_checkpoints(case, whole, commands, data, tmp_path):
    session, flags = whole / "checkpoints/s", case.flags(data, "--save_every", 1)
    room = sum((session / name).stat().st_size for name in ("s.pth", "s.pth", "state.pth")) + 2000
    with small_disk(tmp_path / "checkpoints", room) as limits:
        line = commands.error(tmp_path, case.script, *flags, limits=limits)
    assert re.search(rf"cannot write checkpoints/s/.*{FULL}", line)
    kept = {path.name for path in (tmp_path / "checkpoints/s").iterdir()}
    assert {"settings.json", "train.log"} <= kept <= {path.name for path in session.iterdir()}  # no half of a file
    commands.run(tmp_path, case.script, *flags, "--resume")
    assert same_tensors(session / "s.pth", tmp_path / "checkpoints/s/s.pth")


def test_other_settings_are_refused(case, whole, commands, data, tmp_path):
    flags = case.flags(data, "--resume", whole / "checkpoints/s")
    for changed in ("--lr 0.1", case.settings):
        name = changed.split()[0].replace("no-", "").lstrip("-")
        line = commands.error(tmp_path, case.script, *flags, *changed.split())
        assert "state.pth" in line and f"--{name}" in line
    assert not (tmp_path / "checkpoints").exists()


def test_loss_that_is_not_finite(case, commands, data, tmp_path):
    line = commands.error(tmp_path, case.script, *case.flags(data, "--lr", 1e30, "--save_every", 1))
    step = int(re.search(r"loss is (?:nan|inf) at step (\d)", line)[1])
    assert IDS[0][:5] in line and "--lr" in line
    assert list(curve(tmp_path / "runs/s", "Train/Loss")) == list(range(step))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def resize(path: Path) -> None:
    Image.open(path).resize((20, 30)).save(path)


def add_value_21(path: Path) -> None:
    label = np.array(Image.open(path))
    label[:2] = 21
    Image.fromarray(label).save(path)


def make_binary(path: Path) -> None:
    Image.open(path).point(lambda value: value > 99).save(path)


def shrink_with_mask(path: Path) -> None:
    for each in (path, path.parents[1] / f"mask/{path.stem}.png"):
        Image.open(each).resize((110, 120)).save(each)


FAULTS = [
    ("EDAM", "JPEGImages/{}.jpg", truncate, "truncated"),
    ("EDAM", "JPEGImages/{}.jpg", Path.unlink, "does not exist"),
    ("DeepLab", "JPEGImages/{}.jpg", truncate, "truncated"),
    ("DeepLab", "SegmentationClass/{}.png", Path.unlink, "does not exist"),
    ("DeepLab", "SegmentationClass/{}.png", resize, "20x30"),
    ("DeepLab", "SegmentationClass/{}.png", add_value_21, "21"),
    ("PoolNet", "image/{}.jpg", Path.unlink, "does not exist"),
    ("PoolNet", "image/{}.jpg", shrink_with_mask, "110x120"),
    ("PoolNet", "mask/{}.png", truncate, "truncated"),
    ("PoolNet", "mask/{}.png", resize, "20x30"),
    ("PoolNet", "mask/{}.png", make_binary, "0 and 1"),
]


@pytest.mark.parametrize(("name", "file", "break_file", "keyword"), FAULTS)
def test_bad_files_are_reported_before_the_first_step(name, file, break_file, keyword, commands, broken, tmp_path):
    case, bad = CASES[name], [IDS[1], IDS[3]]
    for i in bad:
        break_file(broken / file.format(i))
    line = commands.error(tmp_path, case.script, *case.flags(broken))
    assert keyword in line and all(i in line for i in bad)
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("name", ["DeepLab", "PoolNet"])
def test_skipped_photos(name, commands, broken, tmp_path):
    """They are listed, and once mended they are another run."""
    case, file = CASES[name], broken / CASES[name].photo.format(IDS[2])
    intact = file.read_bytes()
    file.unlink()
    flags = case.flags(broken, "--skip_errors", "--save_every", 1)
    done = commands.run(tmp_path, case.script, *flags)
    assert f"{7 if name == 'DeepLab' else 3} photos, " in done.stdout
    assert len(done.stderr) == 1 and file.name in done.stderr[0]
    file.write_bytes(intact)
    assert "--skip_errors" in commands.error(tmp_path, case.script, *flags, "--resume")


def test_poolnet_weights(commands, data, tmp_path):
    """A backbone, a plain PoolNet, and a joint one, whose edge branch does not change; no DeepLab."""
    torch.manual_seed(1)
    plain, joint = small_poolnet.Net().state_dict(), small_poolnet.JointNet().state_dict()
    backbone = {name.removeprefix("base.resnet."): tensor for name, tensor in plain.items() if ".resnet." in name}
    torch.save(backbone | {"fc.weight": torch.zeros(3, 8)}, tmp_path / "backbone.pth")
    torch.save(plain, tmp_path / "plain.pth")
    torch.save(joint, tmp_path / "joint.pth")
    torch.save(small_deeplab.Net().state_dict(), tmp_path / "deeplab.pth")
    flags = CASES["PoolNet"].flags(data, "--max_epoches", 1)
    for name, loaded in (("backbone", backbone), ("plain", plain), ("joint", joint)):
        done = commands.run(tmp_path, "train_sal.py", *flags, "--weights", f"{name}.pth", "--session_name", name)
        assert f"loaded {len(loaded)} tensors from {name}.pth" in done.stdout
    trained = torch.load(tmp_path / "checkpoints/joint/joint.pth", weights_only=True)
    unchanged = {name for name in joint if torch.equal(trained[name], joint[name])}
    assert list(trained) == list(joint) and unchanged >= {n for n in joint if n.startswith(("block.", "fuse."))}
    assert not any(name.startswith(("edgeinfo.", "score.", "deep_pool.")) for name in unchanged)
    assert "deeplab.pth" in commands.error(tmp_path, "train_sal.py", *flags, "--weights", "deeplab.pth")


def test_deeplab_weights(commands, data, tiny_weights, tmp_path):
    """A trained network, or a ResNet whose classifier is left out; no EDAM."""
    net = small_deeplab.Net().state_dict()
    backbone = {name.removeprefix("base."): tensor for name, tensor in net.items() if "aspp" not in name}
    torch.save(net, tmp_path / "net.pth")
    torch.save(backbone | {"fc.weight": torch.zeros(91, 8, 1, 1)}, tmp_path / "backbone.pth")
    flags = CASES["DeepLab"].flags(data, "--max_iters", 1)
    for name, loaded in (("net", net), ("backbone", backbone)):
        done = commands.run(tmp_path, "train_deeplab.py", *flags, "--weights", f"{name}.pth")
        assert f"loaded {len(loaded)} tensors from {name}.pth" in done.stdout
        assert ("aspp" in done.stdout) == ("fc" in done.stdout) == (name == "backbone")
    assert "tiny.pth" in commands.error(tmp_path, "train_deeplab.py", *flags, "--weights", tiny_weights)


@pytest.mark.parametrize(
    ("given", "keyword"),
    [
        ("--network tests.small_poolnet", "--root"),
        ("--root {0}", "--train_list"),
        ("--voc12_root {0}", "--mask_dir"),
        ("--root {0} --train_list {0}/pairs.lst --crop_size 110 --network tests.small_poolnet", "--crop_size"),
        ("--root {0} --train_list {0}/list.txt --network tests.small_poolnet", "list.txt"),
        (
            "--voc12_root {0} --mask_dir {0}/binary --train_list one.txt --network tests.small_poolnet --crop_size 112",
            "255",
        ),
    ],
)
def test_poolnet_flags_that_do_not_fit(given, keyword, commands, broken, tmp_path):
    (tmp_path / "one.txt").write_text(IDS[0])
    (broken / "binary").mkdir()
    photo = Image.open(broken / f"JPEGImages/{IDS[0]}.jpg").convert("L")
    photo.point(lambda value: 255 * (value > 99)).save(broken / f"binary/{IDS[0]}.png")
    assert keyword in commands.error(tmp_path, "train_sal.py", *given.format(broken).split())
