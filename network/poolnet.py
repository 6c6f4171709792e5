"""PoolNet (Liu et al., CVPR 2019): saliency from a ResNet-50, with pooling-based guidance and feature aggregation."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from network import frozen_norm
from network.caffe_resnet import CaffeResNet
from network.taps import convolve_enlarged, two_convolutions
from tool.image_ops import Normalization

POOLED = (1, 3, 5)  # sides of the pyramid's maps


def upsample(x: Tensor, like: Tensor) -> Tensor:
    """Resize bilinearly to the height and width of `like`, with corners aligned."""
    if x.shape[2:] == like.shape[2:]:
        return x
    return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=True)


def conv(in_channels: int, out_channels: int, kernel: int = 3, bias: bool = False) -> nn.Conv2d:
    """Return a convolution that keeps the size."""
    return nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=bias)


class GuidedBackbone(nn.Module):
    """The backbone and the global guidance module (section 3.2): a pooling pyramid that guides each level of the decoder.

    (N, 3, H, W) -> features f0 .. f4, and guides g0 .. g3 of the sizes of f3, f2, f1, f0.
    """

    def __init__(self, width: int, guides: Sequence[int], **resnet) -> None:
        super().__init__()
        self.resnet = CaffeResNet(**resnet)
        self.ppms_pre = conv(self.resnet.channels, width, 1)
        self.ppms = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(side), conv(width, width, 1), nn.ReLU()) for side in POOLED
        )
        # Lists of one: the published names have a 0 there.
        self.ppm_cat: Any = nn.ModuleList([conv((1 + len(POOLED)) * width, width)])
        self.infos: Any = nn.ModuleList(nn.ModuleList([conv(width, guide)]) for guide in guides)

    def forward(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        features = list(self.resnet.stages(x))
        last = self.ppms_pre(features[-1])
        # ppm_cat(cat[last, enlarged pooled maps]), one input of the concatenation after the other.
        weight, *weights = self.ppm_cat[0].weight.split(last.shape[1], dim=1)
        pyramid = F.conv2d(last, weight, padding=1)
        for pooled, weight in zip(self.ppms, weights, strict=True):
            pyramid = pyramid + convolve_enlarged(pooled(last), weight, last.shape[2:])
        pyramid.relu_()
        sizes = [like.shape[2:] for like in reversed(features[:-1])]
        guides = (convolve_enlarged(pyramid, info[0].weight, s) for info, s in zip(self.infos, sizes, strict=True))
        return features, [guide.relu_() for guide in guides]


class FeatureAggregation(nn.Module):
    """Feature aggregation module (section 3.3); the last one has no skip connection and no `conv_sum_c`."""

    def __init__(self, in_channels: int, out_channels: int, last: bool) -> None:
        super().__init__()
        self.convs = nn.ModuleList(conv(in_channels, in_channels) for _ in range(3))
        self.conv_sum = conv(in_channels, out_channels)
        if not last:
            self.conv_sum_c = conv(out_channels, out_channels)

    def add_pooled(self, x: Tensor) -> Tensor:
        """Pool x (N, in, h, w) by 2, 4 and 8, convolve, resize and add to x; return the ReLU of the sum."""
        pooled = (upsample(layer(F.avg_pool2d(x, side)), x) for side, layer in zip((2, 4, 8), self.convs, strict=True))
        total = x + next(pooled)
        for more in pooled:
            total += more
        return total.relu_()

    def forward(self, x: Tensor, skip: Tensor, guide: Tensor) -> Tensor:
        """Fuse features x (N, in, h, w) with lateral features `skip` and global guidance, both (N, out, H, W) as the result."""
        return self.conv_sum_c(self.conv_sum(upsample(self.add_pooled(x), skip)).add_(skip).add_(guide))


class EdgeBlock(nn.Module):
    """Two residual bottlenecks, then a reduction. (N, k, h, w) -> (N, out, h, w)."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        quarter = channels // 4
        self.block_in1 = nn.ModuleList([conv(channels, quarter, 1)])
        self.block_in2 = nn.ModuleList([conv(channels, quarter, 1)])
        self.block_mid1 = nn.ModuleList([nn.Sequential(conv(quarter, quarter), conv(quarter, channels, 1))])
        self.block_mid2 = nn.ModuleList([nn.Sequential(conv(quarter, quarter), conv(quarter, channels, 1))])
        self.block_out = nn.ModuleList([conv(channels, out_channels, 1)])

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x + self.block_mid1[0](self.block_in1[0](x)))
        x = F.relu(x + self.block_mid2[0](self.block_in2[0](x)))
        return self.block_out[0](x)


