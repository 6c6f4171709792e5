"""EDAM in miniature: the same code, narrow and shallow enough to be trained from scratch on a CPU in minutes."""

from typing import Any

from network import resnet38_EDAM_cls

# Options of the backbone. Photos have 16 x 16 positions: the published dilation, for 60 x 60, would reach across the photo.
BACKBONE: dict[str, Any] = {
    "widths": (16, 32, 64, 96, 128, 192, 256),
    "depths": (1, 1, 2, 1),
    "dropout": (0.0, 0.0),
    "dilation": 2,
    "freeze_stem": False,
}


class Net(resnet38_EDAM_cls.Net):
    """`resnet38_EDAM_cls.Net` with 1 % of its parameters; no dropout, only batch norms frozen."""

    def __init__(self, num_classes: int = 20) -> None:
        super().__init__(num_classes, dim=32, hidden=64, cma_dropout=0.0, crop_size=104, **BACKBONE)
