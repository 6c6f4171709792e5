"""DeepLab-v2 for the ImageNet weights of torchvision's ResNet-101, whose blocks have their stride on the 3x3 convolution."""

from functools import partial

from network.caffe_resnet import CaffeResNet
from network.deeplab_v2 import DeepLab
from tool.image_ops import IMAGENET


class Net(DeepLab):
    """DeepLab-v2 with torchvision's tensor names after "base."; the published network starts from a Caffe model."""

    make_backbone = staticmethod(partial(CaffeResNet, depths=(3, 4, 23, 3), stride_on_3x3=True))
    input = IMAGENET
