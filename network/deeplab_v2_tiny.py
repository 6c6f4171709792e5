"""DeepLab-v2 in miniature: the same classes, narrow and shallow enough to be trained from scratch on a CPU in minutes."""

from network import deeplab_v2


class Net(deeplab_v2.Net):
    """Like `deeplab_v2.Net`, with 3 % of its parameters and less dilation, for photos of 128 pixels (16 x 16 positions).

    From random weights it needs batch norms that learn: `train_deeplab.py --no-freeze_bn`.
    """

    def __init__(self, num_labels: int = 21) -> None:
        super().__init__(
            num_labels,
            scales=(0.75,),
            rates=(1, 2, 3, 4),
            depths=(2, 2, 3, 2),
            widths=(32, 128, 192, 256, 384),
            dilations=(1, 1, 1, 2),
        )
