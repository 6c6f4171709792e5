"""Scripts under torchrun: the losses and files of one process; DataParallel's replicas."""

import os
import re
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import devices
import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from commands import REPO, Commands
from devices import content, limit
from torch import nn
from training import curve, damaged, flags, image_id, tensors, write_pairs

from tool import distributed, processes
from tool.cli import UserError

PLAIN = ("--network", "tests.plain_net", "--batch_size", 2)  # no dropout, so that one process can repeat what two do
STEPS = 20


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


def one_gpu_each(processes: int) -> tuple[str, str]:
    """Return the flag --device: GPUs and NCCL if there are enough of them, else the CPU and Gloo."""
    return "--device", devices.name if torch.cuda.device_count() >= processes else "cpu"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def alone(commands, drawn, tmp_path_factory) -> Path:
    """Folder of a run by one process."""
    folder = tmp_path_factory.mktemp("alone")
    write_pairs(folder / "pairs.txt", 2 * STEPS)
    commands.run(folder, "train_EDAM_cls.py", *flags(drawn, *PLAIN))
    return folder


def check_same_losses(folder: Path, alone: Path) -> None:
    found, expected = (curve(path / "runs/EDAM", "Train/Loss") for path in (folder, alone))
    assert list(found) == list(expected) == list(range(STEPS))
    assert np.allclose(list(found.values()), list(expected.values()), rtol=limit(1e-5), atol=0)
    assert expected[STEPS - 1] < 0.5 * expected[0]  # it learned
    two, one = (tensors(path / "checkpoints/EDAM/EDAM.pth") for path in (folder, alone))
    assert all(np.allclose(two[name], one[name], atol=limit(1e-5)) for name in one)
    assert curve(folder / "runs/EDAM", "Lr") == curve(alone / "runs/EDAM", "Lr")


def test_two_processes_have_the_losses_of_one(alone, drawn, tmp_path):
    write_pairs(tmp_path / "pairs.txt", 2 * STEPS)
    arguments = flags(drawn, *PLAIN, *one_gpu_each(2))
    two = torchrun(tmp_path, ("--standalone", "--nproc_per_node", 2), "train_EDAM_cls.py", *arguments)
    out, err = finished(two)
    check_same_losses(tmp_path, alone)
    assert ", 2 processes, torch" in out and out.count("finished: ") == 1
    assert not re.search("Error|Warning|Traceback", err)
    names = [sorted(path.name for path in (folder / "checkpoints/EDAM").iterdir()) for folder in (tmp_path, alone)]
    assert names[0] == names[1]


@pytest.mark.skipif("torch.cuda.device_count() < 2", reason="there are no two GPUs (for pytest --device cuda)")
def test_gpus_of_one_process_have_the_losses_of_one(alone, drawn, tmp_path):
    """Without --device, nn.DataParallel takes all GPUs."""
    write_pairs(tmp_path / "pairs.txt", 2 * STEPS)
    Commands().run(tmp_path, "train_EDAM_cls.py", *flags(drawn, *PLAIN))
    check_same_losses(tmp_path, alone)


def test_two_machines_have_the_losses_of_one(alone, drawn, tmp_path):
    """Two nodes on the loopback, each in its own folder: only the first writes."""
    port, nodes = free_port(), []
    for rank in (0, 1):
        (tmp_path / str(rank)).mkdir()
        write_pairs(tmp_path / f"{rank}/pairs.txt", 2 * STEPS)
        where = ("--nnodes", 2, "--nproc_per_node", 1, "--node_rank", rank, "--master_addr", "127.0.0.1")
        where += ("--master_port", port)
        arguments = flags(drawn, *PLAIN, "--device", "cpu")  # NCCL takes no two processes on one GPU
        nodes.append(torchrun(tmp_path / str(rank), where, "train_EDAM_cls.py", *arguments))
    for node in nodes:
        finished(node)
    check_same_losses(tmp_path / "0", alone)
    assert [path.name for path in (tmp_path / "1").iterdir()] == ["pairs.txt"]


@pytest.fixture(scope="module")
def labelled(commands, drawn, tiny_weights, tmp_path_factory) -> Path:
    """Folder with what one process writes for seven photos, one of them without a label."""
    folder = tmp_path_factory.mktemp("labelled")
    commands.run(folder, "infer_cls.py", *infer_flags(folder, drawn, tiny_weights), status=1)
    return folder


def infer_flags(folder: Path, drawn: Path, weights: Path) -> tuple[object, ...]:
    (folder / "list.txt").write_text("\n".join([*map(image_id, range(1, 8)), "unknown"]))
    flags = ("--voc12_root", drawn, "--weights", weights, "--network", "network.resnet38_EDAM_tiny", "--skip_errors")
    return (*flags, "--infer_list", "list.txt", "--out_cam", "cam", "--out_crf_pred", "crf", "--num_workers", 0)


