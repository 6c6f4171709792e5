"""DeepLab-v2 in miniature: the same code, narrow and shallow enough to be trained on a CPU in minutes."""

from network import deeplab_v2_resnet38
from network.resnet38_EDAM_tiny import BACKBONE


class Net(deeplab_v2_resnet38.Net):
    """`deeplab_v2_resnet38.Net` on the tiny EDAM's backbone, for photos of about 128 pixels: small dilations, one scale.

    Train its batch norms (`--no-freeze_bn`). New layers learn at twice the backbone's rate: at ten times, as published, the few
    steps would destroy the initial weights.
    """

    group_factors = ((1.0, 1.0), (2.0, 1.0), (2.0, 0.0))

    def __init__(self, **options) -> None:
        super().__init__(**{"scales": (), "rates": (1, 2, 3, 4), **BACKBONE, **options})
