"""The dilated bottleneck ResNet (He et al., 2016) of networks that began in Caffe: the backbone of DeepLab-v2 and PoolNet.

It differs from torchvision's: the stride is on the first 1x1 convolution of a block, the pooling rounds its size up, all blocks of a
stage have one dilation, and the batch norms are frozen unless `norm` makes others.
"""

from collections.abc import Callable, Iterator, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from network import frozen_norm


def bottleneck(block: nn.Module, x: Tensor) -> Tensor:
    """Return 1x1, 3x3 and 1x1 conv of x, plus x or its projection. (N, in, h, w) -> (N, out, h / stride, w / stride).

    `block` holds, under any names, these three, and the projection if there is one, each with its batch norm.
    """
    layers = (layer for layer in block.modules() if not isinstance(layer, nn.ModuleDict))
    conv1, bn1, conv2, bn2, conv3, bn3, *projection = layers
    shortcut = x
    for layer in projection:
        shortcut = layer(shortcut)
    x = bn1(conv1(x)).relu_()
    x = bn2(conv2(x)).relu_()
    return bn3(conv3(x)).add_(shortcut).relu_()


class CaffeResNet(nn.Module):
    """A stem of stride 4 and four stages of bottlenecks, with torchvision's tensor names.

    `depths` (blocks), `strides` and `dilations` are of each stage, `widths` channels of the stem and each stage. `norm` makes a
    batch norm for a channel count. `stride_on_3x3`: as in torchvision, instead of on the first 1x1.
    """

    stem_names = ("conv1", "bn1")

    def __init__(
        self,
        depths: Sequence[int],
        widths: Sequence[int] = (64, 256, 512, 1024, 2048),
        strides: Sequence[int] = (1, 2, 1, 1),
        dilations: Sequence[int] = (1, 1, 2, 4),
        norm: Callable[[int], nn.BatchNorm2d] = frozen_norm.FrozenBatchNorm2d,
        stride_on_3x3: bool = False,
    ) -> None:
        super().__init__()
        self.widths, self.strides, self.channels = tuple(widths), tuple(strides), widths[-1]
        self.add(self.stem_names, [nn.Conv2d(3, widths[0], 7, 2, padding=3, bias=False)], norm)
        for stage, (depth, out, dilation) in enumerate(zip(depths, widths[1:], dilations, strict=True)):
            before, stride = widths[stage], strides[stage]
            for block in range(depth):
                first, second = (1, stride) if stride_on_3x3 else (stride, 1)
                convs = [
                    nn.Conv2d(before, out // 4, 1, first, bias=False),
                    nn.Conv2d(out // 4, out // 4, 3, second, padding=dilation, dilation=dilation, bias=False),
                    nn.Conv2d(out // 4, out, 1, bias=False),
                ]
                if block == 0:
                    convs.append(nn.Conv2d(before, out, 1, stride, bias=False))
                names = self.block_names(stage, block)
                self.add(names, convs, norm)
                # All branches together add about as much variance as the shortcuts.
                nn.init.constant_(self.get_parameter(f"{names[5]}.weight"), sum(depths) ** -0.5)
                before, stride = out, 1
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        self.backbone_layers = [name for name, _ in self.named_children()]
        self.stage_names = self.backbone_layers[-len(depths) :]

    @staticmethod
    def block_names(stage: int, block: int) -> list[str]:
        """Return the names of a block's convolutions, each before its batch norm's; `stage` and `block` count from 0."""
        layers = ("conv1", "bn1", "conv2", "bn2", "conv3", "bn3", "downsample.0", "downsample.1")
        return [f"layer{stage + 1}.{block}.{layer}" for layer in layers]

    def add(self, names: Sequence[str], convs: Sequence[nn.Conv2d], norm: Callable[[int], nn.BatchNorm2d]) -> None:
        """Register convolutions, each with a batch norm, under dotted names."""
        layers = [layer for conv in convs for layer in (conv, norm(conv.out_channels))]
        for name, layer in zip(names, layers, strict=False):
            parent: nn.Module = self
            *path, last = name.split(".")
            for part in path:
                if not hasattr(parent, part):
                    parent.add_module(part, nn.ModuleDict())
                parent = parent.get_submodule(part)
            parent.add_module(last, layer)

    def stages(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the features of the stem (N, widths[0], ceil(H/2), ceil(W/2)), then of each stage, for x (N, 3, H, W)."""
        for name in self.stem_names:
            x = self.get_submodule(name)(x)
        yield x.relu_()
        x = F.max_pool2d(x, 3, 2, padding=1, ceil_mode=True)
        for stage in self.stage_names:
            for block in self.get_submodule(stage).children():
                x = bottleneck(block, x)
            yield x

    def features(self, x: Tensor) -> Tensor:
        """Return the features of the last stage, (N, channels, h, w)."""
        *_, last = self.stages(x)
        return last

    fold_batch_norms = frozen_norm.fold_batch_norms


class DeepLabResNet(CaffeResNet):
    """`CaffeResNet` with the tensor names of the published DeepLab-v2."""

    stem_names = ("layer1.conv1.conv", "layer1.conv1.bn")

    @staticmethod
    def block_names(stage: int, block: int) -> list[str]:
        prefix, layers = f"layer{stage + 2}.block{block + 1}", ("reduce", "conv3x3", "increase", "shortcut")
        return [f"{prefix}.{layer}.{kind}" for layer in layers for kind in ("conv", "bn")]
