"""DeepLab-v2 on torchvision's ResNet-101: the stride of a block is on its 3x3 convolution, photos are RGB with ImageNet's statistics.

The published network starts from a Caffe model; torchvision's ImageNet weights need this one.
Tensor names are torchvision's after "base.".
"""

from network import deeplab_v2
from network.caffe_resnet import TORCHVISION
from tool.image_ops import IMAGENET


class Net(deeplab_v2.Net):
    """`deeplab_v2.Net` for the weights of torchvision's `resnet101`."""

    input = IMAGENET

    def __init__(self, **options) -> None:
        super().__init__(**{"names": TORCHVISION, "stride_on_3x3": True, **options})
