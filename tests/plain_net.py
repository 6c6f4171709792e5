"""`tests.small_net` without dropout: its losses do not depend on how many processes share a batch."""

from torch import nn

from tests import small_net


class Net(small_net.Net):
    """`--network tests.plain_net`."""

    def __init__(self) -> None:
        super().__init__()
        for module in self.modules():
            if isinstance(module, nn.Dropout | nn.Dropout2d):
                module.p = 0.0
