"""The networks. `--network MODULE` names any importable module with a class `Net`; a new network is a new file here."""

import argparse
import importlib
from collections.abc import Sequence
from typing import Any

from tool import flags
from tool.errors import UserError

# Options that some networks take, each with a flag.
OPTIONS = ("backbone", "output_stride")


def add_flags(parser: argparse.ArgumentParser, network: str) -> None:
    """Add the flags that say which network is made. network: the default."""
    add = parser.add_argument
    add("--network", type=flags.module_name, default=network, metavar="MODULE", help="module that holds the class Net")
    add("--backbone", metavar="NAME", help="for networks on timm: its name of the backbone")
    add("--output_stride", type=int, choices=(8, 16), help="for networks on timm: pixels of a photo per position")


def options(args: argparse.Namespace) -> dict[str, Any]:
    """The options of `make_net` that the flags give."""
    given = {name: getattr(args, name, None) for name in OPTIONS}
    return {name: value for name, value in given.items() if value is not None}


def make_net(module: str, needs: Sequence[str] = (), kind: str = "Net", **options) -> Any:
    """`Net(**options)`, or another class `kind`, of a module such as "network.resnet38_EDAM_cls".

    What is returned is an nn.Module with the attributes that its use `needs`.

    Raises UserError: no such module, no Net in it, an option that it does not take, or an attribute that it lacks.
    """
    try:
        net = getattr(importlib.import_module(module), kind)(**options)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise
        raise UserError(
            f"--network {module}: no such module; it names one such as network.resnet38_EDAM_cls"
        ) from error
    except AttributeError as error:
        if error.name != kind:
            raise
        raise UserError(f"--network {module}: the module has no class {kind}") from error
    except TypeError as error:  # raised by Net or, where it hands options on, by one of its bases or parts
        unknown = [name for name in options if f"unexpected keyword argument '{name}'" in str(error)]
        if not unknown:
            raise
        raise UserError(f"--network {module}: its Net takes no {unknown[0]}; name a network whose Net does") from error
    if lacking := [name for name in needs if not hasattr(net, name)]:
        raise UserError(f"--network {module}: a network for other work than this script's, it has no {lacking[0]}")
    return net
