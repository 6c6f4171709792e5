"""ResNet38d, the backbone: "Wider or Deeper" ResNet-38 (Wu, Shen, van den Hengel, 2019), dilated to output stride 8.

Blocks are pre-activated (batch norm, ReLU, convolution); where the number of channels or the stride changes, the shortcut
is a 1x1 convolution of the *activated* input, elsewhere it is the raw input.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from network.frozen_norm import FrozenBatchNorm2d, fold, fold_batch_norms


def conv3x3(in_channels: int, out_channels: int, stride: int, dilation: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, stride, padding=dilation, dilation=dilation, bias=False)


class ResidualBlock(nn.Module):
    """BN, ReLU, 3x3 conv, BN, ReLU, 3x3 conv, plus the shortcut. (N, in, h, w) -> (N, out, h/stride, w/stride)."""

    def __init__(
        self, in_channels: int, mid_channels: int, out_channels: int, stride: int, first_dilation: int, dilation: int
    ) -> None:
        super().__init__()
        self.bn_branch2a = FrozenBatchNorm2d(in_channels)
        self.conv_branch2a = conv3x3(in_channels, mid_channels, stride, first_dilation)
        self.bn_branch2b1 = FrozenBatchNorm2d(mid_channels)
        self.conv_branch2b1 = conv3x3(mid_channels, out_channels, 1, dilation)
        self.conv_branch1 = None
        if in_channels != out_channels or stride != 1:
            self.conv_branch1 = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        activated = self.bn_branch2a(x).relu_()
        shortcut = x if self.conv_branch1 is None else self.conv_branch1(activated)
        branch = self.conv_branch2a(activated)
        branch = self.conv_branch2b1(self.bn_branch2b1(branch).relu_())
        return branch.add_(shortcut)


class Bottleneck(nn.Module):
    """1x1 conv to out/4, dilated 3x3 conv to out/2, 1x1 conv to out, plus a 1x1 shortcut. (N, in, h, w) -> (N, out, h, w)."""

    def __init__(self, in_channels: int, out_channels: int, dropout: float, dilation: int) -> None:
        super().__init__()
        self.bn_branch2a = FrozenBatchNorm2d(in_channels)
        self.conv_branch2a = nn.Conv2d(in_channels, out_channels // 4, 1, bias=False)
        self.bn_branch2b1 = FrozenBatchNorm2d(out_channels // 4)
        self.conv_branch2b1 = conv3x3(out_channels // 4, out_channels // 2, 1, dilation)
        self.bn_branch2b2 = FrozenBatchNorm2d(out_channels // 2)
        self.conv_branch2b2 = nn.Conv2d(out_channels // 2, out_channels, 1, bias=False)
        self.conv_branch1 = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, x: Tensor) -> Tensor:
        activated = self.bn_branch2a(x).relu_()
        branch = self.conv_branch2a(activated)
        branch = self.dropout(self.bn_branch2b1(branch).relu_())
        branch = self.conv_branch2b1(branch)
        branch = self.dropout(self.bn_branch2b2(branch).relu_())
        return self.conv_branch2b2(branch).add_(self.conv_branch1(activated))


class ResNet38d(nn.Module):
    """(N, 3, H, W) float, normalised RGB -> features (N, widths[-1], ceil(H/8), ceil(W/8)). Its batch norms are not trained.

    Args:
        widths: channels after conv1a, b2, b3, b4, b5, b6 and b7.
        depths: blocks in the stages b2, b3, b4 and b5.
        dropout, dilation: of the bottlenecks b6 and b7.
        freeze_stem: conv1a and the stage b2 are not trained (EDAM starts from ImageNet weights).
    """

    def __init__(
        self,
        widths: Sequence[int] = (64, 128, 256, 512, 1024, 2048, 4096),
        depths: Sequence[int] = (3, 3, 6, 3),
        dropout: tuple[float, float] = (0.3, 0.5),
        dilation: int = 4,
        freeze_stem: bool = True,
    ) -> None:
        super().__init__()
        self.conv1a = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        before = widths[0]
        for stage, out, depth in zip(("b2", "b3", "b4", "b5"), widths[1:5], depths, strict=True):
            mid, stride, dilated = (out // 2, 1, 2) if stage == "b5" else (out, 2, 1)
            self.add_module(stage, ResidualBlock(before, mid, out, stride, 1, dilated))
            for k in range(1, depth):
                self.add_module(f"{stage}_{k}", ResidualBlock(out, mid, out, 1, dilated, dilated))
            before = out
        self.b6 = Bottleneck(widths[4], widths[5], dropout[0], dilation)
        self.b7 = Bottleneck(widths[5], widths[6], dropout[1], dilation)
        self.bn7 = FrozenBatchNorm2d(widths[6])
        self.channels = widths[6]
        self.backbone_layers = [name for name, _ in self.named_children()]
        self.block_names = self.backbone_layers[1:-1]

        # He initialisation. A frozen batch norm does not normalise a network that starts from random weights, so the
        # branches are scaled to add, all together, about as much variance as there is in the shortcuts.
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        with torch.no_grad():
            for name in self.block_names:
                last = "conv_branch2b2" if name in ("b6", "b7") else "conv_branch2b1"
                self.get_parameter(f"{name}.{last}.weight").mul_(len(self.block_names) ** -0.5)
        if freeze_stem:
            for name, part in self.named_children():
                if name.startswith(("conv1a", "b2")):
                    part.requires_grad_(False)

    def features(self, x: Tensor) -> Tensor:
        """Return the output of bn7, without a ReLU: (N, widths[-1], ceil(H/8), ceil(W/8)), of x (N, 3, H, W)."""
        x = self.conv1a(x)
        for name in self.block_names:
            x = getattr(self, name)(x)
        return self.bn7(x)

    def fold_batch_norms(self) -> None:
        """Fold batch norms but the first of each block, whose input is also needed without it; see `frozen_norm`."""
        fold_batch_norms(self)
        fold(self.bn7, self.b7.conv_branch2b2, self.b7.conv_branch1)
        self.add_module("bn7", nn.Identity())
