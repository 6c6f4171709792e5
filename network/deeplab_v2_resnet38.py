"""DeepLab-v2's head on ResNet38d, the backbone of EDAM, PSA and SEAM, which takes the same ImageNet weights."""

from torch import Tensor

from network.deeplab_v2 import DeepLab
from network.resnet38d import ResNet38d
from tool.image_ops import IMAGENET


class Backbone(ResNet38d):
    """ResNet38d with the ReLU that precedes its ImageNet classifier."""

    def features(self, x: Tensor) -> Tensor:
        return super().features(x).relu_()


class Net(DeepLab):
    """DeepLab-v2 with an output stride of 8."""

    make_backbone = Backbone
    input = IMAGENET
