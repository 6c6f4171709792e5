"""What networks that stand on a CaffeResNet start from: initial weights of the ResNet, or a checkpoint of DeepLab-v2 or PoolNet."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from network import make_net
from network.caffe_resnet import CaffeResNet
from network.poolnet import is_joint
from network.state_dict import IS_IT_THE_ONE, Family, LoadReport, load_state, read_state_dict
from tool.cli import UserError

# What a file holds -> a layer that gives it away, and the network for it.
_KINDS = {
    "PoolNet": ("ppms_pre", "network.poolnet"),
    "a ResNet with DeepLab's names": ("layer2.block1", "network.deeplab_v2"),
    "a ResNet-101 with torchvision's names": ("layer3.22", "network.deeplab_v2_torchvision"),
    "a ResNet with torchvision's names": ("layer1.0", ""),
    "a ResNet38d": ("conv1a", "network.deeplab_v2_resnet38"),
}


def make_poolnet(
    module: str, weights: str | None, needs: Sequence[str], init_weights: bool = True
) -> tuple[Any, Callable[[str], LoadReport]]:
    """The PoolNet of a module that a file is of, with its edge branch or without, and what loads that file into it.

    drawn: as for `make_net`.
    """
    saved = read_state_dict(weights) if weights else {}
    net = make_net(module, needs, "JointNet" if is_joint(saved) else "Net", init_weights=init_weights)
    return net, partial(load_weights, net, saved=saved)


def load_weights(net: nn.Module, path: str | Path, saved: Mapping[str, Tensor] | None = None) -> LoadReport:
    """Load a file into `net`: the whole network, or a whole ResNet, as in deeplabv1_resnet101-coco.pth. See `load_state`.

    In files of the ResNet alone nothing stands before its names, and the classifier of its training is left out.
    """
    if Path(path).suffix == ".caffemodel":
        maker = "convert.py of github.com/kazuto1011/deeplab-pytorch"
        raise UserError(f"{path} is a Caffe file; {maker} makes the .pth file of it that is read here")
    name, resnet = next((found for found in net.named_modules() if isinstance(found[1], CaffeResNet)), ("", None))
    prefix, asks = f"{name}." if name else "", ("", type(net).__module__)
    parts = [f"{prefix}{part}." for pair in (resnet.pairs() if resnet else ()) for part in pair]

    def hint(network: str) -> str:
        same_work = hasattr(net, "num_labels") == ("deeplab" in network)
        return IS_IT_THE_ONE if network in asks else f"; --network {network} takes it" if same_work else ""

    family = Family(
        backbone=re.compile("|".join(map(re.escape, parts)) or "$^"),  # where there is no such ResNet: nothing
        other_heads={"fc", f"{prefix}fc"},  # the classifier of ImageNet or COCO
        seen_by={kind: {layer} for kind, (layer, _) in _KINDS.items()},
        hints={kind: hint(network) for kind, (_, network) in _KINDS.items()},
        prefix=prefix,
    )
    return load_state(net, path, family, saved)
