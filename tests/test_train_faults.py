"""train_EDAM_cls.py meets broken input, full disks, killed workers and a loss that is NaN: one line, status 1, nothing lost."""

import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from disks import FULL, small_disk
from training import curve, damaged, flags, image_id, same_curves, same_tensors, tensors, write_pairs

STEPS = 12
BAD = image_id(39)  # in no pair but the one that is put in


@pytest.fixture(scope="module")
def whole(commands, drawn, tmp_path_factory) -> Path:
    """Folder of a run without any fault."""
    folder = tmp_path_factory.mktemp("whole")
    write_list(folder)
    commands.run(folder, "train_EDAM_cls.py", *flags(drawn))
    return folder


@pytest.fixture
def devkit(drawn, tmp_path) -> Path:
    """A copy of the devkit for a test to break."""
    root = tmp_path / "VOC2012"
    for folder in ("JPEGImages", "Annotations"):
        (root / folder).mkdir(parents=True)
        for path in (drawn / folder).iterdir():
            (root / folder / path.name).write_bytes(path.read_bytes())
    return root


def write_list(folder: Path) -> None:
    lines = write_pairs(folder / "pairs.txt", STEPS).read_text().splitlines()
    lines[4] = f"/JPEGImages/{image_id(19)}.jpg /JPEGImages/{BAD}.jpg 19"
    assert sum(BAD in line for line in lines) == 1
    (folder / "pairs.txt").write_text("\r\n\r\n".join([*lines, ""]))  # blank lines and Windows line ends


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_photo(workers, whole, commands, devkit, tmp_path):
    """It stops the run at its step, where the state is kept; mended, the run goes on as if nothing had been."""
    write_list(tmp_path)
    photo = devkit / f"JPEGImages/{BAD}.jpg"
    sound = photo.read_bytes()
    photo.write_bytes(damaged(sound))
    arguments = flags(devkit, "--num_workers", workers)
    line = commands.error(tmp_path, "train_EDAM_cls.py", *arguments)
    assert re.match(rf"photo .*{BAD}.jpg cannot be read: .* \(--resume goes on after step 4\)$", line)
    assert torch.load(tmp_path / "checkpoints/EDAM/state.pth", weights_only=True)["step"] == 4
    photo.write_bytes(sound)
    commands.run(tmp_path, "train_EDAM_cls.py", *arguments, "--resume")
    assert same_tensors(tmp_path / "checkpoints/EDAM/EDAM.pth", whole / "checkpoints/EDAM/EDAM.pth")
    assert same_curves(tmp_path / "runs/EDAM", whole / "runs/EDAM", "Train/Loss")


def test_missing_photos_are_named_before_the_first_step(commands, devkit, tmp_path):
    write_list(tmp_path)
    photo = devkit / f"JPEGImages/{BAD}.jpg"
    sound = photo.read_bytes()
    for fault, message in (
        (Path.unlink, "does not exist"),
        (lambda path: path.write_bytes(sound[:20]), "is not a whole JPEG or PNG file"),
        (lambda path: path.write_bytes(sound[:-100]), "cannot be read: image file is truncated"),
    ):
        fault(photo)
        line = commands.error(tmp_path, "train_EDAM_cls.py", *flags(devkit))
        assert re.match(rf"photo .*{BAD}.jpg {message}", line), line
        assert not (tmp_path / "checkpoints").exists()


def test_broken_labels_and_lists(whole, commands, devkit, tmp_path):
    write_list(tmp_path)

    def line() -> str:
        return commands.error(tmp_path, "train_EDAM_cls.py", *flags(devkit))

    xml = devkit / f"Annotations/{BAD}.xml"
    xml.write_bytes(xml.read_bytes()[:100])
    assert f"{BAD}.xml is damaged: " in line()
    xml.unlink()
    assert line().startswith(f"no label for {BAD}: voc12/cls_labels.npy does not exist, and there is no {xml}; ")
    (tmp_path / "voc12").mkdir()
    np.save(tmp_path / "voc12/cls_labels.npy", {BAD: np.ones(21)}, allow_pickle=True)
    assert line() == f"voc12/cls_labels.npy, {BAD}: label of shape (21,), where (20,) was expected"
    (tmp_path / "pairs.txt").write_text("/JPEGImages/../../x.jpg /JPEGImages/a.jpg 0\n")
    assert line().startswith("pairs.txt, line 1: '/JPEGImages/../../x.jpg /JPEGImages/a.jpg 0'")
    (tmp_path / "pairs.txt").write_text("/JPEGImages/a.jpg /JPEGImages/b.jpg 20\n")
    assert line().startswith("pairs.txt, line 1: class 20")
    assert not (tmp_path / "checkpoints").exists()


