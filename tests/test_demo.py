"""The demo: its network, its pretraining, its commands."""

import importlib
import itertools
import re
import shlex
from pathlib import Path

import pytest
import torch
from training import IDS

from demo.pretrain import Classifier, Photos
from demo.run import make_demo_steps, make_plan
from network import make_net
from network.weights import load_weights
from voc12.dataset import Dataset

TINY = "network.resnet38_EDAM_tiny"


def test_classifier_trains_every_layer_and_pools_the_strongest_positions():
    model = Classifier(make_net(TINY), top=0.25, classes=20)
    assert all(parameter.requires_grad for parameter in model.backbone.parameters())
    assert all(norm.training for norm in model.train().modules() if isinstance(norm, torch.nn.BatchNorm2d))
    model.backbone.features = lambda x: x
    torch.nn.init.ones_(model.head.weight)
    torch.nn.init.zeros_(model.head.bias)
    features = torch.zeros(1, 256, 4, 4)
    features[0, 0, 0] = torch.tensor([4.0, 3.0, 2.0, -9.0])  # of 16 positions the best four are 4, 3, 2 and 0
    assert model(features)[0].tolist() == pytest.approx([2.25] * 20)


def test_pretraining_photos_are_whole_and_of_one_size_per_step(drawn):
    data = Dataset(drawn)
    photos = Photos(data, IDS, data.image_labels(IDS, "list.txt"), seed=0, long_side=[32, 64], batch_size=4)
    steps = [[photos[position][0] for position in range(4 * step, 4 * step + 4)] for step in range(8)]
    sides = [{tuple(image.shape) for image in images} for images in steps]
    assert all(len(shapes) == 1 for shapes in sides)
    assert set().union(*sides) == {(3, side, side) for side in (32, 48, 64)}
    for image in itertools.chain(*steps):
        covered = (image != 0).any(0)  # the photo, on zeros
        assert max(covered.any(1).sum(), covered.any(0).sum()) == image.shape[1]


def test_pretraining_writes_a_whole_backbone_and_starts_from_one(commands, tmp_path, drawn):
    (tmp_path / "list.txt").write_text("\n".join(IDS))
    data = ("--voc12_root", drawn, "--image_list", "list.txt", "--num_workers", 0, "--device", "cpu")
    same = (tmp_path, "demo/pretrain.py", *data, "--batch_size", 4, "--long_side", 40, 56)
    for name in ("first.pth", "again.pth"):
        commands.run(*same, "--epochs", 2, "--out", name)
    assert (tmp_path / "first.pth").read_bytes() == (tmp_path / "again.pth").read_bytes()
    net = make_net(TINY)
    report = load_weights(net, tmp_path / "first.pth")
    head = {"mask_layer", "embedding", "trans_list", "d_d", "fc_list"}
    assert {name.split(".")[0] for name in report.missing} == head and not report.unexpected
    assert net.bn7.running_mean.abs().max() > 1e-3  # its statistics are the photos'

    flags = ("--epochs", 1, "--softmax", "--weights", "first.pth", "--lr", 0, "--out", "second.pth")
    assert "first.pth" in commands.run(*same, *flags).stdout
    first, second = (torch.load(tmp_path / name) for name in ("first.pth", "second.pth"))
    changed = {name.split(".")[-1] for name in first if not torch.equal(first[name], second[name])}
    assert changed == {"running_mean", "running_var", "num_batches_tracked"}
    for wrong in (("--batch_size", 9, "--epochs", 1), ("--long_side", 50, 40)):
        assert f"error: {wrong[0]} {wrong[1]}" in commands.run(*same, "--out", "b.pth", *wrong, status=1).stderr[0]


def test_scripts_accept_the_commands_of_the_demo():
    steps = make_demo_steps(make_plan(Path("folder"), 3))
    found = [match.groups() for step in steps if (match := re.search(r"(\S+)\.py (.*)", step.command))]
    assert {"demo/pretrain", "train_EDAM_cls", "infer_cls", "eval"} <= {script for script, _ in found}
    for script, flags in found:
        importlib.import_module(script.replace("/", ".")).get_parser().parse_args(shlex.split(flags))


@pytest.mark.parametrize("gpus", [0, 1, 2])
def test_two_processes_train_networks_with_frozen_batch_norms(gpus, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    steps = make_demo_steps(make_plan(Path("o"), 3))
    shared = {step.name for step in steps if step.command.startswith("torchrun ")}
    assert shared == (set() if gpus == 1 else {"saliency", "training", "maps", "labels", "val"})


def test_deeplab_is_trained_on_fused_labels_and_scored_on_unseen_photos():
    plan = make_plan(Path("o"), 3)
    commands = {step.name: step.command for step in make_demo_steps(plan)}
    seeds = [re.search(r" --seed (\d+)", commands[name])[1] for name in ("data", "single", "salient")]
    assert len(set(seeds)) == 3
    assert " --label_dir o/crf_saliency --train_list o/lists/train.txt " in commands["segmentation"]
    for step, initial in (("segmentation", "pretraining"), ("fine_tuning", "pretraining"), ("training", "fine_tuning")):
        assert f" --weights {commands[initial].split(' --out ')[1]} " in commands[step]
    unseen = [name for name, text in commands.items() if "val.txt" in text]
    assert unseen == ["val", "score_deeplab", "score_deeplab_crf"]
