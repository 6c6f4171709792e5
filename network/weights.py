"""What EDAM's networks and their backbone, ResNet38d, start from: ImageNet weights, other work on the backbone, or EDAM's own."""

import re
from pathlib import Path

from torch import nn

from network import timm_weights
from network.state_dict import IS_IT_THE_ONE, Family, LoadReport, load_state
from network.timm_backbone import TimmBackbone

RESNET38D = Family(
    backbone=re.compile(r"(conv1a|b[2-7](_\d+)?|bn7)\."),
    # Classifiers and side branches that PSA, SEAM and ImageNet training put on this backbone. EDAM has none of them.
    other_heads={"fc8", "f8_3", "f8_4", "f8_5", "f9", "linear1000", "classifier"},
    tables={"embedding.position.pe"},
    seen_by={
        "an EDAM network": {"mask_layer", "trans_list"},
        "a ResNet38d": {"conv1a", "b2"},
        "an ordinary ResNet, which is another network than ResNet38d": {"layer1", "layer4"},
    },
    hints={"an EDAM network": IS_IT_THE_ONE},
)


def load_weights(net: nn.Module, path: str | Path) -> LoadReport:
    """Load a file into an EDAM network or a ResNet38d: the whole network, or a whole backbone. See `load_state`.

    Networks on a backbone of timm have weights of their own: see `network.timm_weights`.
    """
    if any(isinstance(module, TimmBackbone) for module in net.modules()):
        return timm_weights.load_weights(net, path)
    return load_state(net, path, RESNET38D)
