"""PoolNet in miniature: the same code, narrow and shallow enough to be trained from scratch on a CPU in minutes."""

from torch import nn

from network import poolnet


class Net(poolnet.Net):
    """`poolnet.Net` with 0.4 % of its parameters, for photos of about 128 pixels; its batch norms are trained."""

    def __init__(self) -> None:
        resnet = {"depths": (1, 1, 1, 1), "widths": (16, 32, 64, 96, 128), "strides": (1, 2, 1, 1)}
        super().__init__((16, 16, 32, 32, 48), width=32, std=None, norm=nn.BatchNorm2d, **resnet)
