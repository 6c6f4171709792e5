"""train_EDAM_cls.py through the command line: what it prints, shows and writes, and which input it refuses."""

import json
import re

import pytest
import torch
from training import NETWORK, curve, flags, image_id, same_tensors, tensors, write_pairs

from train_EDAM_cls import get_parser

SCRIPT = "train_EDAM_cls.py"


@pytest.fixture(scope="module")
def run(commands, drawn, tmp_path_factory):
    """A run of 12 steps, fewer than its 25 checkpoints: its folder and its command."""
    folder = tmp_path_factory.mktemp("run")
    write_pairs(folder / "pairs.txt", 12)
    return folder, commands.run(folder, SCRIPT, *flags(drawn, "--session_name", "short"))


def test_output_and_log(run, drawn, device):
    folder, command = run
    lines = [line for line in command.stdout.splitlines() if line.strip()]
    assert str(drawn / "Annotations") in lines.pop(0)
    name = "CPU, 1 threads" if device.type == "cpu" else torch.cuda.get_device_name()
    assert lines[0].startswith(name) and "random" in lines[1]
    assert lines[2:] == [
        "12 pairs, 12 steps of 1 pair, checkpoints in checkpoints/short",
        "finished: checkpoints/short/short.pth",
    ]
    assert command.stderr == []
    log = (folder / "checkpoints/short/train.log").read_text().splitlines()
    assert [line[20:] for line in log if "images/s" not in line] == lines
    steps = [found for line in log if (found := re.search(r"step (\d+)/12, loss (\S+), lr (\S+), \S+ images/s$", line))]
    assert [int(step[1]) for step in steps] == list(range(1, 13))
    assert [step[2] for step in steps] == [f"{v:.4f}" for v in curve(folder / "runs/short", "Train/Loss").values()]


def test_checkpoints_and_settings(run):
    session = run[0] / "checkpoints/short"
    names = {path.name for path in session.iterdir()}
    numbered = sorted(name for name in names if re.fullmatch(r"short_\d\d\.pth", name))
    assert names == {*numbered, "short.pth", "state.pth", "settings.json", "train.log"}
    assert len(numbered) == 12 and numbered[-1] == "short_25.pth"
    assert same_tensors(session / "short.pth", session / "short_25.pth")
    assert not same_tensors(session / "short.pth", session / numbered[0])
    settings = json.loads((session / "settings.json").read_text())
    expected = {"lr": 0.01, "crop_size": 32, "seed": 0, "steps": 12, "session_name": "short", "network": NETWORK}
    assert {name: settings[name] for name in expected} == expected


def test_checkpoint_as_weights(run, commands, drawn, tmp_path):
    weights = run[0] / "checkpoints/short/short.pth"
    (tmp_path / "list.txt").write_text(f"{image_id(1)}\n")
    same = ("--voc12_root", drawn, "--network", NETWORK, "--weights", weights)
    commands.run(tmp_path, "infer_cls.py", *same, "--infer_list", "list.txt", "--out_cam", "cam", "--num_workers", 0)
    assert (tmp_path / f"cam/{image_id(1)}.npy").is_file()
    write_pairs(tmp_path / "pairs.txt", 1)
    started = commands.run(tmp_path, SCRIPT, *flags(drawn, "--weights", weights))
    assert f"loaded {len(tensors(weights))} tensors from {weights}\n" in started.stdout


def test_backbone_as_weights(run, commands, drawn, tmp_path):
    """It starts a training, but makes no pseudo labels."""
    saved = torch.load(run[0] / "checkpoints/short/short.pth", weights_only=True)
    backbone = {name: tensor for name, tensor in saved.items() if re.match(r"(conv1a|b\d|bn7)", name)}
    torch.save(backbone, tmp_path / "backbone.pth")
    write_pairs(tmp_path / "pairs.txt", 1)
    started = commands.run(tmp_path, SCRIPT, *flags(drawn, "--weights", "backbone.pth", "--lr", 0))
    assert re.search(rf"loaded {len(backbone)} tensors from backbone.pth; .*mask_layer", started.stdout)
    trained = tensors(tmp_path / "checkpoints/EDAM/EDAM.pth")
    assert all((trained[name] == tensor.numpy()).all() for name, tensor in backbone.items())
    (tmp_path / "list.txt").write_text(f"{image_id(1)}\n")
    same = ("--voc12_root", drawn, "--network", NETWORK, "--weights", "backbone.pth", "--infer_list", "list.txt")
    line = commands.error(tmp_path, "infer_cls.py", *same, "--out_cam", "cam")
    assert "backbone.pth" in line and "mask_layer" in line and not (tmp_path / "cam").exists()