def test_a_killed_loader_worker(whole, commands, drawn, tmp_path):
    write_pairs(tmp_path / "pairs.txt", 400)
    command = commands.start(tmp_path, "train_EDAM_cls.py", *flags(drawn, "--num_workers", 2))
    log = tmp_path / "checkpoints/EDAM/train.log"
    assert command.until(lambda: log.exists() and "step 4/400" in log.read_text())
    workers = command.children()
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    assert command.wait() == 1
    message = r"a process that reads photos was killed \(.*\); memory or /dev/shm may be full; lower --num_workers, or 0 for none"
    found = re.match(rf"train_EDAM_cls.py: error: {message} \(--resume goes on after step (\d+)\)$", command.stderr[0])
    assert len(command.stderr) == 1 and 4 <= int(found[1]) < 400
    assert torch.load(tmp_path / "checkpoints/EDAM/state.pth", weights_only=True)["step"] == int(found[1])
    assert list(curve(tmp_path / "runs/EDAM", "Lr")) == list(range(int(found[1])))


def test_a_loss_that_is_not_finite(whole, commands, drawn, tmp_path):
    write_list(tmp_path)
    line = commands.error(tmp_path, "train_EDAM_cls.py", *flags(drawn, "--lr", 1e30, "--warmup_steps", 0))
    assert re.match(
        r"the loss is (nan|inf) at step 1 \(2099_000002 2099_000022, ...\): lower --lr or check the weights; "
        r"what was saved in checkpoints/EDAM is intact$",
        line,
    )
    assert torch.load(tmp_path / "checkpoints/EDAM/state.pth", weights_only=True)["step"] == 1
    assert list(curve(tmp_path / "runs/EDAM", "Train/Loss")) == [0]


def test_a_full_disk_for_checkpoints(whole, commands, drawn, tmp_path):
    """The earlier checkpoint and the log stay as they were; with room, the run goes on from the newest state."""
    write_list(tmp_path)
    session, expected = tmp_path / "checkpoints/EDAM", whole / "checkpoints/EDAM"
    one, state = ((expected / name).stat().st_size for name in ("EDAM.pth", "state.pth"))
    with small_disk(tmp_path / "checkpoints", 2 * one + state + state // 2) as limits:
        line = commands.error(tmp_path, "train_EDAM_cls.py", *flags(drawn), limits=limits)
    assert re.match(rf"cannot write checkpoints/EDAM/\w+\.pth: {FULL}$", line)
    kept = {path.name for path in session.iterdir()}
    assert {"settings.json", "train.log"} <= kept <= {path.name for path in expected.iterdir()}  # no half of a file
    assert all(same_tensors(path, expected / path.name) for path in session.glob("EDAM*.pth"))
    commands.run(tmp_path, "train_EDAM_cls.py", *flags(drawn, "--resume"))
    assert same_tensors(session / "EDAM.pth", expected / "EDAM.pth")


def test_a_full_disk_for_curves(whole, commands, drawn, tmp_path):
    write_list(tmp_path)
    with small_disk(tmp_path / "runs", 20_000) as limits:
        line = commands.error(tmp_path, "train_EDAM_cls.py", *flags(drawn, "--vis_every", 1), limits=limits)
    assert re.match(rf"cannot write (TensorBoard events to runs/EDAM|checkpoints/EDAM/\w+\.pth): {FULL}$", line)
    assert all(tensors(path) for path in (tmp_path / "checkpoints/EDAM").glob("*.pth"))


def test_unwritable_folders(whole, commands, drawn, tmp_path):
    write_list(tmp_path)
    (tmp_path / "file").write_text("")
    for flag in ("--checkpoint_dir", "--log_dir"):
        line = commands.error(tmp_path, "train_EDAM_cls.py", *flags(drawn, flag, "file"))
        assert line == "cannot create the folder file/EDAM: Not a directory"
    (tmp_path / "file").unlink()


def test_weights_that_are_none(whole, commands, drawn, tmp_path):
    write_list(tmp_path)

    def line(path: object) -> str:
        return commands.error(tmp_path, "train_EDAM_cls.py", *flags(drawn, "--weights", path))

    assert line("nowhere.params") == "weights nowhere.params does not exist"
    saved = tensors(whole / "checkpoints/EDAM/EDAM.pth")
    weights = {name: torch.from_numpy(value) for name, value in saved.items()}
    torch.save(weights | {"conv1a.weight": torch.full_like(weights["conv1a.weight"], torch.inf)}, tmp_path / "inf.pth")
    assert line("inf.pth").startswith("inf.pth: conv1a.weight holds NaN or infinity")
    torch.save({"fc.weight": torch.zeros(3, 4)}, tmp_path / "foreign.pth")
    assert line("foreign.pth").startswith("foreign.pth holds 1 tensor (fc), not weights of this network")
    assert not (tmp_path / "checkpoints").exists()
