"""Networks. `--network MODULE` names any importable module with a class `Net`; a new network is a new file here."""

import argparse
import contextlib
import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from torch.overrides import TorchFunctionMode

from tool.cli import UserError


def add_flags(parser: argparse.ArgumentParser, network: str) -> None:
    """Add the flags that choose a network. network: the default."""
    add = parser.add_argument
    add("--network", default=network, metavar="MODULE", help="module that holds the class Net")
    add("--backbone", metavar="NAME", help="for networks on timm: timm's name of the backbone")
    add("--output_stride", type=int, choices=(8, 16), help="for networks on timm: photo pixels per feature position")


def options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options of `make_net` that are given as flags."""
    given = {name: getattr(args, name, None) for name in ("backbone", "output_stride")}
    return {name: value for name, value in given.items() if value is not None}


class _SkipInit(TorchFunctionMode):
    """Skip random initialisation, which takes a second for a large network."""

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping | None = None) -> Any:
        random = func.__name__ in ("uniform_", "normal_", "kaiming_uniform_")  # of Tensor or torch.nn.init
        return (*args, *(kwargs or {}).values())[0] if random else func(*args, **(kwargs or {}))


def make_net(
    module: str,
    needs: Sequence[str] = (),
    kind: str = "Net",
    class_names: Sequence[str] = (),
    init_weights: bool = True,
    **options,
) -> Any:
    """Return `Net(**options)`, or another class `kind`, of a module such as "network.resnet38_EDAM_cls".

    needs: attributes that the network must have. class_names: stored in checkpoints and checked on load; empty for VOC 2012.
    init_weights: False if a file will fill all tensors.
    UserError: no such module, no Net in it, an unknown option, or an attribute is missing.
    """
    try:
        with contextlib.nullcontext() if init_weights else _SkipInit():
            net = getattr(importlib.import_module(module), kind)(**options)
    except ModuleNotFoundError as error:
        raise UserError(f"--network {module}: no such module ({error}). Name one of network/.") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(f"--network {module}: {error}. Name another module, or correct its options.") from error
    if lacking := [name for name in needs if not hasattr(net, name)]:
        raise UserError(f"--network {module}: this script needs {kind}.{lacking[0]}, which {module} does not define")
    if class_names:
        net.class_names = tuple(class_names)
    return net
