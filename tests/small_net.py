"""A small EDAM with everything that the published one has, dropout and frozen layers included, for tests of training."""

from network import resnet38_EDAM_cls

BACKBONE = {"widths": (8, 16, 16, 16, 32, 32, 64), "depths": (1, 1, 1, 1)}


class Net(resnet38_EDAM_cls.Net):
    def __init__(self, num_classes: int = 20, **dropout) -> None:
        super().__init__(num_classes, dim=16, hidden=32, crop_size=32, **BACKBONE, **dropout)
