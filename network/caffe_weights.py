"""Initial and trained weights of networks that stand on a CaffeResNet: DeepLab-v2 and PoolNet."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from network.caffe_resnet import CaffeResNet
from network.state_dict import read_state_dict
from tool.errors import UserError

_COUNTER = "num_batches_tracked"  # of batch norms; absent from some files, and used by nothing here
_CLASSIFIER = "fc."  # of ImageNet or COCO training; none of these networks has it
# Part of a name that gives a file away -> what the file holds, and the network for it.
_KINDS = {
    "ppms_pre.": ("PoolNet", "network.poolnet"),
    "layer2.block1.": ("a ResNet with DeepLab's names", "network.deeplab_v2"),
    "layer3.22.": ("a ResNet-101 with torchvision's names", "network.deeplab_v2_torchvision"),
    "layer1.0.": ("a ResNet with torchvision's names", ""),
    "conv1a.": ("a ResNet38d", ""),
}


@dataclass(frozen=True)
class Loaded:
    """What `load_weights` did with each tensor: names in the network `loaded` and `missing` (unchanged); in the file `left` out."""

    path: str
    loaded: list[str]
    missing: list[str]
    left: list[str]

    def __str__(self) -> str:
        line = f"loaded {len(self.loaded)} tensors from {self.path}"
        if self.missing:
            line += f"; not in it and therefore random: {_layers(self.missing)}"
        return line + (f"; left out: {_layers(self.left)}" if self.left else "")


def load_weights(net: nn.Module, path: str | Path) -> Loaded:
    """Load a file into `net`: a checkpoint of it, or initial weights of its ResNet, the new layers then staying as they are.

    A checkpoint's names begin with "base."; those of initial weights have nothing before them, as in deeplabv1_resnet101-coco.pth.
    Nothing changes in `net` unless its whole ResNet is in the file and everything there fits, a classifier apart.
    Raises UserError: a Caffe file, weights of another network, other shapes, values that are not finite.
    """
    if Path(path).suffix == ".caffemodel":
        maker = "convert.py of github.com/kazuto1011/deeplab-pytorch"
        raise UserError(f"{path} is a Caffe file; {maker} makes the .pth file of it that is read here")
    given, own = read_state_dict(path), net.state_dict()
    seems, remedy = _kind(given, net)
    prefix, resnet = next((f"{name}.", part) for name, part in net.named_modules() if isinstance(part, CaffeResNet))
    if not any(name.startswith("base.") for name in given):
        given = {prefix + name: value for name, value in given.items()}

    left = [name for name in given if name.startswith(prefix + _CLASSIFIER)]
    if unknown := [name for name in given if name not in own and name not in left]:
        raise UserError(f"{path} holds {seems}, not weights of this network: {_some(unknown)} unknown to it{remedy}")
    missing = [name for name in own if name not in given and not name.endswith(_COUNTER)]
    of_resnet = tuple(f"{prefix}{name}." for pair in resnet.pairs() for name in pair)
    if missing and missing != [name for name in own if not name.startswith(of_resnet)]:
        raise UserError(f"{path} holds {seems} but lacks {_some(missing)} of this network{remedy}")
    values = {name: given[name] for name in own if name in given}
    if wrong := [name for name, value in values.items() if value.shape != own[name].shape]:
        sizes = f"{tuple(values[wrong[0]].shape)} in the file, {tuple(own[wrong[0]].shape)} in the network"
        raise UserError(
            f"{path} does not fit this network: {wrong[0]} is {sizes} ({len(wrong)} tensors differ){remedy}"
        )
    for name, value in values.items():
        if not torch.isfinite(value).all():
            raise UserError(
                f"{path}: {name} holds values that are not finite; the training diverged or the file is damaged"
            )
    net.load_state_dict(values, strict=False)  # float64 running statistics of converted files become float32
    return Loaded(str(path), list(values), missing, left)


def _kind(names: Iterable[str], net: nn.Module) -> tuple[str, str]:
    """What a file of tensors of these names seems to hold, and a hint at the network for it, to end an error with."""
    for part, (kind, module) in _KINDS.items():
        if any(part in name for name in names):
            known = module and module != type(net).__module__
            return (
                kind,
                f"; --network {module} takes it" if known else "; is --network the one that it was trained with?",
            )
    return f"{_some(list(names))}", ""


def _some(names: list[str], count: int = 3) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(name[:80] for name in names[:count]) + more


def _layers(names: list[str]) -> str:
    """The layers that tensors belong to, each once."""
    return _some(list(dict.fromkeys(name.rpartition(".")[0] for name in names)), 6)
