"""The three trainings through the command line: output, killed, full disk, bad files, settings, weights."""

import json
import re
import shutil
import signal
from pathlib import Path

import pytest
import torch
from disks import FULL, small_disk
from PIL import Image
from training import CASES, IDS, Case, curve, events, flags, same_run, same_tensors, write_pairs

from tests import small_poolnet
from train_EDAM_cls import get_parser

STEPS = 6
LINE = rf"step (\d+)/{STEPS}, loss (\S+), lr (\S+), \S+ images/s$"  # of the log


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
    done = commands.run(folder, case.script, *case.flags(data, "--vis_every", 3, "--save_every", 1))
    assert done.stderr == []
    (folder / "stdout").write_text(done.stdout)
    return folder


def test_output_and_log(whole, case):
    lines = [line for line in (whole / "stdout").read_text().splitlines() if line.strip()][-4:]
    assert "random" in lines[1] and "frozen" in lines[1]
    assert lines[2:] == [f"{case.data}, checkpoints in checkpoints/s", "finished: checkpoints/s/s.pth"]
    log = (whole / "checkpoints/s/train.log").read_text().splitlines()
    assert [line[20:] for line in log if "images/s" not in line] == lines
    steps = [found for line in log if (found := re.search(LINE, line))]
    assert [int(step[1]) for step in steps] == list(range(1, STEPS + 1))
    assert [step[2] for step in steps] == [f"{v:.4f}" for v in curve(whole / "runs/s", "Train/Loss").values()]


def test_checkpoints_and_settings(whole, case):
    session = whole / "checkpoints/s"
    names = {path.name for path in session.iterdir()}
    numbered = sorted(name for name in names if re.fullmatch(r"s_\d\d\.pth", name))
    assert names == {*numbered, "s.pth", "state.pth", "settings.json", "train.log"}
    assert len(numbered) == STEPS and numbered[-1] == "s_25.pth"
    assert same_tensors(session / "s.pth", session / "s_25.pth")
    assert not same_tensors(session / "s.pth", session / numbered[0])
    settings = json.loads((session / "settings.json").read_text())
    assert settings["steps"] == STEPS and settings["seed"] == 0 and f"--network {settings['network']} " in case.words


def test_pictures_in_tensorboard(whole):
    found = events(whole / "runs/s")
    tags = found.Tags()["images"]
    assert len(tags) == 4 and any(IDS[0] in tag for tag in tags)
    assert all([picture.step for picture in found.Images(tag)] == [2, 5] for tag in tags)


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_and_resumed(case, whole, commands, data, tmp_path, workers):
    flags = case.flags(data, "--vis_every", 3, "--save_every", 1, "--resume", "--num_workers", workers)
    state = tmp_path / "checkpoints/s/state.pth"
    for after in (1, 4):
        command = commands.start(tmp_path, case.script, *flags)
        assert command.until(lambda n=after: state.is_file() and torch.load(state, weights_only=True)["step"] >= n)
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
    for flag, value in (("--lr", 0.1), ("--crop_size", 112)):
        flags = case.flags(data, "--resume", whole / "checkpoints/s", flag, value)
        line = commands.error(tmp_path, case.script, *flags)
        assert "state.pth" in line and flag in line
    assert not (tmp_path / "checkpoints/s").exists()


def test_loss_that_is_not_finite(case, commands, data, tmp_path):
    line = commands.error(tmp_path, case.script, *case.flags(data, "--lr", 1e30, "--save_every", 1))
    step = int(re.search(r"loss is (?:nan|inf) at step (\d)", line)[1])
    assert IDS[0][:5] in line and "--lr" in line
    assert list(curve(tmp_path / "runs/s", "Train/Loss")) == list(range(step))


