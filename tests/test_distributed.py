"""Scripts under torchrun: the losses and files of one process, ranks that fail; DataParallel's replicas."""

import os
import re
import select
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from commands import REPO, Commands, ended
from devices import content, limit
from torch import Tensor, nn
from training import CASES, curve, damage, flags, image_id, make_data, same_run, tensors, write_pairs

from network import deeplab_v2_tiny, poolnet_tiny, resnet38_EDAM_tiny
from tests import plain_net, small_deeplab, small_poolnet
from tool import distributed, processes
from tool.cli import UserError

STEPS = 30  # more than the 25 checkpoints, so that resumed runs repeat steps


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


@pytest.mark.parametrize(
    ("script", "network", "outputs", "problem"),
    [
        ("infer_cls.py", resnet38_EDAM_tiny, ["cam", "crf_pred"], "skipped unknown: no label for unknown"),
        ("infer_deeplab.py", small_deeplab, ["pred"], "skipped unknown: "),
        ("infer_sal.py", small_poolnet, ["sal"], "skipped unknown: "),
    ],
)
def test_ranks_share_the_photos(script, network, outputs, problem, commands, start_ranks, drawn, tmp_path):
    """Seven photos and one that is unknown: the files of one process, and its messages once."""
    torch.manual_seed(0)
    torch.save(network.Net().state_dict(), tmp_path / "net.pth")
    (tmp_path / "list.txt").write_text("\n".join([*map(image_id, range(1, 8)), "unknown"]))
    same = ("--voc12_root", drawn, "--weights", "net.pth", "--network", network.__name__)
    same += ("--infer_list", "list.txt", "--num_workers", 0, "--skip_errors")
    commands.run(tmp_path, script, *same, *(f"--out_{name}={name}1" for name in outputs), status=1)
    ranks = start_ranks([tmp_path] * 3, script, *same, *(f"--out_{name}={name}" for name in outputs))
    assert sorted(one.wait() for one in ranks) == [0, 0, 1]
    for folder in outputs:
        found, expected = ({p.name: content(p) for p in (tmp_path / f).glob("[!e]*")} for f in (folder, f"{folder}1"))
        assert len(expected) == 7 and found == expected
    done = re.findall(rf"^7 .+ in {', '.join(outputs)}$", "".join(one.stdout for one in ranks), re.MULTILINE)
    assert len(done) == 1
    printed = "".join(line for one in ranks for line in one.stderr)
    assert printed.count(problem) == printed.count("error: skipped 1 photo") == 1


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


