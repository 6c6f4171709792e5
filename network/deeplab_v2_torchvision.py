"""DeepLab-v2 on torchvision's ResNet-101: the stride of a block is on its 3x3 convolution, photos are RGB with ImageNet's statistics.

The published network starts from a Caffe model; torchvision's ImageNet weights need this one.
Tensor names are torchvision's after "base.".
"""

from functools import partial

from network.caffe_resnet import CaffeResNet
from network.deeplab_v2 import DeepLab
from tool.image_ops import IMAGENET


class Net(DeepLab):
    """DeepLab-v2 for the weights of torchvision's `resnet101`."""

    make_backbone = staticmethod(partial(CaffeResNet, depths=(3, 4, 23, 3), stride_on_3x3=True))
    input = IMAGENET
