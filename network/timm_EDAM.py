"""EDAM's head on a backbone of timm, small enough for a laptop. Not the published network: that is network.resnet38_EDAM_cls."""

from network.edam import EDAM
from network.timm_backbone import TimmBackbone


class Net(EDAM, TimmBackbone):
    """EDAM with narrower tokens, on `backbone`; the options are those of both bases."""

    def __init__(self, num_classes: int = 20, dim: int = 64, hidden: int = 256, **options) -> None:
        super().__init__(num_classes, dim, hidden=hidden, **options)
