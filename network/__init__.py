"""The networks. `--network MODULE` names any importable module with a class `Net`; a new network is a new file here."""

import argparse
import contextlib
import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from torch.overrides import TorchFunctionMode

from tool import cli
from tool.cli import UserError

# Options that some networks take, each with a flag.
OPTIONS = ("backbone", "output_stride")


def add_flags(parser: argparse.ArgumentParser, network: str) -> None:
    """Add the flags that say which network is made. network: the default."""
    add = parser.add_argument
    add("--network", type=cli.module_name, default=network, metavar="MODULE", help="module that holds the class Net")
    add("--backbone", metavar="NAME", help="for networks on timm: its name of the backbone")
    add("--output_stride", type=int, choices=(8, 16), help="for networks on timm: pixels of a photo per position")


def options(args: argparse.Namespace) -> dict[str, Any]:
    """The options of `make_net` that the flags give."""
    given = {name: getattr(args, name, None) for name in OPTIONS}
    return {name: value for name, value in given.items() if value is not None}


class _NothingDrawn(TorchFunctionMode):
    """Tensors stay as they are where they would be filled with random numbers, which takes a second for a large network."""

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping | None = None) -> Any:
        drawing = func.__name__ in ("uniform_", "normal_", "kaiming_uniform_")  # of Tensor or torch.nn.init
        return (*args, *(kwargs or {}).values())[0] if drawing else func(*args, **(kwargs or {}))


def make_net(
    module: str,
    needs: Sequence[str] = (),
    kind: str = "Net",
    class_names: Sequence[str] = (),
    init_weights: bool = True,
    **options,
) -> Any:
    """`Net(**options)`, or another class `kind`, of a module such as "network.resnet38_EDAM_cls".

    What is returned is an nn.Module with the attributes that its use `needs`. `class_names`: of another dataset than VOC 2012; its
    checkpoints name them, and it loads no others. `drawn` is false where all weights are read from a file: what a network would
    draw of uniform and normal numbers, tensors that no file holds included, is then arbitrary.

    Raises UserError: no such module, no Net in it, an option that it does not take, or an attribute that it lacks.
    """
    try:
        with contextlib.nullcontext() if init_weights else _NothingDrawn():
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
    if class_names:
        net.class_names = tuple(class_names)
    return net
