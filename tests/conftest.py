"""Fixtures shared by the tests: the published network with rule-made weights, and where parity figures lie."""

import copy
import json
import sys
from pathlib import Path

import pytest
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
