"""EDAM as published: its head on ResNet38d (Wu et al., CVPR 2021)."""

from network.edam import EDAM
from network.resnet38d import ResNet38d


class Net(EDAM, ResNet38d):
    """EDAM with the tensor names and shapes of the published checkpoint. Options are those of both bases."""
