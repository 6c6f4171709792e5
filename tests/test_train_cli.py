"""train_EDAM_cls.py through the command line: what it says, shows and writes."""

import json
import re

import pytest
import torch
import torch.nn.functional as F
from devices import limit
from small_net import Net
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training import NETWORK, curve, flags, image_id, same_tensors, tensors, write_pairs

from tool.distributed import seed_step
from tool.optim import lr_factor
from train_EDAM_cls import get_parser
from voc12.data import TrainPairs
from voc12.labels import load_labels
from voc12.lists import read_pairs


@pytest.fixture(scope="module")
def run(commands, drawn, tmp_path_factory):
    """A run of 12 steps, fewer than its 25 checkpoints, whose folder the tests look at."""
    folder = tmp_path_factory.mktemp("run")
    write_pairs(folder / "pairs.txt", 12)
    command = commands.run(folder, "train_EDAM_cls.py", *flags(drawn, "--session_name", "short", "--vis_every", 5))
    return folder, command


def test_it_says_what_it_does(run, drawn, device):
    folder, command = run
    lines = [line for line in command.stdout.splitlines() if line.strip()]
    assert lines.pop(0) == f"labels: 24 from {drawn / 'Annotations'}"
    assert lines[1:] == [
        "no --weights and nothing to resume: starts from random weights",
        "12 pairs, 12 steps of 1 pair, checkpoints in checkpoints/short",
        "finished: checkpoints/short/short.pth",
    ]
    name = "CPU, 1 threads" if device.type == "cpu" else torch.cuda.get_device_name()
    assert re.fullmatch(rf"{re.escape(name)} on \S+, 1 process, torch \S+", lines[0])
    assert command.stderr == []
    log = (folder / "checkpoints/short/train.log").read_text().splitlines()
    assert [line[20:] for line in log if "images/s" not in line] == lines
    steps = [re.search(r"step (\d+)/12, loss (\S+), lr (\S+), \S+ images/s$", line) for line in log]
    assert [int(found[1]) for found in steps if found] == list(range(1, 13))


def test_curves_have_one_value_a_step(run, drawn, device):
    folder, _ = run
    loss, lr = (curve(folder / "runs/short", tag) for tag in ("Train/Loss", "Lr"))
    assert list(loss) == list(lr) == list(range(12))
    torch.manual_seed(0)
    net = Net().to(device)
    seed_step(0, 0, 0)
    pairs = TrainPairs(
        read_pairs(folder / "pairs.txt"), load_labels([image_id(1), image_id(21)], drawn), drawn, 32, 0, (32, 48)
    )
    images, targets = pairs[0]
    expected = F.binary_cross_entropy_with_logits(net(images[None].to(device))[0], targets.to(device))
    assert loss[0] == pytest.approx(expected.item(), rel=limit(1e-5))
    assert all(lr[step] == pytest.approx(0.01 * lr_factor(step, 12, 4), rel=1e-6) for step in range(12))
    log = (folder / "checkpoints/short/train.log").read_text()
    assert all(f"loss {value:.4f}" in log for value in loss.values())


def test_class_maps_are_shown(run):
    folder, _ = run
    events = EventAccumulator(str(folder / "runs/short"), size_guidance={"images": 0}).Reload()
    shown = [image_id(1), image_id(21), image_id(2), image_id(22)]  # the first four photos of the list
    assert sorted(events.Tags()["images"]) == sorted(f"Class_maps/{i}" for i in shown)
    pictures = events.Images(f"Class_maps/{shown[0]}")
    assert [picture.step for picture in pictures] == [4, 9, 11]
    assert pictures[0].width > 64 and pictures[0].width % 64 == 0  # the photo, then a map of each of its classes


def test_checkpoints_and_settings(run):
    folder, _ = run
    session = folder / "checkpoints/short"
    names = {path.name for path in session.iterdir()}
    numbered = sorted(name for name in names if re.fullmatch(r"short_\d\d\.pth", name))
    assert names == {*numbered, "short.pth", "state.pth", "settings.json", "train.log"}
    assert len(numbered) == 12 and numbered[-1] == "short_25.pth"
    assert same_tensors(session / "short.pth", session / "short_25.pth")
    assert not same_tensors(session / "short.pth", session / numbered[0])
    settings = json.loads((session / "settings.json").read_text())
    expected = {"lr": 0.01, "crop_size": 32, "seed": 0, "steps": 12, "session_name": "short", "network": NETWORK}
    assert {name: settings[name] for name in expected} == expected


