"""The networks. `--network MODULE` names any importable module with a class `Net`; a new network is a new file here."""

import importlib
from typing import Any

from tool.errors import UserError


def make_net(module: str, kind: str = "Net", **options) -> Any:
    """`Net(**options)`, or another class `kind`, of a module such as "network.resnet38_EDAM_cls".

    What is returned is an nn.Module whose methods are those that its use asks for.

    Raises UserError: no such module, no Net in it, or an option that it does not take.
    """
    try:
        return getattr(importlib.import_module(module), kind)(**options)
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
