"""DeepLab-v2's head on a timm backbone, small enough for a laptop. The published network is network.deeplab_v2."""

from network.deeplab_v2 import DeepLab
from network.timm_backbone import TimmBackbone


class Net(DeepLab):
    """DeepLab-v2 on a TimmBackbone. The ASPP's dilations follow the output stride."""

    make_backbone = TimmBackbone

    def __init__(self, output_stride: int = 16, **options) -> None:
        rates = [rate * 8 // output_stride for rate in (6, 12, 18, 24)]
        super().__init__(rates=rates, output_stride=output_stride, **options)
        self.input = self.base.input
