"""ResNet38d, the backbone: "Wider or Deeper" ResNet-38 (Wu, Shen, van den Hengel, 2019), dilated to output stride 8.

Blocks are pre-activated (batch norm, ReLU, convolution); where the number of channels or the stride changes, the shortcut
is a 1x1 convolution of the *activated* input, elsewhere it is the raw input.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from network.frozen_norm import FrozenBatchNorm2d, fold

# Stages: name of the first block -> (index in `widths`, stride, dilation of the first conv, dilation of the other convs).
_STAGES = {"b2": (1, 2, 1, 1), "b3": (2, 2, 1, 1), "b4": (3, 2, 1, 1), "b5": (4, 1, 1, 2)}


class ResidualBlock(nn.Module):
    """BN, ReLU, 3x3 conv, BN, ReLU, 3x3 conv, plus the shortcut. (N, in, h, w) -> (N, out, h/stride, w/stride)."""

    def __init__(
        self,
        in_channels: int,
        mid_channels: int,
        out_channels: int,
        stride: int = 1,
        first_dilation: int = 1,
        dilation: int = 1,
        norm: type[nn.BatchNorm2d] = FrozenBatchNorm2d,
    ) -> None:
        super().__init__()
        self.bn_branch2a = norm(in_channels)
        self.conv_branch2a = nn.Conv2d(
            in_channels, mid_channels, 3, stride, padding=first_dilation, dilation=first_dilation, bias=False
        )
        self.bn_branch2b1 = norm(mid_channels)
        self.conv_branch2b1 = nn.Conv2d(mid_channels, out_channels, 3, padding=dilation, dilation=dilation, bias=False)
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

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        dropout: float,
        dilation: int,
        norm: type[nn.BatchNorm2d],
    ) -> None:
        super().__init__()
        self.bn_branch2a = norm(in_channels)
        self.conv_branch2a = nn.Conv2d(in_channels, out_channels // 4, 1, bias=False)
        self.bn_branch2b1 = norm(out_channels // 4)
        self.dropout_2b1 = nn.Dropout2d(dropout)
        self.conv_branch2b1 = nn.Conv2d(
            out_channels // 4, out_channels // 2, 3, padding=dilation, dilation=dilation, bias=False
        )
        self.bn_branch2b2 = norm(out_channels // 2)
        self.dropout_2b2 = nn.Dropout2d(dropout)
        self.conv_branch2b2 = nn.Conv2d(out_channels // 2, out_channels, 1, bias=False)
        self.conv_branch1 = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        activated = self.bn_branch2a(x).relu_()
        branch = self.conv_branch2a(activated)
        branch = self.dropout_2b1(self.bn_branch2b1(branch).relu_())
        branch = self.conv_branch2b1(branch)
        branch = self.dropout_2b2(self.bn_branch2b2(branch).relu_())
        return self.conv_branch2b2(branch).add_(self.conv_branch1(activated))


class ResNet38d(nn.Module):
    """(N, 3, H, W) float, normalised RGB -> features (N, widths[-1], ceil(H/8), ceil(W/8)).

    Args:
        widths: channels after conv1a, b2, b3, b4, b5, b6 and b7.
        depths: blocks in the stages b2, b3, b4 and b5.
        dropout: of the bottlenecks b6 and b7.
        dilation: of the bottlenecks b6 and b7.
        norm: the batch norm layer; the default is never trained.
        freeze_stem: conv1a and the stage b2 are not trained (EDAM starts from ImageNet weights).
    """

    def __init__(
        self,
        widths: Sequence[int] = (64, 128, 256, 512, 1024, 2048, 4096),
        depths: Sequence[int] = (3, 3, 6, 3),
        dropout: tuple[float, float] = (0.3, 0.5),
        dilation: int = 4,
        norm: type[nn.BatchNorm2d] = FrozenBatchNorm2d,
        freeze_stem: bool = True,
    ) -> None:
        super().__init__()
        self.conv1a = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        blocks = []
        for (stage, (i, stride, first, others)), depth in zip(_STAGES.items(), depths, strict=True):
            before, out = widths[i - 1], widths[i]
            mid = out // 2 if stage == "b5" else out
            setattr(self, stage, ResidualBlock(before, mid, out, stride, first, others, norm))
            blocks.append(stage)
            for k in range(1, depth):
                blocks.append(f"{stage}_{k}")
                setattr(self, blocks[-1], ResidualBlock(out, mid, out, 1, others, others, norm))
        self.b6 = Bottleneck(widths[4], widths[5], dropout[0], dilation, norm)
        self.b7 = Bottleneck(widths[5], widths[6], dropout[1], dilation, norm)
        self.bn7 = norm(widths[6])
        self.channels = widths[6]
        self.block_names = (*blocks, "b6", "b7")

        # He initialisation. A frozen batch norm does not normalise a network that starts from random weights, so the
        # branches are scaled to add, all together, about as much variance as there is in the shortcuts.
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        with torch.no_grad():
            for name in self.block_names:
                block = getattr(self, name)
                last = block.conv_branch2b2 if isinstance(block, Bottleneck) else block.conv_branch2b1
                last.weight *= len(self.block_names) ** -0.5
        if freeze_stem:
            for name in ("conv1a", *(n for n in blocks if n.startswith("b2"))):
                getattr(self, name).requires_grad_(False)

    def features(self, x: Tensor) -> Tensor:
        """Return the output of bn7, without a ReLU: (N, widths[-1], ceil(H/8), ceil(W/8)), of x (N, 3, H, W)."""
        x = self.conv1a(x)
        for name in self.block_names:
            x = getattr(self, name)(x)
        return self.bn7(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x)

    @torch.no_grad()
    def fold_batch_norms(self) -> None:
        """Fold batch norms into the convolutions before them, for inference. The network can't be trained afterwards.

        The first norm of each block stays, as the block also needs its input without it.
        """
        blocks = [getattr(self, name) for name in self.block_names]
        for block in blocks:
            fold(block.bn_branch2b1, block.conv_branch2a)
            block.register_module("bn_branch2b1", nn.Identity())
            if isinstance(block, Bottleneck):
                fold(block.bn_branch2b2, block.conv_branch2b1)
                block.register_module("bn_branch2b2", nn.Identity())
        fold(self.bn7, blocks[-1].conv_branch2b2, blocks[-1].conv_branch1)
        self.register_module("bn7", nn.Identity())
