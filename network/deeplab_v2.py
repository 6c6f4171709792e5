"""DeepLab-v2 (Chen et al., TPAMI 2018): ResNet-101, atrous spatial pyramid pooling, three scales."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from network.caffe_resnet import DeepLabResNet
from network.taps import sum_of_convolutions
from tool.image_ops import Normalization


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling (section 3.2): the sum of dilated 3x3 convolutions. (N, in, h, w) -> (N, labels, h, w)."""

    def __init__(self, in_channels: int, num_labels: int, rates: Sequence[int]) -> None:
        super().__init__()
        for i, rate in enumerate(rates):
            conv: Any = nn.Conv2d(in_channels, num_labels, 3, padding=rate, dilation=rate)
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)
            self.add_module(f"c{i}", conv)

    def forward(self, x: Tensor) -> Tensor:
        return sum_of_convolutions(x, list(self.children()))


class DeepLab(nn.Module):
    """DeepLab-v2's head on any backbone, at several scales. The ASPP is registered in the backbone, as published.

    `make_backbone` returns a module with `channels`, `fold_batch_norms` and `features`, (N, 3, H, W) photos normalised by `input`
    -> (N, channels, h, w) >= 0.

    `num_labels` includes background, `scales` of the photo are in addition to 1, `rates` are the ASPP's dilations.
    """

    make_backbone: Callable[..., Any]
    input: Normalization
    # Factors on the learning rate and weight decay of each of the groups of `get_parameter_groups`.
    group_factors: Sequence[tuple[float, float]] = ((1, 1), (10, 1), (20, 0))

    def __init__(
        self,
        num_labels: int = 21,
        scales: Sequence[float] = (0.5, 0.75),
        rates: Sequence[int] = (6, 12, 18, 24),
        **backbone,
    ) -> None:
        super().__init__()
        self.num_labels, self.scales = num_labels, tuple(scales)
        self.base = self.make_backbone(**backbone)
        self.base.aspp = ASPP(self.base.channels, num_labels, rates)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Return the logits (N, labels, h, w) of photos x (N, 3, H, W), normalised by `input`: the maximum over the scales.

        In training mode the list of logits that each have a loss: at scale 1, at each other scale in its own size, and the
        maximum; with `scales` empty, at scale 1 only.
        """
        resize = partial(F.interpolate, mode="bilinear", align_corners=False)
        photos = [x, *(resize(x, scale_factor=scale) for scale in self.scales)]  # of floor(side * scale) pixels
        logits = [self.base.aspp(self.base.features(photo)) for photo in photos]
        if self.scales:
            same_size = [logits[0], *(resize(y, logits[0].shape[2:]) for y in logits[1:])]
            logits.append(torch.stack(same_size).max(0).values)
        return logits if self.training else logits[-1]

    def get_parameter_groups(self) -> list[list[nn.Parameter]]:
        """Return the trained parameters in three groups: the backbone, the ASPP's weights, the ASPP's biases."""
        groups: list[list[nn.Parameter]] = [[], [], []]
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                groups[("aspp" in name) * (1 + name.endswith(".bias"))].append(parameter)
        return groups

    def fold_batch_norms(self) -> None:
        """Fold the backbone's norms; see `frozen_norm`."""
        self.base.fold_batch_norms()


class Net(DeepLab):
    """DeepLab-v2 as published, with the tensor names and shapes of the published checkpoint.

    A side H becomes ceil(H/2), then floor(./2) + 1, then ceil(./2).
    """

    make_backbone = staticmethod(partial(DeepLabResNet, depths=(3, 4, 23, 3)))
    input = Normalization("BGR", (104.008, 116.669, 122.675))
