"""Old names of network.weights, until their users have moved."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from network import weights as _weights
from network.weights import LoadReport, load_weights

__all__ = ["load_weights", "make_poolnet"]


def make_poolnet(
    module: str, weights: str | None, needs: Sequence[str], init_weights: bool = True
) -> tuple[Any, Callable[[str], LoadReport]]:
    net = _weights.make_poolnet(module, weights, needs, init_weights)
    return net, partial(load_weights, net)
