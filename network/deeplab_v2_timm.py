"""DeepLab-v2's head on a backbone of timm, small enough for a laptop. Not the published network: that is network.deeplab_v2."""

from collections.abc import Sequence

from network.deeplab_v2 import DeepLab
from network.timm_backbone import TimmBackbone


class Net(DeepLab):
    """DeepLab-v2 on `backbone` (timm's name); see TimmBackbone. The ASPP's dilations follow the output stride."""

    def __init__(
        self,
        backbone: str = "tf_efficientnet_lite0",
        output_stride: int = 16,
        num_labels: int = 21,
        scales: Sequence[float] = (0.5, 0.75),
    ) -> None:
        base = TimmBackbone(backbone, output_stride)
        super().__init__(base, num_labels, scales, [rate * 8 // output_stride for rate in (6, 12, 18, 24)])
        self.input = base.input