@pytest.mark.parametrize("make", [plain_net.Net, deeplab_v2_tiny.Net, poolnet_tiny.Net])
def test_data_parallel_replicas(make):
    """nn.DataParallel's steps (scatter the photos, replicate, apply, gather) on CPU replicas: same outputs, same gradients."""
    torch.manual_seed(0)
    net = make().train()
    if make is poolnet_tiny.Net:
        net.eval()  # batch norms that learn need the whole batch
    images = torch.randn(3, *(2, 3, 32, 32) if make is plain_net.Net else (3, 128, 128))

    def compute(*shares: tuple[nn.Module, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return all outputs and the gradients of the mean of their squares."""
        outputs = [network(share) for network, share in shares]
        outputs = torch.cat([found[0] if isinstance(found, list) else found for found in outputs])
        net.zero_grad(set_to_none=True)
        outputs.square().mean().backward()
        return outputs, {name: one.grad for name, one in net.named_parameters() if one.grad is not None}

    expected, gradients = compute((net, images))
    outputs, found = compute(*zip(replicas(net, 2), images.chunk(2), strict=True))  # as scatter shares out: whole pairs
    torch.testing.assert_close(outputs, expected, rtol=1e-5, atol=1e-5)
    trained = {name for name, one in net.named_parameters() if one.requires_grad}
    assert gradients.keys() == found.keys() == trained
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5, msg=name)


def test_setup_takes_the_gpu_of_the_rank(monkeypatch):
    """Two GPUs, a process group of four, and a second one with long timeouts."""
    groups = []
    for name, value in (("is_available", True), ("device_count", 2), ("set_device", None)):
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    monkeypatch.setattr(dist, "init_process_group", lambda backend, **_: groups.append(backend))
    monkeypatch.setattr(dist, "new_group", lambda backend, timeout: groups.append((backend, timeout.days)))
    monkeypatch.setattr(dist, "get_rank", lambda: 3)
    monkeypatch.setattr(dist, "get_world_size", lambda: 4)
    monkeypatch.setattr(processes, "patient_group", None)
    assert distributed.setup(None) == (torch.device("cuda", 0), 0, 1)
    assert distributed.setup("cuda:1") == (torch.device("cuda", 1), 0, 1)
    for device, keyword in (("cuda:2", "visible GPUs: 2"), ("gpu", "not a device")):
        with pytest.raises(UserError, match=f"--device {device}: {keyword}"):
            distributed.setup(device)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert distributed.setup(None) == (torch.device("cuda", 1), 3, 4)
    assert distributed.setup("cuda", independent=True) == (torch.device("cuda", 1), 3, 4)
    assert groups == ["nccl", ("gloo", 7), "gloo", ("gloo", 7)]
    with pytest.raises(UserError, match="cuda:0: torchrun"):
        distributed.setup("cuda:0")


def test_lost_rank_keeps_the_cause(monkeypatch):
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    cause = "NCCL error in: ProcessGroupNCCL.cpp:3690, invalid usage, NCCL version 2.27.5"
    with pytest.raises(UserError, match=f"rank 1: .*{re.escape(cause)}"), distributed.translate_errors(""):
        raise RuntimeError(f"{cause}\nncclInvalidUsage: Duplicate GPU detected")


def test_seed_step_depends_on_seed_step_and_rank():
    def draw(*args: int) -> float:
        distributed.seed_step(*args)
        return torch.rand(1).item()

    assert len({draw(1, 2, 3), draw(1, 2, 3), draw(1, 2, 4), draw(1, 3, 3), draw(2, 2, 3)}) == 4


def test_main_process_is_awaited_in_the_patient_group(monkeypatch):
    groups = []
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_rank", lambda: 0)
    monkeypatch.setattr(dist, "broadcast_object_list", lambda values, source, group=None: groups.append(group))
    monkeypatch.setattr(processes, "patient_group", "of 7 days")
    assert processes.on_main(lambda: "found") == "found" and groups == ["of 7 days"]


def start_torchrun(folder: Path, drawn: Path, fail: str) -> subprocess.Popen:
    """Start a training of two processes that fails as tests/failing_net.py reads `fail`."""
    write_pairs(folder / "pairs.txt", 2 * STEPS)
    arguments = flags(drawn, "--network", "tests.failing_net", "--batch_size", 2, "--device", "cpu", "--resume")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", 2]
    env = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1", "FAIL": fail}
    words = [str(word) for word in (*command, REPO / "train_EDAM_cls.py", *arguments)]
    return subprocess.Popen(words, cwd=folder, env=env, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(folder: Path, drawn: Path) -> Path:
    """Train to the end, without a failure."""
    process = start_torchrun(folder, drawn, "none 0 0")
    _, error = process.communicate(timeout=200)
    assert process.returncode == 0, error
    return folder


@pytest.fixture(scope="module")
def whole_run(drawn, tmp_path_factory) -> Path:
    """Folder of an uninterrupted run."""
    return finish(tmp_path_factory.mktemp("whole"), drawn)


@pytest.mark.parametrize(
    ("fail", "keyword"),
    [
        ("SIGKILL 0 18", "rank 1: lost connection"),
        ("SIGKILL 1 5", "rank 0: lost connection"),
        ("error 0 27", "ZeroDivisionError: made"),
        ("error 1 11", "ZeroDivisionError: made"),
        ("deaf 1 3", "ZeroDivisionError: made"),
    ],
)
def test_failing_rank_ends_all(fail, keyword, whole_run, drawn, tmp_path):
    process = start_torchrun(tmp_path, drawn, fail)
    while process.poll() is None and not (tmp_path / "failed").exists():
        select.select([], [], [], 0.02)
    try:
        assert all(ended(int((tmp_path / f"process{rank}").read_text()), 5) for rank in (0, 1))
        assert process.communicate(timeout=200)[1].count(keyword) == 1
    finally:
        process.kill()
    saved = torch.load(tmp_path / "checkpoints/EDAM/state.pth", weights_only=True)
    assert 0 < saved["step"] < int(fail.split()[2])
    assert all(tensors(path) for path in (tmp_path / "checkpoints/EDAM").glob("[!.]*.pth"))
    assert same_run(finish(tmp_path, drawn), whole_run, "EDAM")


def test_signal_to_one_rank_ends_all(start_ranks, whole_run, drawn, tmp_path):
    write_pairs(tmp_path / "pairs.txt", 2 * STEPS)
    same = flags(drawn, "--network", "tests.failing_net", "--batch_size", 2, "--device", "cpu", "--resume")
    ranks = start_ranks([tmp_path] * 2, "train_EDAM_cls.py", *same, FAIL="SIGTERM 1 7")
    assert [one.wait() for one in ranks] == [143, 143] and [one.stderr for one in ranks] == [[], []]
    assert torch.load(tmp_path / "checkpoints/EDAM/state.pth", weights_only=True)["step"] == 7
    ranks = start_ranks([tmp_path] * 2, "train_EDAM_cls.py", *same, FAIL="none 0 0")
    assert [one.wait() for one in ranks] == [0, 0] and same_run(tmp_path, whole_run, "EDAM")


@pytest.mark.parametrize(
    ("fail", "lr", "keyword"),
    [("none 0 0", 1e30, "Lower --lr"), ("full 1 5", 0.01, "No space left"), ("full 0 5", 0.01, "No space left")],
)
def test_ranks_fail_in_one_line(fail, lr, keyword, start_ranks, drawn, tmp_path):
    write_pairs(tmp_path / "pairs.txt", 2 * STEPS)
    same = flags(drawn, "--network", "tests.failing_net", "--batch_size", 2, "--lr", lr)
    ranks = start_ranks([tmp_path] * 2, "train_EDAM_cls.py", *same, FAIL=fail)
    assert [one.wait() for one in ranks] == [1, 1]
    (line,) = [line for one in ranks for line in one.stderr]
    assert keyword in line
