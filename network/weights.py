"""What a network starts from: ImageNet weights of its backbone, other work on that backbone, or its own trained weights."""

import re
from pathlib import Path

from torch import nn

from network import caffe_weights, timm_weights
from network.caffe_resnet import CaffeResNet
from network.resnet38d import ResNet38d
from network.state_dict import IS_IT_THE_ONE, Family, LoadReport, load_state
from network.timm_backbone import TimmBackbone

# Classifiers and side branches that PSA, SEAM and ImageNet training put on ResNet38d. Nothing here has any of them.
_HEADS = ("fc8", "f8_3", "f8_4", "f8_5", "f9", "linear1000", "classifier")


def resnet38d_family(prefix: str = "") -> Family:
    """Files that a network starts from whose ResNet38d has names with this prefix; that of EDAM has none."""
    return Family(
        backbone=re.compile(re.escape(prefix) + r"(conv1a|b[2-7](_\d+)?|bn7)\."),
        other_heads={*_HEADS, *(prefix + head for head in _HEADS)},
        tables={"embedding.position.pe"},
        seen_by={
            "an EDAM network": {"mask_layer", "trans_list"},
            "a DeepLab-v2 on ResNet38d": {"aspp", "conv1a"},
            "a ResNet38d": {"conv1a", "b2"},
            "an ordinary ResNet, which is another network than ResNet38d": {"layer1", "layer4"},
        },
        hints={"a DeepLab-v2 on ResNet38d" if prefix else "an EDAM network": IS_IT_THE_ONE},
        prefix=prefix,
    )


def load_weights(net: nn.Module, path: str | Path) -> LoadReport:
    """Load a file into a network: all of its tensors, or a whole backbone. See `load_state`."""
    parts = list(net.modules())
    if any(isinstance(part, CaffeResNet) for part in parts):
        return caffe_weights.load_weights(net, path)
    if any(isinstance(part, TimmBackbone) for part in parts):
        return timm_weights.load_weights(net, path)
    name = next((name for name, part in net.named_modules() if isinstance(part, ResNet38d)), "")
    return load_state(net, path, resnet38d_family(f"{name}." if name else ""))
