"""Shared fixtures: device, published network with rule-made weights, drawn photos, scripts as processes."""

import copy
import os
from collections.abc import Callable
from pathlib import Path

import devices
import numpy as np
import pytest
import torch
from commands import Command, Commands
from torch import distributed, nn

from tool.precision import setup_precision
from voc12.images import load_label

REPO = Path(__file__).resolve().parent.parent
PARITY = REPO / "tests" / "parity"
SHARED = REPO.parent / "shared"

needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the figures on real photos are not in ../shared")
DRAWN, PHOTOS = PARITY / "synthetic/VOC2012", SHARED / "parity/VOC2012_small"  # datasets with parity figures
FIGURES = [
    *((DRAWN, f"2099_00000{number}") for number in (1, 2)),
    *(pytest.param(PHOTOS, f"2007_00{number}", marks=needs_shared) for number in ("0648", "1185", "1377", "1416")),
]


def figure(root: Path, kind: str, image_id: str) -> np.ndarray:
    """Return a parity figure: "cam" and "crf" are scores (n, H, W), the others label maps (H, W)."""
    if root == DRAWN:
        return np.load(PARITY / "synthetic/figures.npz")[f"{kind}_{image_id}"]
    path = SHARED / f"parity/pseudo_labels/{kind}/{image_id}"
    if kind in ("cam", "crf"):
        return np.load(f"{path}.npz")[{"cam": "cam", "crf": "prob"}[kind]]
    return load_label(f"{path}.png")


def pytest_addoption(parser: pytest.Parser) -> None:
    help = "compute on the CPU, whatever machine this is, or on its GPUs as well"
    parser.addoption("--device", choices=("cpu", "cuda"), default="cpu", help=help)


def pytest_configure(config: pytest.Config) -> None:
    devices.name = config.getoption("--device")
    if devices.name == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # read when CUDA is first used
    elif not torch.cuda.is_available():
        raise pytest.UsageError("--device cuda: this PyTorch sees no GPU; without --device the tests run on the CPU")
    setup_precision(tf32=False)


def without_dropout(net: nn.Module) -> nn.Module:
    """Set every dropout probability to 0, as for the parity figures."""
    for module in net.modules():
        if isinstance(module, nn.Dropout | nn.Dropout2d):
            module.p = 0.0
    return net


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Return the device of `pytest --device`."""
    return torch.device(devices.name)


@pytest.fixture(scope="session")
def _filled() -> nn.Module:
    from fill_weights import fill

    from network.resnet38_EDAM_cls import Net

    net = Net()
    net.load_state_dict(fill(net.state_dict()), strict=True)
    return without_dropout(net)


@pytest.fixture
def filled_net(_filled, device) -> nn.Module:
    """Return a copy of the published network with rule-made weights and no dropout."""
    return copy.deepcopy(_filled).to(device)


@pytest.fixture(scope="session")
def filled_weights(_filled, tmp_path_factory) -> Path:
    """Return a file with the weights of `filled_net`."""
    path = tmp_path_factory.mktemp("weights") / "filled.pth"
    torch.save(_filled.state_dict(), path)
    yield path
    path.unlink()  # 0.4 GB


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory) -> Path:
    """Return a file with random weights of network.resnet38_EDAM_tiny."""
    from network.resnet38_EDAM_tiny import Net

    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Net()
    path = tmp_path_factory.mktemp("weights") / "tiny.pth"
    torch.save(net.state_dict(), path)
    return path


@pytest.fixture(scope="session")
def drawn(tmp_path_factory) -> Path:
    """Return a devkit of 40 drawn photos of 64 pixels, shared by all tests: read only."""
    from demo.draw import make_devkit

    return make_devkit(tmp_path_factory.mktemp("drawn"), seed=0, train=40, val=0, size=64, num_workers=1)


@pytest.fixture(scope="session")
def data(drawn, tmp_path_factory) -> Path:
    """Return the data of all trainings' cases: read only."""
    from training import make_data

    return make_data(drawn, tmp_path_factory.mktemp("data") / "data")


@pytest.fixture(scope="session")
def commands() -> Commands:
    """Return the starter of scripts as processes."""
    return Commands() if devices.name == "cpu" else Commands("--device", devices.name)


@pytest.fixture
def start_ranks(commands) -> Callable[..., list[Command]]:
    """Start a process in each folder as torchrun would, with its store here, but without its seconds of importing."""
    stores = []

    def start(folders: list[Path], script: str, *args: object, **env: object) -> list[Command]:
        stores.append(distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False))
        group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": stores[-1].port, "WORLD_SIZE": len(folders)}
        group |= {"TORCHELASTIC_USE_AGENT_STORE": True, "TORCHELASTIC_RESTART_COUNT": 0, **env}
        args = ("--device", devices.name if torch.cuda.device_count() >= len(folders) else "cpu", *args)
        return [commands.start(f, script, *args, RANK=rank, LOCAL_RANK=rank, **group) for rank, f in enumerate(folders)]

    return start