def test_earlier_run_is_backed_up(commands, drawn, tmp_path):
    write_pairs(tmp_path / "pairs.txt", 1)
    commands.run(tmp_path, SCRIPT, *flags(drawn))
    first = (tmp_path / "checkpoints/EDAM/EDAM.pth").read_bytes()
    again = commands.run(tmp_path, SCRIPT, *flags(drawn, "--seed", 1))
    assert "--resume checkpoints/EDAM.1" in again.stdout
    assert (tmp_path / "checkpoints/EDAM.1/EDAM.pth").read_bytes() == first
    assert (tmp_path / "checkpoints/EDAM/EDAM.pth").read_bytes() != first
    assert list(curve(tmp_path / "runs/EDAM.1", "Lr")) == list(curve(tmp_path / "runs/EDAM", "Lr")) == [0]


def test_same_seed_trains_the_same_weights(commands, drawn, tmp_path):
    """With and without loader processes, and in a second epoch."""
    write_pairs(tmp_path / "pairs.txt", 5)
    for name, workers in (("none", 0), ("two", 2)):
        more = ("--session_name", name, "--max_epoches", 2, "--batch_size", 2, "--num_workers", workers)
        commands.run(tmp_path, SCRIPT, *flags(drawn), *more)
    assert same_tensors(*(tmp_path / f"checkpoints/{name}/{name}.pth" for name in ("none", "two")))
    assert list(curve(tmp_path / "runs/two", "Lr")) == [0, 1, 2, 3]  # 5 pairs give 2 steps of 2, twice


def test_flags_of_the_published_command():
    command = (
        "--lr 0.001 --batch_size 4 --max_epoches 1 --crop_size 368 --network network.resnet38_EDAM_cls --voc12_root R "
        "--weights W --wt_dec 5e-4 --session_name resnet38_EDAM_cls"
    )
    args = get_parser().parse_args(command.split())
    assert (args.lr, args.batch_size, args.crop_size, args.wt_dec, args.weights) == (0.001, 4, 368, 5e-4, "W")
    args = get_parser().parse_args(["--voc12_root", "R"])
    assert (args.lr, args.batch_size, args.max_epoches, args.crop_size, args.wt_dec) == (0.01, 8, 1, 368, 5e-4)
    assert (args.network, args.train_list) == ("network.resnet38_EDAM_cls", "voc12/EDAM_train.txt")
    assert (args.session_name, args.log_dir, args.warmup_steps, args.weights) == ("EDAM", "runs", 2000, None)


def test_bad_labels_and_lists(commands, drawn, tmp_path):
    root, bad = tmp_path / "VOC2012", image_id(1)
    root.mkdir()
    (root / "JPEGImages").symlink_to(drawn / "JPEGImages")
    (root / "Annotations").mkdir()
    for path in (drawn / "Annotations").iterdir():
        (root / "Annotations" / path.name).write_bytes(path.read_bytes())
    pairs = write_pairs(tmp_path / "pairs.txt", 4)

    def line() -> str:
        return commands.error(tmp_path, SCRIPT, *flags(root))

    xml = root / f"Annotations/{bad}.xml"
    xml.write_bytes(xml.read_bytes()[:100])
    assert f"{bad}.xml" in line()
    xml.unlink()
    assert bad in line()
    pairs.write_text("/JPEGImages/a.jpg /JPEGImages/b.jpg 20\n")
    assert "class 20" in line()
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("flag", ["--checkpoint_dir", "--log_dir"])
def test_unwritable_folders(flag, commands, drawn, tmp_path):
    write_pairs(tmp_path / "pairs.txt", 1)
    (tmp_path / "file").write_text("")
    assert "cannot create the folder file" in commands.error(tmp_path, SCRIPT, *flags(drawn, flag, "file"))