class Net(nn.Module):
    """PoolNet without edges, with the tensor names and shapes of the published checkpoint (its run-0).

    `laterals` are channels of the lateral connections, from the stem to the last stage, `width` those of the global guidance.
    `std` is of the initial weights of new convolutions. None, for training from scratch: 0.5 / sqrt(fan in), as each level of
    the decoder adds several maps; with He initialisation logits start in the hundreds.
    """

    input = Normalization("BGR", (104.00699, 116.66877, 122.67892))
    group_factors = ((1, 1),)  # on the learning rate and weight decay of the parameter group
    joint = False  # with edge branch

    def __init__(
        self, laterals: Sequence[int] = (128, 256, 256, 512, 512), width: int = 512, std: float | None = 0.01, **resnet
    ) -> None:
        super().__init__()
        resnet = {"depths": (3, 4, 6, 3), "strides": (1, 2, 2, 1), "dilations": (1, 1, 1, 2), **resnet}
        decoder = [*reversed(laterals), laterals[0]]  # channels before and after each aggregation
        last, levels = laterals[0], len(laterals) - 1
        # In the order of tensors in the published checkpoints.
        self.base = GuidedBackbone(width, decoder[1:-1], **resnet)
        if self.joint:
            self.block = nn.ModuleList(EdgeBlock(channels, 16) for channels in decoder[1:-1])
        self.deep_pool: Any = nn.ModuleList(FeatureAggregation(*channels, False) for channels in pairwise(decoder[:-1]))
        self.deep_pool.append(FeatureAggregation(last, last, True))
        if self.joint:
            trans = nn.ModuleList(conv(16, 1, 1, bias=True) for _ in range(levels))
            self.fuse = nn.ModuleDict({"trans": trans, "fuse": conv(levels, 1, 1, bias=True)})
            widths = (16 * levels, 16 * levels, last, last, last)
            layers = [layer for channels in pairwise(widths) for layer in (conv(*channels), nn.ReLU())]
            self.edgeinfo = nn.ModuleDict({"trans": nn.Sequential(*layers)})
        score = conv(2 * last, 1, bias=True) if self.joint else conv(last, 1, 1, bias=True)
        self.score: Any = nn.ModuleDict({"score": score})
        sources = zip(self.base.resnet.widths, laterals, strict=True)
        lateral = nn.ModuleList(nn.Sequential(conv(before, after, 1), nn.ReLU()) for before, after in sources)
        self.convert: Any = nn.ModuleDict({"convert0": lateral})
        old = set(self.base.resnet.modules())
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module not in old:
                nn.init.normal_(module.weight, std=std or 0.5 * module.weight[0].numel() ** -0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    @property
    def smallest_side(self) -> int:
        """Return the smallest allowed side of a photo in pixels: the 8x8 average pool needs 8 positions in the last features."""
        size = 8
        for stride in reversed(self.base.resnet.strides):
            size = (size - 1) * stride + 1
        return 4 * (size - 1) - 1  # before the stem's convolution and pooling

    def decode(self, x: Tensor) -> list[Tensor]:
        """Return the outputs of all aggregation modules but the last, from the coarsest to half the size of x (N, 3, H, W)."""
        features, guides = self.base(x)
        *skips, x = (lateral(f) for lateral, f in zip(self.convert["convert0"], features, strict=True))
        outputs = []
        for aggregation, skip, guide in zip(self.deep_pool, reversed(skips), guides, strict=False):
            outputs.append(x := aggregation(x, skip, guide))
        return outputs

    def forward(self, x: Tensor) -> Tensor:
        """Return saliency logits (N, 1, H, W) of photos (N, 3, H, W), normalised by `input`."""
        decoded, last, score = self.decode(x), self.deep_pool[-1], self.score["score"]
        weights = score.weight.split(last.conv_sum.out_channels, dim=1)  # of the last aggregation, then of the edges
        logits = two_convolutions(last.add_pooled(decoded[-1]), last.conv_sum, weights[0])
        if not self.joint:
            return upsample(logits + score.bias[:, None, None], x)
        blocks = (block(y).detach() for block, y in zip(self.block, decoded, strict=True))
        hints = self.edgeinfo["trans"](torch.cat([upsample(y, decoded[-1]) for y in blocks], dim=1))
        return upsample(logits + F.conv2d(hints, weights[1], score.bias, padding=1), x)

    def get_parameter_groups(self) -> list[list[nn.Parameter]]:
        """Return one group with all trained parameters."""
        return [[parameter for parameter in self.parameters() if parameter.requires_grad]]

    fold_batch_norms = frozen_norm.fold_batch_norms


class JointNet(Net):
    """PoolNet trained jointly with edge detection (section 4), with the tensor names of the published checkpoint (its run-1)."""

    joint = True

    def freeze_edges(self) -> None:
        """Exclude the edge branch from training, for data without edges: saliency has no gradient for it."""
        for part in (self.block, self.fuse):
            part.requires_grad_(False)


def is_joint(names: Iterable[str]) -> bool:
    """Return whether these tensor names are those of `JointNet`, rather than `Net`."""
    return any(name.startswith("edgeinfo.") for name in names)