def test_processes_share_the_photos(labelled, drawn, tiny_weights, tmp_path):
    options = ("--standalone", "--nproc_per_node", 3)
    arguments = infer_flags(tmp_path, drawn, tiny_weights)
    arguments += one_gpu_each(3)
    out, err = finished(torchrun(tmp_path, options, "infer_cls.py", *arguments), status=1)
    for folder in ("cam", "crf"):
        expected = {path.name: content(path) for path in (labelled / folder).iterdir()}
        assert len(expected) == 8 and {path.name: content(path) for path in (tmp_path / folder).iterdir()} == expected
    assert out.count("7 photos labelled in cam, crf") == 1  # by all of them together
    assert err.count("skipped unknown: no label for unknown") == 1
    assert err.count("infer_cls.py: error: skipped 1 photo, listed above") == 1


def test_failing_process_ends_all(drawn, tmp_path):
    """The second process meets a broken photo and reports it; the first saves the state."""
    root = tmp_path / "VOC2012"
    root.mkdir()
    for name in ("JPEGImages", "Annotations"):
        (root / name).mkdir()
        for path in (drawn / name).iterdir():
            (root / name / path.name).symlink_to(path)
    pairs = write_pairs(tmp_path / "pairs.txt", 2 * STEPS).read_text().splitlines()
    broken = re.findall(r"2099_\d+", pairs[11])[0]  # step 5, the second process's pair
    photo = root / f"JPEGImages/{broken}.jpg"
    data = photo.read_bytes()
    photo.unlink()
    photo.write_bytes(damaged(data))
    first = min(step for step in range(STEPS) if broken in "".join(pairs[2 * step : 2 * step + 2]))
    arguments = flags(root, *PLAIN, *one_gpu_each(2))
    two = torchrun(tmp_path, ("--standalone", "--nproc_per_node", 2), "train_EDAM_cls.py", *arguments)
    _, err = finished(two, status=1)
    lines = re.findall("train_EDAM_cls.py: error: .*", err)  # after the other process's progress bar
    assert len(lines) == 1 and f"{broken}.jpg" in lines[0] and "--resume" in lines[0] and f"step {first}" in lines[0]
    saved = torch.load(tmp_path / "checkpoints/EDAM/state.pth", weights_only=True)
    assert saved["step"] == first and list(curve(tmp_path / "runs/EDAM", "Lr")) == list(range(first))


def replicas(net: nn.Module, count: int) -> list[nn.Module]:
    """Return what torch.nn.parallel.replicate makes on GPUs: copies that autograd sees."""
    modules = list(net.modules())
    made = []
    for _ in range(count):
        copies = {module: module._replicate_for_data_parallel() for module in modules}
        for module, copy in copies.items():
            for name, child in module._modules.items():
                setattr(copy, name, copies[child]) if child is not None else None
            for name, parameter in module._parameters.items():
                value = None if parameter is None else parameter * 1
                setattr(copy, name, value)
            for name, buffer in module._buffers.items():
                setattr(copy, name, None if buffer is None else buffer.clone())
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
    gradients = {
        name: parameter.grad.clone() for name, parameter in net.named_parameters() if parameter.grad is not None
    }
    net.zero_grad(set_to_none=True)
    shares = images.chunk(2)  # as nn.parallel.scatter shares out: whole pairs
    assert [len(share) for share in shares] == [2, 1]
    logits = torch.cat([replica(share) for replica, share in zip(replicas(net, 2), shares, strict=True)])
    assert torch.allclose(logits, expected, atol=1e-6)
    loss(logits).backward()
    assert len(gradients) > 300
    for name, parameter in net.named_parameters():
        if name in gradients:
            assert torch.allclose(parameter.grad, gradients[name], atol=1e-6), name


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
    with pytest.raises(UserError, match="cuda:2: only 2 GPUs"):
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


@pytest.mark.parametrize(
    ("device", "world", "all_gpus"),
    [(None, None, True), ("cuda", None, False), ("cuda:1", None, False), (None, "1", False), (None, "4", False)],
)
def test_torchrun_means_one_process_a_gpu(device, world, all_gpus, two_gpus, monkeypatch):
    """Of `torchrun --nproc_per_node 1` on a machine of two GPUs, too."""
    if world:
        monkeypatch.setenv("WORLD_SIZE", world)
    assert distributed.uses_all_gpus(device) is all_gpus


@pytest.mark.parametrize(
    ("device", "world", "keyword"),
    [
        ("gpu", "1", "--device gpu: not a device"),
        ("meta", "1", "--device meta: not a device"),
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
    assert distributed.cores() == 12
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert distributed.cores() == 1


def test_seed_step_depends_on_seed_step_and_rank():
    def draw(*args: int) -> torch.Tensor:
        distributed.seed_step(*args)
        return torch.rand(4)

    assert torch.equal(draw(1, 2, 3), draw(1, 2, 3))
    others = [draw(1, 2, 4), draw(1, 3, 3), draw(2, 2, 3)]
    assert not any(torch.equal(draw(1, 2, 3), other) for other in others)
