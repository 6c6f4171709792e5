"""The networks. `--network MODULE` names any importable module with a class `Net`; a new network is a new file here."""

import importlib
from typing import Any

from tool.errors import UserError


def make_net(module: str) -> Any:
    """`Net()` of a module such as "network.resnet38_EDAM_cls", an nn.Module whose methods are those that its use asks for.

    UserError: no such module, or no Net in it.
    """
    try:
        return importlib.import_module(module).Net()
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise
        raise UserError(
            f"--network {module}: no such module; it names one such as network.resnet38_EDAM_cls"
        ) from error
    except AttributeError as error:
        if error.name != "Net":
            raise
        raise UserError(f"--network {module}: the module has no class Net") from error