def test_checkpoint_feeds_inference_and_training(run, commands, drawn, tmp_path):
    weights = run[0] / "checkpoints/short/short.pth"
    (tmp_path / "list.txt").write_text(f"{image_id(1)}\n")
    same = ("--voc12_root", drawn, "--network", NETWORK, "--weights", weights)
    commands.run(tmp_path, "infer_cls.py", *same, "--infer_list", "list.txt", "--out_cam", "cam", "--num_workers", 0)
    assert (tmp_path / f"cam/{image_id(1)}.npy").is_file()
    write_pairs(tmp_path / "pairs.txt", 1)
    started = commands.run(tmp_path, "train_EDAM_cls.py", *flags(drawn, "--weights", weights))
    assert re.search(rf"^loaded \d+ tensors from {weights}$", started.stdout, re.MULTILINE)  # none missing


def test_a_backbone_alone_starts_a_run_but_labels_nothing(run, commands, drawn, tmp_path):
    saved = torch.load(run[0] / "checkpoints/short/short.pth", weights_only=True)
    backbone = {name: tensor for name, tensor in saved.items() if re.match(r"(conv1a|b\d|bn7)", name)}
    torch.save(backbone, tmp_path / "backbone.pth")
    write_pairs(tmp_path / "pairs.txt", 1)
    started = commands.run(tmp_path, "train_EDAM_cls.py", *flags(drawn, "--weights", "backbone.pth", "--lr", 0))
    assert re.search(r"loaded \d+ tensors from backbone.pth; newly initialised: mask_layer", started.stdout)
    trained = tensors(tmp_path / "checkpoints/EDAM/EDAM.pth")
    assert all((trained[name] == tensor.numpy()).all() for name, tensor in backbone.items())
    (tmp_path / "list.txt").write_text(f"{image_id(1)}\n")
    same = ("--voc12_root", drawn, "--network", NETWORK, "--weights", "backbone.pth", "--infer_list", "list.txt")
    line = commands.error(tmp_path, "infer_cls.py", *same, "--out_cam", "cam")
    assert "mask_layer" in line and line.endswith("no trained EDAM network, which is what makes pseudo labels")
    assert not (tmp_path / "cam").exists()


def test_a_new_run_keeps_the_earlier_one(run, commands, drawn, tmp_path):
    write_pairs(tmp_path / "pairs.txt", 1)
    commands.run(tmp_path, "train_EDAM_cls.py", *flags(drawn))
    first = (tmp_path / "checkpoints/EDAM/EDAM.pth").read_bytes()
    again = commands.run(tmp_path, "train_EDAM_cls.py", *flags(drawn, "--seed", 1))
    assert "an earlier run is kept in checkpoints/EDAM.1; an interrupted run goes on with --resume" in again.stdout
    assert (tmp_path / "checkpoints/EDAM.1/EDAM.pth").read_bytes() == first
    assert (tmp_path / "checkpoints/EDAM/EDAM.pth").read_bytes() != first
    assert list(curve(tmp_path / "runs/EDAM.1", "Lr")) == list(curve(tmp_path / "runs/EDAM", "Lr")) == [0]


def test_the_same_seed_trains_the_same_weights(run, commands, drawn, tmp_path):
    """Also with loader processes, and when pairs come up again in a second epoch."""
    write_pairs(tmp_path / "pairs.txt", 5)
    for name, workers in (("none", 0), ("two", 2)):
        more = ("--session_name", name, "--max_epoches", 2, "--batch_size", 2, "--num_workers", workers)
        commands.run(tmp_path, "train_EDAM_cls.py", *flags(drawn), *more)
    paths = [tmp_path / f"checkpoints/{name}/{name}.pth" for name in ("none", "two")]
    assert same_tensors(*paths)
    assert list(curve(tmp_path / "runs/two", "Lr")) == [0, 1, 2, 3]  # 5 pairs give 2 steps of 2, twice


def test_flags_of_the_published_command():
    """The seed page's Train command, and the defaults it counts on."""
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
