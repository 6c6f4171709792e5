"""DeepLab-v2 in miniature: the same classes, narrow and shallow enough to be trained from scratch on a CPU in minutes."""

from torch import nn

from network import deeplab_v2


class Net(deeplab_v2.Net):
    """Like `deeplab_v2.Net`, with 0.4 % of its parameters, for photos of about 128 pixels: output stride 4, small dilations, one size.

    From scratch its batch norms must be trained, and its ASPP is no newer than the rest: there are no higher rates for it.
    """

    group_factors = ((1, 1), (1, 1), (2, 0))

    def __init__(self, **options) -> None:
        tiny = {
            "depths": (1, 1, 2, 1),
            "widths": (32, 64, 128, 128, 128),
            "strides": (1, 1, 1, 1),
            "rates": (1, 3),
            "scales": (),
            "norm": nn.BatchNorm2d,
        }
        super().__init__(**{**tiny, **options})
