"""The dilated bottleneck ResNet (He et al., 2016) of networks that began in Caffe: the backbone of DeepLab-v2 and PoolNet.

It differs from torchvision's: the stride is on the first 1x1 convolution of a block, the pooling rounds its size up, all blocks of a
stage have one dilation, the first block of every stage has a projection, and the batch norms are never trained.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from network.frozen_norm import FrozenBatchNorm2d, fold


@dataclass(frozen=True)
class Names:
    """Names of a ResNet's parts in its state_dict. A pair is a convolution and the batch norm after it.

    Attributes:
        stem: the first pair.
        block: pattern for a stage and a block, counted from `first_stage` and `first_block`.
        pairs: of a block: 1x1, 3x3, 1x1, projection.
    """

    stem: tuple[str, str]
    block: str
    first_stage: int
    first_block: int
    pairs: tuple[tuple[str, str], ...]

    def block_name(self, stage: int, block: int) -> str:
        """Return the name of a block; both numbers are counted from 0."""
        return self.block.format(self.first_stage + stage, self.first_block + block)


TORCHVISION = Names(
    ("conv1", "bn1"),
    "layer{}.{}",
    1,
    0,
    (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"), ("downsample.0", "downsample.1")),
)
DEEPLAB = Names(
    ("layer1.conv1.conv", "layer1.conv1.bn"),
    "layer{}.block{}",
    2,
    1,
    tuple((f"{unit}.conv", f"{unit}.bn") for unit in ("reduce", "conv3x3", "increase", "shortcut")),
)


def put(root: nn.Module, name: str, module: nn.Module) -> None:
    """Register a module under a dotted name; containers are added where they are missing."""
    *parents, last = name.split(".")
    for parent in parents:
        if not hasattr(root, parent):
            root.add_module(parent, nn.Module())
        root = getattr(root, parent)
    root.add_module(last, module)


def apply_pair(root: nn.Module, pair: tuple[str, str], x: Tensor) -> Tensor:
    """Return norm(conv(x)). Both are looked up at each call: replicas of DataParallel have their own."""
    conv, norm = pair
    return root.get_submodule(norm)(root.get_submodule(conv)(x))


class Bottleneck(nn.Module):
    """1x1 conv to out/4, dilated 3x3 conv, 1x1 conv to out, plus the input or its projection. (N, in, h, w) -> (N, out, h/s, w/s)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        dilation: int,
        projects: bool,
        names: Names,
        norm: Callable[[int], nn.Module],
        stride_on_3x3: bool,
    ) -> None:
        super().__init__()
        mid, (first, second) = out_channels // 4, (1, stride) if stride_on_3x3 else (stride, 1)
        convs = [
            nn.Conv2d(in_channels, mid, 1, first, bias=False),
            nn.Conv2d(mid, mid, 3, second, padding=dilation, dilation=dilation, bias=False),
            nn.Conv2d(mid, out_channels, 1, bias=False),
        ]
        if projects:
            convs.append(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False))
        self.pairs, self.projects = names.pairs[: len(convs)], projects
        for (conv_name, norm_name), conv in zip(self.pairs, convs, strict=True):
            put(self, conv_name, conv)
            put(self, norm_name, norm(conv.out_channels))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = apply_pair(self, self.pairs[3], x) if self.projects else x
        x = apply_pair(self, self.pairs[0], x).relu_()
        x = apply_pair(self, self.pairs[1], x).relu_()
        return apply_pair(self, self.pairs[2], x).add_(shortcut).relu_()


class CaffeResNet(nn.Module):
    """A stem of stride 4 and four stages of bottlenecks.

    Args:
        depths: blocks of each stage.
        widths: channels of the stem and of each stage.
        strides: of each stage.
        dilations: of each stage.
        names: DEEPLAB or TORCHVISION.
        norm: makes a batch norm of so many channels; the default is never trained.
        stride_on_3x3: as in torchvision, instead of on the first 1x1.
    """

    def __init__(
        self,
        depths: Sequence[int],
        widths: Sequence[int] = (64, 256, 512, 1024, 2048),
        strides: Sequence[int] = (1, 2, 1, 1),
        dilations: Sequence[int] = (1, 1, 2, 4),
        names: Names = TORCHVISION,
        norm: Callable[[int], nn.Module] = FrozenBatchNorm2d,
        stride_on_3x3: bool = False,
    ) -> None:
        super().__init__()
        self.names, self.depths, self.widths, self.strides = names, tuple(depths), tuple(widths), tuple(strides)
        self.channels = widths[-1]
        put(self, names.stem[0], nn.Conv2d(3, widths[0], 7, 2, padding=3, bias=False))
        put(self, names.stem[1], norm(widths[0]))
        for stage, depth in enumerate(depths):
            before, out = widths[stage], widths[stage + 1]
            for b in range(depth):
                width, stride = (before, strides[stage]) if b == 0 else (out, 1)
                block = Bottleneck(width, out, stride, dilations[stage], b == 0, names, norm, stride_on_3x3)
                put(self, names.block_name(stage, b), block)
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        """Apply He initialisation; scale the branches to add, all together, about the variance of the shortcuts."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            elif isinstance(module, Bottleneck):
                module.get_submodule(module.pairs[2][1]).weight *= sum(self.depths) ** -0.5

    def stages(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the features of the stem (N, widths[0], ceil(H/2), ceil(W/2)), then of each stage, for x (N, 3, H, W)."""
        x = apply_pair(self, self.names.stem, x).relu_()
        yield x
        x = F.max_pool2d(x, 3, 2, padding=1, ceil_mode=True)
        for stage, depth in enumerate(self.depths):
            for b in range(depth):
                x = self.get_submodule(self.names.block_name(stage, b))(x)
            yield x

    def features(self, x: Tensor) -> Tensor:
        """Return the features of the last stage, (N, channels, h, w)."""
        return deque(self.stages(x), maxlen=1).pop()  # the others are freed as early as possible

    def pairs(self) -> Iterator[tuple[str, str]]:
        """Yield the names of every convolution and of the batch norm after it."""
        yield self.names.stem
        for name, block in self.named_modules():
            if isinstance(block, Bottleneck):
                yield from ((f"{name}.{conv}", f"{name}.{norm}") for conv, norm in block.pairs)

    def fold_batch_norms(self) -> None:
        """Fold the batch norms into the convolutions, for inference. The network can't be trained afterwards."""
        for conv, norm in list(self.pairs()):
            fold(cast(nn.BatchNorm2d, self.get_submodule(norm)), cast(nn.Conv2d, self.get_submodule(conv)))
            put(self, norm, nn.Identity())
