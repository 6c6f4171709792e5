"""Scripts under torchrun: the losses and files of one process; DataParallel's replicas."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import devices
import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from commands import REPO, Command, Commands
from devices import content, limit
from torch import nn
from training import CASES, curve, damage, flags, image_id, make_data, write_pairs

from tool import distributed, processes
from tool.cli import UserError


def torchrun(folder: Path, options: tuple[object, ...], script: str, *args: object) -> subprocess.Popen:
    command = [sys.executable, "-m", "torch.distributed.run", *options, REPO / script, *args]
    env = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([str(c) for c in command], cwd=folder, env=env, text=True, stdout=-1, stderr=-1)


def finished(process: subprocess.Popen, status: int = 0) -> tuple[str, str]:
    try:
        out, err = process.communicate(timeout=200)
    finally:
        process.kill()
    assert process.returncode == status, err
    return out, err


@pytest.fixture
def start_ranks(commands) -> Callable[..., list[Command]]:
    """Start a process in each folder as torchrun does, which keeps the group's store, but without its seconds of imports."""
    stores = []

    def start(folders: list[Path], script: str, *args: object) -> list[Command]:
        stores.append(dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False))
        group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": stores[-1].port, "WORLD_SIZE": len(folders)}
        group |= {"TORCHELASTIC_USE_AGENT_STORE": True, "TORCHELASTIC_RESTART_COUNT": 0}
        args = (*args, *one_gpu_each(len(folders)))
        return [commands.start(f, script, *args, RANK=rank, LOCAL_RANK=rank, **group) for rank, f in enumerate(folders)]

    return start


def one_gpu_each(count: int) -> tuple[str, str]:
    """Return the flag --device: GPUs and NCCL if there are enough of them, else the CPU and Gloo."""
    return "--device", devices.name if torch.cuda.device_count() >= count else "cpu"


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("EDAM", "--network tests.plain_net --train_list pairs.txt --max_epoches 1 --lr 0.1 --warmup_steps 0"),
        ("DeepLab", "--max_iters 2"),
        ("PoolNet", ""),
    ],
)
def test_ranks_have_the_losses_of_one_process(name, more, start_ranks, data, tmp_path):
    """Two steps of six pairs or photos; each rank in a folder of its own, as on another machine: only the first writes."""
    losses = []
    for count in (1, 2, 3):
        folders = [tmp_path / f"{count}_{rank}" for rank in range(count)]
        for folder in folders:
            folder.mkdir()
            write_pairs(folder / "pairs.txt", 12)
        arguments = CASES[name].flags(data, *more.split(), "--batch_size", 6)
        ranks = start_ranks(folders, CASES[name].script, *arguments)
        assert [one.wait() for one in ranks] == [0] * count
        assert [one.stderr for one in ranks] == [[]] * count
        assert f", {count} process" in ranks[0].stdout and all(one.stdout == "" for one in ranks[1:])
        assert not any((folder / made).exists() for folder in folders[1:] for made in ("checkpoints", "runs"))
        losses.append(list(curve(folders[0] / "runs/s", "Train/Loss").values()))
    if torch.cuda.device_count() > 1:  # without --device, nn.DataParallel takes all GPUs
        Commands().run(folders[1], CASES[name].script, *arguments)
        losses.append(list(curve(folders[1] / "runs/s", "Train/Loss").values()))
    assert len(losses[0]) == 2 and abs(losses[0][1] / losses[0][0] - 1) > 1e-3
    np.testing.assert_allclose(losses[1:], [losses[0]] * len(losses[1:]), rtol=limit(1e-5))


def test_processes_share_the_photos(commands, drawn, tiny_weights, tmp_path):
    """Seven photos and one without a label: the files of one process, and its messages once."""
    (tmp_path / "list.txt").write_text("\n".join([*map(image_id, range(1, 8)), "unknown"]))
    same = (
        "--voc12_root",
        drawn,
        "--weights",
        tiny_weights,
        "--network",
        "network.resnet38_EDAM_tiny",
        "--skip_errors",
    )
    same += ("--infer_list", "list.txt", "--num_workers", 0)
    commands.run(tmp_path, "infer_cls.py", *same, "--out_cam", "cam1", "--out_crf_pred", "crf1", status=1)
    shared = (*same, "--out_cam", "cam", "--out_crf_pred", "crf", *one_gpu_each(3))
    options = ("--standalone", "--nproc_per_node", 3)
    out, err = finished(torchrun(tmp_path, options, "infer_cls.py", *shared), status=1)
    for folder in ("cam", "crf"):
        found, expected = ({p.name: content(p) for p in (tmp_path / f).glob("[!e]*")} for f in (folder, f"{folder}1"))
        assert len(expected) == 7 and found == expected
    assert out.count("7 photos labelled in cam, crf") == 1  # by all of them together
    assert err.count("skipped unknown: no label for unknown") == 1
    assert err.count("infer_cls.py: error: skipped 1 photo, listed above") == 1


def test_failing_process_ends_all(start_ranks, drawn, tmp_path):
    """The second process meets a broken photo and reports it; the first saves the state."""
    root = make_data(drawn, tmp_path / "data")
    pairs = write_pairs(tmp_path / "pairs.txt", 40).read_text().splitlines()
    broken = re.findall(r"2099_\d+", pairs[11])[0]  # step 5, the second process's pair
    damage(root / f"JPEGImages/{broken}.jpg")
    arguments = flags(root, "--network", "tests.plain_net", "--batch_size", 2)
    two = start_ranks([tmp_path] * 2, "train_EDAM_cls.py", *arguments)
    assert [one.wait() for one in two] == [1, 1]
    (line,) = [line for one in two for line in one.stderr]
    assert f"{broken}.jpg" in line and "--resume" in line and "step 5" in line
    saved = torch.load(tmp_path / "checkpoints/EDAM/state.pth", weights_only=True)
    assert saved["step"] == 5 and list(curve(tmp_path / "runs/EDAM", "Lr")) == list(range(5))


