"""Fixtures shared by the tests: the published network with rule-made weights, and where parity figures lie."""

import copy
import json
import os
import sys
from pathlib import Path

import pytest

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the tests are about the CPU, whatever machine they run on

import torch
from commands import Commands
from torch import nn

REPO = Path(__file__).resolve().parent.parent
PARITY = REPO / "tests" / "parity"
SHARED = REPO.parent / "shared"
sys.path[:0] = [str(REPO), str(PARITY)]

needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the figures on real photos are not beside this clone")


def without_dropout(net: nn.Module) -> nn.Module:
    """Set every dropout probability to 0, as for the parity figures."""
    for module in net.modules():
        if isinstance(module, nn.Dropout | nn.Dropout2d):
            module.p = 0.0
    return net


@pytest.fixture(scope="session")
def layout() -> dict[str, list[int]]:
    return json.loads((PARITY / "state_dict_layout.json").read_text())


@pytest.fixture(scope="session")
def _filled() -> nn.Module:
    from fill_weights import fill

    from network.resnet38_EDAM_cls import Net

    net = Net()
    net.load_state_dict(fill(net.state_dict()), strict=True)
    return without_dropout(net)


@pytest.fixture
def filled_net(_filled) -> nn.Module:
    """The published-size network with the rule-made weights and no dropout, for this test to change as it likes."""
    return copy.deepcopy(_filled)


@pytest.fixture(scope="session")
def filled_weights(_filled, tmp_path_factory) -> Path:
    """The weights of `filled_net` as a file."""
    path = tmp_path_factory.mktemp("weights") / "filled.pth"
    torch.save(_filled.state_dict(), path)
    yield path
    path.unlink()  # 0.4 GB


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory) -> Path:
    """Weights of network.resnet38_EDAM_tiny as a file, at random."""
    from network.resnet38_EDAM_tiny import Net

    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Net()
    path = tmp_path_factory.mktemp("weights") / "tiny.pth"
    torch.save(net.state_dict(), path)
    return path


@pytest.fixture(scope="session")
def drawn(tmp_path_factory) -> Path:
    """A devkit of 40 drawn photos, 64 pixels wide or high: JPEGImages, Annotations, saliency; not to be changed."""
    from demo.draw import make_devkit

    return make_devkit(tmp_path_factory.mktemp("drawn"), seed=0, train=40, val=0, size=64, num_workers=1)


@pytest.fixture(scope="session")
def commands() -> Commands:
    """Runs the scripts as processes."""
    return Commands()
