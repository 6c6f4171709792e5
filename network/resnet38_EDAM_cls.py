"""EDAM as published: its head on ResNet38d (Wu et al., CVPR 2021)."""

from network.edam import EDAM
from network.resnet38d import ResNet38d


class Net(EDAM, ResNet38d):
    """The EDAM network. Tensor names and shapes are those of the published checkpoint; the options are those of both bases.

    Input: RGB / 255, minus mean (.485 .456 .406), over std (.229 .224 .225).
    """
