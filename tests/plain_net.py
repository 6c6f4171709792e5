"""`tests.small_net` without dropout: its losses do not depend on how many processes share a batch."""

from tests import small_net


class Net(small_net.Net):
    def __init__(self) -> None:
        super().__init__(cma_dropout=0.0, dropout=(0.0, 0.0))
