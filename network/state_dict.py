"""Tensors by name from a file of weights, whoever saved it; and loading them into any network, whole or its backbone alone."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor, nn

from network.foreign import Opaque, read_foreign, to_save_anew
from network.mxnet_params import read_params, to_resnet38d
from tool.cli import UserError, counted
from tool.weight_file import MXNET, TORCH_LEGACY, TORCH_ZIP, open_weights

# Under which training states keep the network, and what wrapping a network puts before all names.
_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "params")
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")  # DataParallel, torch.compile, Lightning
_COUNTER = "num_batches_tracked"  # of batch norms; absent from MXNet and old files, and used by nothing here
IS_IT_THE_ONE = "; is --network the one that it was trained with?"  # a hint for files of a family's own networks


@dataclass(frozen=True)
class Family:
    """What is known of the files that a kind of networks starts from.

    Args:
        backbone: names of the backbone's tensors. A file that holds all of them may lack the other layers.
        other_heads: layers of other trainings of that backbone, which are left out where the backbone alone is loaded.
        seen_by: words for a network -> layers, at any depth, that give it away. The first that fits is meant.
        hints: words for a network -> what ends an error about a file of it.
        tables: fixed tensors whose size follows the crop; the network's own are right.
        prefix: stands before the backbone's names in the network, and is absent from files of the backbone alone.
    """

    backbone: re.Pattern[str]
    other_heads: Collection[str]
    seen_by: Mapping[str, Collection[str]]
    hints: Mapping[str, str]
    tables: Collection[str] = ()
    prefix: str = ""

    def named(self, given: dict[str, Tensor], own: Collection[str]) -> dict[str, Tensor]:
        """The tensors of a file by their names in the network, `own`, where it has them."""
        if any(name.startswith(self.prefix) for name in given):
            return given
        return {self.prefix + name if self.prefix + name in own else name: value for name, value in given.items()}

    def seems(self, given: Collection[str]) -> str:
        """Words for the network that tensors of these names are of."""
        text = "".join(f".{name}\n" for name in given)
        words = (words for words, layers in self.seen_by.items() if all(f".{layer}." in text for layer in layers))
        return next(words, f"{counted(len(given), 'tensors')} ({_first(_layers(given, self.prefix), 6)})")


@dataclass
class LoadReport:
    """What was loaded. `missing` tensors kept their initial values, `unexpected` ones were left out. `prefix`: of the Family."""

    path: str
    loaded: int
    missing: list[str]
    unexpected: list[str]
    prefix: str = ""

    def __str__(self) -> str:
        line = f"loaded {counted(self.loaded, 'tensors')} from {self.path}"
        if self.missing:
            line += f"; {_first(_layers(self.missing, self.prefix), 6)} not in it, so these start from random values"
        if self.unexpected:
            line += f"; left out {_first(_layers(self.unexpected, self.prefix), 6)}"
        return line


def read_state_dict(path: str | Path, known: Collection[str] = ()) -> dict[str, Tensor]:
    """Tensors of a network by name, on the CPU, from an MXNet `.params` or a PyTorch `.pth` file. Nothing in it can run.

    Of a training state the network alone; "module.", "model." and the like before all names are removed until one of the
    names is among `known`, those of the network to fill. Raises UserError naming the file: missing, of another kind,
    damaged, or without tensors.
    """
    return read_checkpoint(path, known)[0]


def read_checkpoint(path: str | Path, known: Collection[str] = ()) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """As `read_state_dict`, and the names of the network's classes; () where the file has none, as those for VOC 2012."""
    file, kind = open_weights(path)
    file.close()
    if kind == MXNET:
        try:
            return to_resnet38d(read_params(path)), ()
        except UserError as error:
            raise error if str(path) in str(error) else UserError(f"{path}: {error}") from None
    if kind not in (TORCH_ZIP, TORCH_LEGACY):
        raise UserError(f"{path} holds no weights: it is {kind}; MXNet .params and PyTorch .pth files are read")
    saved = read_foreign(path)
    return _strip(_unwrap(saved, path), known), _class_names(saved)