def replicas(net: nn.Module, count: int) -> list[nn.Module]:
    """Return what torch.nn.parallel.replicate makes on GPUs: copies that autograd sees."""
    made = []
    for _ in range(count):
        copies = {module: module._replicate_for_data_parallel() for module in net.modules()}
        for module, copy in copies.items():
            for name, child in module.named_children():
                setattr(copy, name, copies[child])
            for name, tensor in (*module._parameters.items(), *module._buffers.items()):
                setattr(copy, name, None if tensor is None else tensor * 1)
        made.append(copies[net])
    return made


def test_data_parallel_replicas():
    """nn.DataParallel's steps (scatter the pairs, replicate, apply, gather) on CPU replicas: same logits, same gradients."""
    from tests.plain_net import Net

    torch.manual_seed(0)
    net = Net().train()
    images, targets = torch.randn(3, 2, 3, 32, 32), torch.rand(3, 2, 20).round()

    def loss(logits: torch.Tensor) -> torch.Tensor:
        return F.binary_cross_entropy_with_logits(logits, targets)

    expected = net(images)
    loss(expected).backward()
    gradients = {name: one.grad.clone() for name, one in net.named_parameters() if one.grad is not None}
    net.zero_grad(set_to_none=True)
    shares = images.chunk(2)  # as nn.parallel.scatter shares out: whole pairs
    assert [len(share) for share in shares] == [2, 1]
    logits = torch.cat([replica(share) for replica, share in zip(replicas(net, 2), shares, strict=True)])
    assert torch.allclose(logits, expected, atol=1e-6)
    loss(logits).backward()
    assert len(gradients) > 300
    for name, gradient in gradients.items():
        assert torch.allclose(net.get_parameter(name).grad, gradient, atol=1e-6), name


@pytest.fixture
def two_gpus(monkeypatch) -> list[tuple]:
    """Pretend two GPUs and a process group of four; return what is made of them."""
    made = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: made.append(("device", device.index)))
    init, new = (
        (lambda backend, name=name, **options: made.append((name, backend, options))) for name in ("init", "new")
    )
    monkeypatch.setattr(dist, "init_process_group", init)
    monkeypatch.setattr(dist, "new_group", lambda **options: new(**options))
    monkeypatch.setattr(dist, "get_rank", lambda: 3)
    monkeypatch.setattr(dist, "get_world_size", lambda: 4)
    monkeypatch.setattr(processes, "patient_group", None)
    return made


def test_setup_takes_the_gpu_of_the_rank(two_gpus, monkeypatch):
    assert distributed.setup(None) == (torch.device("cuda", 0), 0, 1)
    assert distributed.setup("cuda:1") == (torch.device("cuda", 1), 0, 1)
    with pytest.raises(UserError, match="cuda:2: visible GPUs: 2"):
        distributed.setup("cuda:2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert distributed.setup(None) == (torch.device("cuda", 1), 3, 4)
    assert distributed.setup("cuda", independent=True) == (torch.device("cuda", 1), 3, 4)
    groups = [one for one in two_gpus if one[0] != "device"]
    assert [one[:2] for one in groups] == [("init", "nccl"), ("new", "gloo"), ("init", "gloo"), ("new", "gloo")]
    assert all(options["timeout"] == timedelta(days=7) for name, _, options in groups if name == "new")
    with pytest.raises(UserError, match="cuda:0: torchrun"):
        distributed.setup("cuda:0")


def test_torchrun_means_one_process_a_gpu(two_gpus, monkeypatch):
    """Of `torchrun --nproc_per_node 1` on a machine of two GPUs, too."""
    assert [distributed.uses_all_gpus(device) for device in (None, "cuda", "cuda:1")] == [True, False, False]
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert not distributed.uses_all_gpus(None)


@pytest.mark.parametrize(
    ("device", "world", "keyword"),
    [
        ("gpu", "1", "--device gpu: not a device"),
        ("cpu", "2", "process group of 2"),
    ],
)
def test_setup_rejects_devices_and_groups(device, world, keyword, monkeypatch):
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", world)
    with pytest.raises(UserError, match=keyword):
        distributed.setup(device)


def test_lost_rank_keeps_the_cause(monkeypatch):
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    cause = "NCCL error in: ProcessGroupNCCL.cpp:3690, invalid usage, NCCL version 2.27.5"
    with pytest.raises(UserError, match=f"rank 1: .*{re.escape(cause)}"), distributed.translate_errors(""):
        raise RuntimeError(f"{cause}\nncclInvalidUsage: Duplicate GPU detected")


def test_cores_of_each_process(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)))
    assert processes.cores() == 12
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert processes.cores() == 1


def test_seed_step_depends_on_seed_step_and_rank():
    def draw(*args: int) -> list[float]:
        distributed.seed_step(*args)
        return torch.rand(4).tolist()

    first, *others = [draw(1, 2, 3), draw(1, 2, 4), draw(1, 3, 3), draw(2, 2, 3)]
    assert draw(1, 2, 3) == first and first not in others
