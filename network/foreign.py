"""Checkpoints of strangers: the tensors in a training state that holds objects of classes which are not known here."""

import pickle
import re
import shlex
from pathlib import Path
from typing import Any

from tool.cli import UserError
from tool.weight_file import read_torch_file

# Of a training state, in the command that saves it anew, what can be read here.
_TENSORS = "{k: v for k, v in s.items() if type(v).__name__ in ('dict', 'OrderedDict', 'Tensor', 'Parameter')}"
_MOST_CLASSES = 50  # each means one more reading of the file


class Opaque:
    """Stands for an object of an unknown class: it takes arguments and a state, and does nothing with them."""

    def __init__(self, *ignored: Any): ...

    __setstate__ = __init__


def read_foreign(path: str | Path) -> Any:
    """As `read_torch_file`, with an Opaque, named as its class, for every object of an unknown class.

    Raises UserError as that does; where an object cannot be passed over, with the command that saves the tensors anew.
    """
    opaque: dict[str, type] = {}
    while True:
        try:
            return read_torch_file(path, opaque)
        except UserError as error:
            if not isinstance(error.__cause__, pickle.UnpicklingError):
                raise
            unknown = re.search(r"Unsupported global: GLOBAL ([\w.]{1,200}) ", str(error.__cause__))
            if not unknown or unknown[1] in opaque or len(opaque) == _MOST_CLASSES:
                network = "s.state_dict()" if "persistent" in str(error.__cause__) else _TENSORS  # a whole module
                raise UserError(f"{error}; {to_save_anew(path, network)}") from error
            opaque[unknown[1]] = type(unknown[1].split(".")[-1], (Opaque,), {})


def to_save_anew(path: str | Path, network: str) -> str:
    """The command with which users save the tensors of such a file, `network` being the code for them, `s` what it holds."""
    load = "import torch, sys; s = torch.load(sys.argv[1], weights_only=False, map_location='cpu')"
    paths = f"{shlex.quote(str(path))} {shlex.quote(f'{path}.tensors.pth')}"
    return f'only if you trust who made it, save its tensors anew: python -c "{load}; torch.save({network}, sys.argv[2])" {paths}'
