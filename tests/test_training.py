"""The training loop with a network of one layer: mixed precision, batch norms that learn, sessions in use; full disk."""

import argparse
import platform
import resource
import signal
import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch
from conftest import without_dropout
from torch import Tensor, nn
from training import CASES

from network.deeplab_v2_tiny import Net as TinyDeepLab
from network.frozen_norm import unfreeze_batch_norms
from network.resnet38_EDAM_tiny import Net as TinyEDAM
from tool import distributed, training
from tool.checkpoint import checkpoint_steps
from tool.cli import UserError
from tool.precision import Autocast, keep_freed_memory

STEPS = 6


class Numbers:
    """Items without photos."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, position: int) -> tuple[Tensor]:
        return (torch.full((1,), 1.0 + position % 3),)

    def ids_at(self, position: int) -> list[str]:
        return [str(position)]


@pytest.fixture
def make(tmp_path, monkeypatch) -> Callable[..., training.Training]:
    """Return a maker of trainings; their `rates` are the steps whose learning rate was asked for."""
    monkeypatch.setattr("tool.checkpoint.catch_signals", list)

    def make(net: nn.Module, amp: str = "off", factor: float = 1.0, world: int = 1) -> training.Training:
        flags = argparse.ArgumentParser()
        training.add_flags(flags, "s", "nothing")
        folders = ["--checkpoint_dir", str(tmp_path / "c"), "--log_dir", str(tmp_path / "r"), "--amp", amp]
        args = flags.parse_args([*folders, "--num_workers", "0"])
        vars(args).update(network="tests.made", weights=None, batch_size=2, lr=0.1)
        rates: list[int] = []
        task = training.Task(
            net=net.train(),
            optimizer=torch.optim.SGD(net.parameters(), 0.001, momentum=0.9),
            data=Numbers(),
            max_step=STEPS,
            settings={},
            loss=lambda model, batch: factor * model(batch[0]).float().sum(),
            set_learning_rate=lambda step: rates.append(step) or 0.1,
            load_weights=str,
            pictures=lambda _: (),
        )
        made = training.Training(args, task, torch.device("cpu"), 0, world)
        made.rates = rates
        return made

    torch.manual_seed(0)
    return make


def test_fp16_repeats_steps_that_overflow(make, tmp_path):
    """Every step updates the weights, and the schedule does not advance meanwhile."""
    run, plain = make(net := nn.Linear(1, 1), "fp16"), nn.Linear(1, 1)
    plain.load_state_dict(net.state_dict())
    run.run()
    assert run.skipped > 0 and run.rates == list(range(STEPS))
    log = (tmp_path / "c/s/train.log").read_text()
    assert f"scale {run.scaler.get_scale():g}, {run.skipped} update" in log
    optimizer = torch.optim.SGD(plain.parameters(), 0.001, momentum=0.9)
    for step in range(STEPS):
        optimizer.zero_grad()
        plain(torch.stack([Numbers()[2 * step][0], Numbers()[2 * step + 1][0]])).sum().backward()
        optimizer.step()
    torch.testing.assert_close(net.state_dict(), plain.state_dict(), rtol=1e-3, atol=1e-3)


def test_fp16_whose_steps_all_overflow(make, tmp_path):
    with pytest.raises(UserError, match="--amp fp16"):
        make(nn.Linear(1, 1), "fp16", factor=1e30).run()
    assert not list((tmp_path / "c/s").glob("*.pth"))


def test_one_collective_a_step(make, monkeypatch):
    """The host waits for its numbers once a step, after the optimizer's update."""
    calls = []
    monkeypatch.setattr(distributed, "all_reduce_sum", lambda value: calls.append("sum") or value)
    for name in ("item", "tolist", "__float__"):
        read = getattr(Tensor, name)
        monkeypatch.setattr(Tensor, name, lambda tensor, read=read: calls.append("wait") or read(tensor))
    run = make(nn.Linear(1, 1))
    run.task.optimizer.register_step_post_hook(lambda *_: calls.append("update"))
    run.run()
    before = ["wait", "sum", "wait"]  # the loader draws a seed; the ranks agree on the first batch
    assert calls == before + ["sum", "update", "wait"] * STEPS


def test_signal_that_also_ends_the_readers_is_no_error(make, tmp_path, monkeypatch):
    """As one to the whole process group does."""
    run = make(nn.Linear(1, 1))
    read_next = run._next

    def end_readers(step: int) -> list:
        if step < 3:
            return read_next(step)
        run.signals.append(signal.SIGTERM)
        run.problem = "a process that reads photos was killed"
        return []

    monkeypatch.setattr(run, "_next", end_readers)
    with pytest.raises(SystemExit, match="143"):
        run.run()
    assert "stopped by a signal after step 3" in (tmp_path / "c/s/train.log").read_text()
    assert torch.load(tmp_path / "c/s/state.pth", weights_only=True)["step"] == 3