def load_state(
    net: nn.Module, path: str | Path, family: Family, saved: Mapping[str, Tensor] | None = None
) -> LoadReport:
    """Load a file into `net`: all of its tensors, or a whole backbone, the new layers then keeping their initial values.

    Nothing changes in `net` unless everything fits. `saved`: what `read_state_dict` found in the file, where it was read already.
    Raises UserError, naming the first offenders: weights of another network or for other classes, other shapes,
    values that are not finite.
    """
    own = net.state_dict()
    given, classes = read_checkpoint(path, own) if saved is None else (dict(saved), ())
    given = family.named(given, own)
    for name in family.tables:
        if name in own and name in given and given[name].shape != own[name].shape:
            del given[name]

    loaded = [name for name in own if name in given]
    optional = [*family.tables, *(name for name in own if name.endswith(_COUNTER))]
    missing = [name for name in own if name not in given and name not in optional]
    unexpected = [name for name in given if name not in own]
    seems = family.seems(given)
    hint = family.hints.get(seems, "")
    backbone = bool(loaded) and all(family.backbone.match(name) for name in loaded)
    if loaded and not backbone and classes != (wanted := getattr(net, "class_names", ())):
        raise UserError(
            f"{path} is a network of {_classes(classes)}, this run has {_classes(wanted)}: "
            "give the folder of the dataset that it was trained on, or other weights"
        )
    if unexpected and not (backbone and set(_layers(unexpected, family.prefix)) <= set(family.other_heads)):
        raise UserError(f"{path} holds {seems}, not weights of this network: {_first(unexpected)} unknown to it{hint}")
    if missing and not (backbone and not any(family.backbone.match(name) for name in missing)):
        raise UserError(f"{path} holds {seems} but lacks {_first(missing)} of this network{hint}")
    if wrong := [name for name in loaded if given[name].shape != own[name].shape]:
        name = wrong[0]
        raise UserError(
            f"{path} holds {seems} of other sizes than this network: {name} is {tuple(given[name].shape)} "
            f"in the file, {tuple(own[name].shape)} in the network ({counted(len(wrong), 'tensors')} of another shape){hint}"
        )

    values = {name: given[name].to(own[name].dtype) for name in loaded}
    for name, value in values.items():
        if not torch.isfinite(value).all():
            raise UserError(
                f"{path}: {name} holds values that are not finite; the training diverged or the file is damaged"
            )
    net.load_state_dict(values, strict=False)
    return LoadReport(str(path), len(values), missing, unexpected, family.prefix)


def _unwrap(saved: object, path: str | Path) -> dict[str, Tensor]:
    """The tensors in what was saved: under a known name, or the only dict of tensors there is."""
    for _ in range(3):  # wrappers may be wrapped
        if not isinstance(saved, dict) or _are_tensors(saved):
            break
        named = [saved[key] for key in _WRAPPERS if isinstance(saved.get(key), dict)]
        alone = [value for value in saved.values() if _are_tensors(value)]
        found = [value for value in named if _are_tensors(value)] or (alone if len(alone) == 1 else named)
        if not found:
            break
        saved = found[0]
    if not isinstance(saved, dict) or not saved:
        anew = f": {to_save_anew(path, 's.state_dict()')}" if isinstance(saved, Opaque) else "; save `net.state_dict()`"
        raise UserError(f"{path} holds no state_dict but {_what(saved)}{anew}")
    for name, value in saved.items():
        if not isinstance(name, str) or not _is_dense(value):
            module = isinstance(value, Opaque) and name in _WRAPPERS
            anew = f": {to_save_anew(path, f's[{name!r}].state_dict()')}" if module else "; save `net.state_dict()`"
            raise UserError(f"{path} holds no state_dict: {name!r:.80} is {_what(value)}{anew}")
    return {name: value.detach() for name, value in saved.items()}


def _class_names(saved: object) -> tuple[str, ...]:
    """Beside the tensors, or among the settings of a training state."""
    settings = saved.get("settings") if isinstance(saved, dict) else None
    for holder in (saved, settings):
        names = holder.get("classes") if isinstance(holder, dict) else None
        if isinstance(names, list) and all(type(name) is str for name in names):
            return tuple(names)
    return ()


def _strip(state: dict[str, Tensor], known: Collection[str]) -> dict[str, Tensor]:
    """Remove what stands before all names, again and again, until a name is among `known`."""
    while not any(name in known for name in state):
        prefix = next((p for p in _PREFIXES if all(name.startswith(p) for name in state)), None)
        if prefix is None:
            break
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _are_tensors(value: object) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(v, Tensor) for v in value.values())


def _is_dense(value: object) -> bool:
    """An ordinary tensor: not sparse, nested, quantised, or without values."""
    if not isinstance(value, Tensor) or value.is_quantized or value.is_nested:
        return False
    return value.layout == torch.strided and value.device.type == "cpu"


def _what(value: object) -> str:
    if isinstance(value, dict | list | tuple) and not value:
        return f"an empty {type(value).__name__}"
    if isinstance(value, Tensor):
        return "a tensor" if _is_dense(value) else "no dense tensor"
    return f"a {type(value).__name__}"


def _first(names: list[str], count: int = 3) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(name[:80] for name in names[:count]) + more


def _classes(names: tuple[str, ...]) -> str:
    """Words for the classes of a network: without names they are VOC's."""
    return f"the {len(names)} classes {_first(list(names), 6)}" if names else "VOC 2012's 20 classes"


def _layers(names: Collection[str], prefix: str) -> list[str]:
    """The layers that tensors belong to, each once: the first part of a name, and what of `prefix` is before it."""
    parts = (list(accumulate(name.split("."), "{}.{}".format)) for name in names)
    return list(dict.fromkeys(next((p for p in ps if not prefix.startswith(f"{p}.")), ps[-1]) for ps in parts))
