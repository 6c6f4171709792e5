"""ResNet38d, the backbone: "Wider or Deeper" ResNet-38 (Wu, Shen, van den Hengel, 2019), dilated to output stride 8.

Blocks are pre-activated (batch norm, ReLU, convolution); where the number of channels or the stride changes, the shortcut
is a 1x1 convolution of the *activated* input, elsewhere it is the raw input.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from network.frozen_norm import FrozenBatchNorm2d, fold, fold_batch_norms


def conv_of(side: int, in_channels: int, out_channels: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    padding = dilation * (side // 2)
    return nn.Conv2d(in_channels, out_channels, side, stride, padding, dilation, bias=False)


class Block(nn.Module):
    """Batch norm, ReLU and convolution, two or three times, plus the shortcut. (N, in, h, w) -> (N, out, h/stride, w/stride).

    Dropout is after each ReLU but the first. With `project` the shortcut is a convolution.
    """

    bn_branch2a: nn.Module
    conv_branch2a: nn.Module

    def __init__(self, convs: Sequence[nn.Conv2d], project: bool, dropout: float = 0.0) -> None:
        super().__init__()
        self.branch = ["branch2a", "branch2b1", "branch2b2"][: len(convs)]
        for name, conv in zip(self.branch, convs, strict=True):
            self.add_module(f"bn_{name}", FrozenBatchNorm2d(conv.in_channels))
            self.add_module(f"conv_{name}", conv)
        self.conv_branch1 = None
        if project:
            self.conv_branch1 = conv_of(1, convs[0].in_channels, convs[-1].out_channels, convs[0].stride[0])
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, x: Tensor) -> Tensor:
        activated = self.bn_branch2a(x).relu_()
        shortcut = x if self.conv_branch1 is None else self.conv_branch1(activated)
        branch = self.conv_branch2a(activated)
        for name in self.branch[1:]:
            activated = getattr(self, f"bn_{name}")(branch).relu_()
            branch = getattr(self, f"conv_{name}")(self.dropout(activated))
        return branch.add_(shortcut)


class ResNet38d(nn.Module):
    """(N, 3, H, W) float, normalised RGB -> features (N, widths[-1], ceil(H/8), ceil(W/8)). Its batch norms are not trained.

    `widths` are channels after conv1a, b2 to b7; `depths` blocks in b2 to b5; `dropout` and `dilation` are of b6 and b7. With
    `freeze_stem`, conv1a and b2 are not trained: EDAM starts from ImageNet weights.
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
        self.conv1a = conv_of(3, 3, widths[0])
        before = widths[0]
        for stage, out, depth in zip(("b2", "b3", "b4", "b5"), widths[1:5], depths, strict=True):
            mid, stride, dilated = (out // 2, 1, 2) if stage == "b5" else (out, 2, 1)
            for k in range(depth):
                first = conv_of(3, out, mid, 1, dilated) if k else conv_of(3, before, mid, stride)
                project = k == 0 and (before != out or stride != 1)
                block = Block([first, conv_of(3, mid, out, 1, dilated)], project)
                self.add_module(f"{stage}_{k}" if k else stage, block)
            before = out
        for name, out, share in zip(("b6", "b7"), widths[5:], dropout, strict=True):
            convs = [
                conv_of(1, before, out // 4),
                conv_of(3, out // 4, out // 2, 1, dilation),
                conv_of(1, out // 2, out),
            ]
            self.add_module(name, Block(convs, True, share))
            before = out
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
                block = getattr(self, name)
                getattr(block, f"conv_{block.branch[-1]}").weight *= len(self.block_names) ** -0.5
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
        last: Any = self.b7
        fold(self.bn7, last.conv_branch2b2, last.conv_branch1)
        self.add_module("bn7", nn.Identity())