def test_batch_norms_that_learn_need_the_whole_batch(make, monkeypatch):
    """One GPU in place of DataParallel; without SyncBatchNorm, which CPUs lack, no several processes."""
    normed = nn.Sequential(nn.Unflatten(1, (1, 1, 1)), nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(1, 1))
    with pytest.raises(UserError, match=r"tests\.made.*batch norms.*without torchrun"):
        make(normed, world=2)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(nn, "DataParallel", lambda model: "all GPUs")
    assert make(nn.Linear(1, 1))._parallel_model() == "all GPUs"
    assert isinstance(make(normed)._parallel_model(), nn.Module)
    run = make(nn.Linear(1, 1))
    run.args.device = "cuda"  # one GPU
    assert isinstance(run._parallel_model(), nn.Module)
    monkeypatch.setenv("WORLD_SIZE", "1")  # `torchrun --nproc_per_node 1` means one GPU
    assert isinstance(make(nn.Linear(1, 1))._parallel_model(), nn.Module)


def test_shared_batch_norms_keep_names_and_parameters():
    net = TinyDeepLab().train()
    unfreeze_batch_norms(net)
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    parameters, names = list(net.parameters()), list(net.state_dict())
    distributed.share_batch_norms(net, norms)
    shared = [module for module in net.modules() if isinstance(module, nn.SyncBatchNorm)]
    assert len(shared) == len(norms) > 5 and all(norm.momentum == 0.05 and norm.training for norm in shared)
    assert all(a is b for a, b in zip(parameters, net.parameters(), strict=True)) and names == list(net.state_dict())


def test_ranks_share_batch_norms(make, monkeypatch):
    monkeypatch.setattr(training, "DistributedDataParallel", lambda model, **_: model)
    run = make(nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(1, 1)))
    run.world = 2
    assert "SyncBatchNorm" in str(run._parallel_model())


def test_session_in_use(commands, data, tmp_path):
    """A second run of its name is refused and told who holds it; a killed run leaves no lock, nor do its loaders."""
    case = CASES["EDAM"]
    flags = case.flags(data, "--max_epoches", 1000, "--num_workers", 1, "--save_every", 1)
    first = commands.start(tmp_path, case.script, *flags)
    assert first.until((tmp_path / "checkpoints/s/state.pth").is_file)
    for more in ((), ("--resume", "--lr", 1)):  # the state, of another --lr, is not read before the lock
        line = commands.error(tmp_path, case.script, *flags, *more)
        assert "--session_name s" in line and f"process {first.pid}" in line
    assert not (tmp_path / "checkpoints/s.1").exists()
    first.send(signal.SIGKILL)
    commands.run(tmp_path, case.script, *case.flags(data))
    assert (tmp_path / "checkpoints/s.1/train.log").is_file()


def test_checkpoint_steps():
    """25, or one a step in short runs."""
    for steps in (25, 26, 33068):
        numbers = checkpoint_steps(steps)
        assert list(numbers.values()) == list(range(1, 26)) and list(numbers)[-1] == steps
    assert checkpoint_steps(1) == {1: 25} and list(checkpoint_steps(7)) == [1, 2, 3, 4, 5, 6, 7]


def test_full_disk_of_events(make):
    run, noise = make(nn.Linear(1, 1)), np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"r/s.*File too large"):
            run.monitor.pictures(0, [("a", noise)])
            run.monitor.flush()
        run.monitor.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_autocast_in_other_threads(device):
    layer = Autocast(nn.Linear(4, 4).to(device), device, "bf16")
    seen = []
    thread = threading.Thread(target=lambda: seen.append(layer(torch.ones(1, 4, device=device)).dtype))
    thread.start()
    thread.join()
    assert seen == [torch.bfloat16]


def test_bf16_logits_and_gradients(device):
    torch.manual_seed(0)
    net = without_dropout(TinyEDAM()).to(device).train()
    images = torch.randn(1, 2, 3, 64, 64).to(device)
    results = []
    for amp in ("off", "bf16"):
        net.zero_grad()
        logits = Autocast(net, device, amp)(images)
        logits.float().square().sum().backward()
        results.append((logits.detach(), net.b5.conv_branch2a.weight.grad.clone()))
    (exact, exact_grad), (rounded, rounded_grad) = results
    assert rounded.dtype == torch.float32  # the last sum is not rounded
    assert 0 < (rounded - exact).norm() / exact.norm() < 0.03
    assert (rounded_grad - exact_grad).norm() / exact_grad.norm() < 0.1
    assert rounded_grad.dtype == torch.float32


def test_freed_memory_is_kept():
    assert keep_freed_memory() or platform.libc_ver()[0] != "glibc"
