"""The dilated bottleneck ResNet (He et al., 2016) of networks that began in Caffe: the backbone of DeepLab-v2 and PoolNet.

It differs from torchvision's: the stride is on the first 1x1 convolution of a block, the pooling rounds its size up, all blocks of a
stage have one dilation, the first block of every stage has a projection, and the batch norms are never trained.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from network.frozen_norm import FrozenBatchNorm2d, fold_pairs


class Bottleneck(nn.Module):
    """1x1 conv, 3x3 conv, 1x1 conv, plus the input or its projection. (N, in, h, w) -> (N, out, h / stride, w / stride).

    Args:
        convs: these three, and the projection if there is one.
        norms: the batch norm after each of them.
    """

    def __init__(self, convs: Sequence[nn.Module], norms: Sequence[nn.Module]) -> None:
        super().__init__()
        self.conv1, self.bn1, self.conv2, self.bn2 = convs[0], norms[0], convs[1], norms[1]
        self.conv3, self.bn3 = convs[2], norms[2]
        self.downsample = nn.Sequential(convs[3], norms[3]) if convs[3:] else None

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.bn1(self.conv1(x)).relu_()
        x = self.bn2(self.conv2(x)).relu_()
        return self.bn3(self.conv3(x)).add_(shortcut).relu_()


class CaffeResNet(nn.Module):
    """A stem of stride 4 and four stages of bottlenecks, with torchvision's tensor names.

    Args:
        depths, strides, dilations: of each stage; a depth is a number of blocks.
        widths: channels of the stem and of each stage.
        norm: makes a batch norm of so many channels; the default is never trained.
        stride_on_3x3: as in torchvision, instead of on the first 1x1.
    """

    def __init__(
        self,
        depths: Sequence[int],
        widths: Sequence[int] = (64, 256, 512, 1024, 2048),
        strides: Sequence[int] = (1, 2, 1, 1),
        dilations: Sequence[int] = (1, 1, 2, 4),
        norm: Callable[[int], nn.BatchNorm2d] = FrozenBatchNorm2d,
        stride_on_3x3: bool = False,
    ) -> None:
        super().__init__()
        self.widths, self.strides, self.channels = tuple(widths), tuple(strides), widths[-1]
        self.add_stem(nn.Conv2d(3, widths[0], 7, 2, padding=3, bias=False), norm(widths[0]))
        for stage, (depth, out, dilation) in enumerate(zip(depths, widths[1:], dilations, strict=True)):
            blocks = []
            for i in range(depth):
                before, stride = (widths[stage], strides[stage]) if i == 0 else (out, 1)
                first, second = (1, stride) if stride_on_3x3 else (stride, 1)
                convs = [
                    nn.Conv2d(before, out // 4, 1, first, bias=False),
                    nn.Conv2d(out // 4, out // 4, 3, second, padding=dilation, dilation=dilation, bias=False),
                    nn.Conv2d(out // 4, out, 1, bias=False),
                ]
                if i == 0:
                    convs.append(nn.Conv2d(before, out, 1, stride, bias=False))
                norms = [norm(conv.out_channels) for conv in convs]
                # The branches add, all together, about the variance of the shortcuts.
                nn.init.constant_(norms[2].weight, sum(depths) ** -0.5)
                blocks.append((convs, norms))
            self.add_stage(stage, blocks)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        self.backbone_layers = [name for name, _ in self.named_children()]
        self.stage_names = self.backbone_layers[-len(depths) :]

    def add_stem(self, conv: nn.Module, norm: nn.Module) -> None:
        """Register the first convolution and its batch norm."""
        self.conv1, self.bn1 = conv, norm

    def add_stage(self, stage: int, blocks: Sequence[tuple[Sequence[nn.Module], Sequence[nn.Module]]]) -> None:
        """Register the convolutions and batch norms of a stage's blocks; stages are counted from 0."""
        self.add_module(f"layer{stage + 1}", nn.Sequential(*(Bottleneck(*block) for block in blocks)))

    def stem(self, x: Tensor) -> Tensor:
        """Return (N, widths[0], ceil(H/2), ceil(W/2)), before the ReLU, of x (N, 3, H, W)."""
        return self.bn1(self.conv1(x))

    def stages(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the features of the stem (N, widths[0], ceil(H/2), ceil(W/2)), then of each stage, for x (N, 3, H, W)."""
        x = self.stem(x).relu_()
        yield x
        x = F.max_pool2d(x, 3, 2, padding=1, ceil_mode=True)
        for stage in self.stage_names:
            for block in self.get_submodule(stage).children():
                x = block(x)
            yield x

    def features(self, x: Tensor) -> Tensor:
        """Return the features of the last stage, (N, channels, h, w)."""
        return deque(self.stages(x), maxlen=1).pop()  # the others are freed as early as possible

    def fold_batch_norms(self) -> None:
        """Fold the batch norms into the convolutions, for inference. The network can't be trained afterwards."""
        fold_pairs(self)


def named_pair(conv: nn.Module, norm: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(conv=conv, bn=norm))


class DeepLabBottleneck(nn.Module):
    """`Bottleneck` with the tensor names of the published DeepLab-v2."""

    def __init__(self, convs: Sequence[nn.Module], norms: Sequence[nn.Module]) -> None:
        super().__init__()
        pairs = [named_pair(conv, norm) for conv, norm in zip(convs, norms, strict=True)]
        self.reduce, self.conv3x3, self.increase = pairs[:3]
        self.shortcut = pairs[3] if pairs[3:] else None

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.shortcut is None else self.shortcut(x)
        x = self.conv3x3(self.reduce(x).relu_()).relu_()
        return self.increase(x).add_(shortcut).relu_()


class DeepLabResNet(CaffeResNet):
    """`CaffeResNet` with the tensor names of the published DeepLab-v2."""

    def add_stem(self, conv: nn.Module, norm: nn.Module) -> None:
        self.layer1 = nn.Sequential(OrderedDict(conv1=named_pair(conv, norm)))

    def add_stage(self, stage: int, blocks: Sequence[tuple[Sequence[nn.Module], Sequence[nn.Module]]]) -> None:
        named: OrderedDict[str, nn.Module] = OrderedDict()
        for number, block in enumerate(blocks, 1):
            named[f"block{number}"] = DeepLabBottleneck(*block)
        self.add_module(f"layer{stage + 2}", nn.Sequential(named))

    def stem(self, x: Tensor) -> Tensor:
        return self.layer1(x)