def test_earlier_run_is_backed_up(commands, drawn, tmp_path):
    write_pairs(tmp_path / "pairs.txt", 1)
    commands.run(tmp_path, "train_EDAM_cls.py", *flags(drawn))
    first = (tmp_path / "checkpoints/EDAM/EDAM.pth").read_bytes()
    again = commands.run(tmp_path, "train_EDAM_cls.py", *flags(drawn, "--seed", 1))
    assert "--resume checkpoints/EDAM.1" in again.stdout
    assert (tmp_path / "checkpoints/EDAM.1/EDAM.pth").read_bytes() == first
    assert (tmp_path / "checkpoints/EDAM/EDAM.pth").read_bytes() != first
    third = flags(drawn, "--resume", "checkpoints/EDAM.1", "--session_name", "new")
    commands.run(tmp_path, "train_EDAM_cls.py", *third)
    assert (tmp_path / "checkpoints/new/new.pth").read_bytes() == first
    assert list(curve(tmp_path / "runs/EDAM.1", "Lr")) == list(curve(tmp_path / "runs/EDAM", "Lr")) == [0]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def shrink(path: Path) -> None:
    Image.open(path).resize((20, 30)).save(path)


def shrink_with_mask(path: Path) -> None:
    shrink(path)
    shrink(path.parents[1] / f"mask/{path.stem}.png")


@pytest.mark.parametrize(
    ("name", "file", "break_file", "keyword"),
    [
        ("EDAM", "Annotations/{}.xml", Path.unlink, "no label"),
        ("EDAM", "JPEGImages/{}.jpg", truncate, "truncated"),
        ("DeepLab", "SegmentationClass/{}.png", shrink, "20x30"),
        ("PoolNet", "image/{}.jpg", shrink_with_mask, "--crop_size"),
    ],
)
def test_bad_files_are_reported_before_the_first_step(name, file, break_file, keyword, commands, broken, tmp_path):
    case, bad = CASES[name], [IDS[0], IDS[2]]
    for i in bad:
        break_file(broken / file.format(i))
    line = commands.error(tmp_path, case.script, *case.flags(broken))
    assert keyword in line and all(i in line for i in bad)
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize(("name", "file", "left"), [("DeepLab", "JPEGImages", 7), ("PoolNet", "image", 3)])
def test_skipped_photos(name, file, left, commands, broken, tmp_path):
    """They are listed, and once mended they are another run."""
    photo, flags = broken / f"{file}/{IDS[2]}.jpg", CASES[name].flags(broken, "--skip_errors", "--save_every", 1)
    photo.rename(broken / "aside")
    done = commands.run(tmp_path, CASES[name].script, *flags)
    assert f"{left} photos, " in done.stdout and len(done.stderr) == 1 and photo.name in done.stderr[0]
    (broken / "aside").rename(photo)
    assert "--skip_errors" in commands.error(tmp_path, CASES[name].script, *flags, "--resume")


def test_edge_branch_does_not_change(commands, data, tmp_path):
    """Training on saliency alone."""
    net = small_poolnet.JointNet().state_dict()
    torch.save(net, tmp_path / "net.pth")
    done = commands.run(tmp_path, "train_sal.py", *CASES["PoolNet"].flags(data, "--weights", "net.pth"))
    assert f"loaded {len(net)} tensors from net.pth" in done.stdout
    trained = torch.load(tmp_path / "checkpoints/s/s.pth", weights_only=True)
    unchanged = {name for name in net if torch.equal(trained[name], net[name])}
    assert list(trained) == list(net) and unchanged >= {name for name in net if name.startswith(("block.", "fuse."))}
    assert not any(name.startswith(("edgeinfo.", "score.", "deep_pool.")) for name in unchanged)


@pytest.mark.parametrize(
    ("given", "keyword"),
    [
        ("", "--root"),
        ("--root {0}", "--train_list"),
        ("--root {0} --train_list {0}/pairs.lst --crop_size 110", "--crop_size"),
        ("--root {0} --train_list {0}/pairs.lst --batch_size 1000", "--batch_size 1000: "),
    ],
)
def test_poolnet_flags_that_do_not_fit(given, keyword, commands, data, tmp_path):
    words = f"--network tests.small_poolnet {given}".format(data).split()
    assert keyword in commands.error(tmp_path, "train_sal.py", *words)


def test_flags_of_the_published_command():
    published = "--lr 0.001 --batch_size 4 --max_epoches 1 --crop_size 368 --network network.resnet38_EDAM_cls"
    args = get_parser().parse_args(f"{published} --voc12_root R --weights W --wt_dec 5e-4 --session_name s".split())
    assert (args.lr, args.batch_size, args.crop_size, args.wt_dec, args.weights) == (0.001, 4, 368, 5e-4, "W")
    assert (args.train_list, args.log_dir, args.warmup_steps) == ("voc12/EDAM_train.txt", "runs", 2000)
