"""EDAM's head: the Discriminative Activation layer and the Collaborative Multi-Attention (Wu et al., CVPR 2021), on any backbone."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from network.cma import PairEmbedding, TransformerBlock, fits_gpu, transformer_blocks
from tool.image_ops import IMAGENET, Normalization

_CLASSES_AT_ONCE = 5  # in the CMA, whose largest tensor then has 43 MB a pair at the published crop


class EDAM(nn.Module):
    """The head, as the first base of a network whose second base is the backbone: `class Net(EDAM, ResNet38d)`.

    The backbone has `channels` and `features`, (N, 3, H, W) photos normalised by `input` -> (N, channels, h, w). Tensor names
    are those of the published checkpoint.

    Args:
        num_classes: classes without background.
        dim, hidden: widths of the tokens and of the feed-forward network.
        cma_dropout: probability of every dropout in the CMA.
        crop_size: crop that the position table is stored for, at an output stride of 8; other crops work, too.
    """

    features: Callable[..., Tensor]
    channels: int
    input: Normalization = IMAGENET
    logits_per_class = 1  # K of `forward`

    # Learning-rate factor and weight-decay factor of each of the groups of `get_parameter_groups`.
    group_factors: Sequence[tuple[float, float]] = ((1, 1), (2, 0), (10, 1), (20, 0), (1, 1), (1, 1))

    def __init__(
        self,
        num_classes: int = 20,
        dim: int = 128,
        hidden: int = 512,
        cma_dropout: float = 0.1,
        crop_size: int = 368,
        **backbone,
    ) -> None:
        super().__init__(**backbone)
        self.num_classes = num_classes
        self.mask_layer = nn.Conv2d(self.channels, num_classes + 1, 3, padding=1, bias=False)
        self.embedding = PairEmbedding((crop_size // 8) ** 2, dim)
        self.trans_list: Any = nn.ModuleList(nn.Sequential(TransformerBlock(dim, hidden)) for _ in range(num_classes))
        self.cma_dropout = nn.ModuleDict({name: nn.Dropout(cma_dropout) for name in ("attention", "tokens")})
        self.d_d = nn.Conv2d(self.channels, dim, 1, bias=False)
        self.fc_list: Any = nn.ModuleList(nn.Conv2d(dim, 1, 1, bias=False) for _ in range(num_classes))
        for module in (self.mask_layer, self.d_d, self.fc_list, self.embedding, self.trans_list):
            for parameter in module.parameters():
                if parameter.dim() > 1:
                    nn.init.xavier_uniform_(parameter)

    def forward(self, images: Tensor) -> Tensor:
        """Return class logits (P, 2, C), C classes, of pairs of images (P, 2, 3, H, W) normalised by `input`.

        Subclasses may return K logits of each class: (P, 2, K * C), all classes K times.
        """
        images = images.flatten(0, 1)
        features = self.features(images)  # (2P, channels, h, w)
        return self.pair_logits(images, features, self.activate(features))

    def pair_logits(self, images: Tensor, features: Tensor, masks: Tensor) -> Tensor:
        """Return the logits (P, 2, C) of images (2P, 3, H, W), features (2P, channels, h, w) and masks (2P, C + 1, h, w)."""
        pairs = len(features) // 2
        reduced = self.d_d(features)  # (2P, D, h, w)
        reduced = reduced.flatten(2).mT.unflatten(0, (pairs, 2))  # (P, 2, T, D)
        masks = masks[:, : self.num_classes].flatten(2).permute(1, 0, 2).unflatten(1, (pairs, 2))  # (C, P, 2, T)
        keep = fits_gpu(masks.numel() * reduced.shape[-1], masks.device)
        at_once = self.num_classes if keep else _CLASSES_AT_ONCE
        logits = [
            self.class_logits(reduced, part, range(start, start + len(part)), keep)
            for start, part in zip(range(0, self.num_classes, at_once), masks.split(at_once), strict=True)
        ]
        return torch.cat(logits).permute(1, 2, 0)  # (P, 2, C), in float32 under autocast as well

    def class_logits(self, reduced: Tensor, masks: Tensor, classes: Sequence[int], keep: bool) -> Tensor:
        """Return the CMA's logits (C, P, 2) of some classes (section 3.3). keep: see `transformer_blocks`.

        Features `reduced` are (P, 2, T, D) at the T positions of each image, masks of these classes (C, P, 2, T).
        """
        tokens = self.embedding(reduced * masks[..., None])  # features times the mask of each class, (C, P, 2, T, D)
        tokens = self.cma_dropout["tokens"](tokens)
        blocks = [self.trans_list[c][0] for c in classes]
        attended = transformer_blocks(tokens.flatten(1, 3), len(reduced), blocks, self.cma_dropout, keep)
        pooled = attended.unflatten(1, tokens.shape[1:4]).mean(3)  # (C, P, 2, D)
        fc = torch.stack([self.fc_list[c].weight.flatten() for c in classes])  # (C, D)
        return (pooled * fc[:, None, None]).sum(-1)

    def forward_cam(self, images: Tensor) -> Tensor:
        """Return class masks (N, C + 1, h, w) in 0..1, background last, of images (N, 3, H, W)."""
        return self.activate(self.features(images))

    def activate(self, features: Tensor) -> Tensor:
        """Return the output of the DA layer (section 3.2): |scores|, L2-normalised over the channels at each position."""
        scores = self.mask_layer(features)
        return F.normalize(scores.to(torch.promote_types(scores.dtype, torch.float32)), dim=1).abs()

    def get_parameter_groups(self) -> list[list[nn.Parameter]]:
        """Return the trained parameters in the published optimiser's groups.

        Backbone weights, backbone biases, new convolutions' weights, their biases, embedding and transformers, and an empty one.
        """
        groups: list[list[nn.Parameter]] = [[] for _ in range(6)]
        for name, parameter in self.named_parameters():
            top = name.split(".")[0]
            new, bias = top in ("mask_layer", "d_d", "fc_list"), name.endswith(".bias")
            if parameter.requires_grad:
                groups[4 if top in ("embedding", "trans_list") else 2 * new + bias].append(parameter)
        return groups
