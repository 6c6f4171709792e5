"""Initial and trained weights: the MXNet ImageNet backbone, a PyTorch backbone, or an EDAM network."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from network.mxnet_params import read_params, to_resnet38d
from tool.errors import UserError
from tool.weight_file import MXNET, TORCH_LEGACY, TORCH_ZIP, open_weights, read_torch_file

_WRAPPERS = ("state_dict", "model", "net", "network")  # under which training states keep the network
_BACKBONE = re.compile(r"(conv1a|b[2-7](_\d+)?|bn7)\.")
# Classifiers and side branches that PSA, SEAM and ImageNet training put on this backbone. EDAM has none of them.
_OTHER_HEADS = {"fc8", "f8_3", "f8_4", "f8_5", "f9", "linear1000", "classifier"}
_COUNTER = "num_batches_tracked"  # of batch norms; absent from MXNet and old files, and used by nothing here
_POSITIONS = "embedding.position.pe"  # a fixed table whose length follows the crop; the network's own is right


@dataclass
class LoadReport:
    """What `load_weights` did. `missing` tensors kept their initial values, `unexpected` ones were left out."""

    path: str
    loaded: int
    missing: list[str]
    unexpected: list[str]

    def __str__(self) -> str:
        line = f"loaded {self.loaded} tensors from {self.path}"
        if self.missing:
            line += f"; {_tops(self.missing)} not in it, so these start from random values"
        if self.unexpected:
            line += f"; left out {_tops(self.unexpected)}"
        return line


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Tensors of a network by name, on the CPU, from an MXNet `.params` or a PyTorch `.pth` file. Nothing in it can run.

    Of a training state (`{"state_dict": ...}`, "model", "net", "network") the network alone; "module." before all names
    (DataParallel) is removed. Raises UserError naming the file: missing, of another kind, damaged, or without tensors.
    """
    file, kind = open_weights(path)
    file.close()
    if kind == MXNET:
        try:
            return to_resnet38d(read_params(path))
        except UserError as error:
            raise error if str(path) in str(error) else UserError(f"{path}: {error}") from None
    if kind not in (TORCH_ZIP, TORCH_LEGACY):
        raise UserError(f"{path} holds no weights: it is {kind}; MXNet .params and PyTorch .pth files are read")
    return _unwrap(read_torch_file(path), path)


def load_weights(net: nn.Module, path: str | Path) -> LoadReport:
    """Load a file into `net`: all of its tensors, or a whole backbone, the new layers then keeping their initial values.

    Classifiers known from this backbone's family are left out. Nothing changes in `net` unless everything fits.
    Raises UserError, naming the first offenders: weights of another network, other shapes, values that are not finite.
    """
    given = read_state_dict(path)
    own = net.state_dict()
    if _POSITIONS in own and _POSITIONS in given and given[_POSITIONS].shape != own[_POSITIONS].shape:
        del given[_POSITIONS]

    loaded = [name for name in own if name in given]
    missing = [name for name in own if name not in given and name != _POSITIONS and not name.endswith(_COUNTER)]
    unexpected = [name for name in given if name not in own]
    hint = "; is --network the one that it was trained with?" if _is_edam(given) else ""
    backbone = bool(loaded) and all(_BACKBONE.match(name) for name in loaded)
    if unexpected and not (backbone and all(name.split(".")[0] in _OTHER_HEADS for name in unexpected)):
        raise UserError(
            f"{path} holds {_seems(given)}, not weights of this network: {_first(unexpected)} unknown to it{hint}"
        )
    if missing and not (backbone and not any(_BACKBONE.match(name) for name in missing)):
        raise UserError(f"{path} holds {_seems(given)} but lacks {_first(missing)} of this network{hint}")
    if wrong := [name for name in loaded if given[name].shape != own[name].shape]:
        name = wrong[0]
        raise UserError(
            f"{path} holds {_seems(given)} of other sizes than this network: {name} is {tuple(given[name].shape)} "
            f"in the file, {tuple(own[name].shape)} in the network ({len(wrong)} tensors differ){hint}"
        )

    values = {name: given[name].to(own[name].dtype) for name in loaded}
    for name, value in values.items():
        if not torch.isfinite(value).all():
            raise UserError(
                f"{path}: {name} holds values that are not finite; the training diverged or the file is damaged"
            )
    net.load_state_dict(values, strict=False)
    return LoadReport(str(path), len(values), missing, unexpected)


def _unwrap(saved: object, path: str | Path) -> dict[str, Tensor]:
    for key in _WRAPPERS:
        if isinstance(saved, dict) and isinstance(saved.get(key), dict):
            saved = saved[key]
            break
    if not isinstance(saved, dict) or not saved:
        raise UserError(f"{path} holds no state_dict but {_what(saved)}; save `net.state_dict()`")
    for name, value in saved.items():
        if not isinstance(name, str) or not _is_dense(value):
            raise UserError(f"{path} holds no state_dict: {name!r:.80} is {_what(value)}; save `net.state_dict()`")
    if all(name.startswith("module.") for name in saved):
        saved = {name.removeprefix("module."): value for name, value in saved.items()}
    return saved


def _what(value: object) -> str:
    if isinstance(value, dict | list | tuple) and not value:
        return f"an empty {type(value).__name__}"
    if isinstance(value, Tensor):
        return "a tensor" if _is_dense(value) else "no dense tensor"
    return f"a {type(value).__name__}"


def _is_dense(value: object) -> bool:
    """An ordinary tensor: not sparse, nested, quantised, or without values."""
    ordinary = isinstance(value, Tensor) and value.layout == torch.strided and value.device.type == "cpu"
    return ordinary and not value.is_quantized and not value.is_nested


def _seems(given: Mapping[str, Tensor]) -> str:
    """What network a state dict seems to be of."""
    if _is_edam(given):
        return "an EDAM network"
    tops = {name.split(".")[0] for name in given}
    if {"conv1a", "b2"} <= tops:
        return "a ResNet38d"
    if {"layer1", "layer4"} <= tops:
        return "an ordinary ResNet, which is another network than ResNet38d"
    return f"{len(given)} tensors ({_tops(list(given))})"


def _is_edam(given: Mapping[str, Tensor]) -> bool:
    return {"mask_layer", "trans_list"} <= {name.split(".")[0] for name in given}


def _first(names: list[str], count: int = 3) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(name[:80] for name in names[:count]) + more


def _tops(names: list[str]) -> str:
    """The layers that tensors belong to, each once."""
    return _first(list(dict.fromkeys(name.split(".")[0] for name in names)), 6)
