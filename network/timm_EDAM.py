"""EDAM's head on a timm backbone, small enough for a laptop. The published network is network.resnet38_EDAM_cls."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from network.edam import EDAM
from network.timm_backbone import TimmBackbone

PROB_EPS = 1e-6  # clamp before logit()
MARGIN = 2  # by which a present class should exceed the mean score


class Net(EDAM, TimmBackbone):
    """EDAM with narrower tokens on a TimmBackbone, for training sets of hundreds of photos instead of 10582.

    With so few photos, masks that learn through the CMA alone stay flat, so
    - masks are a softmax over classes and background, initially uniform, instead of the components of a unit vector, which are
      about the square root of a probability, and far from 0 for improbable classes;
    - two extra losses supervise the masks directly: the mean of their largest values and their overall mean.

    mask_share: share of positions averaged as the largest values.
    """

    logits_per_class = 3

    def __init__(
        self, num_classes: int = 20, dim: int = 64, hidden: int = 256, mask_share: float = 0.2, **options
    ) -> None:
        super().__init__(num_classes, dim, hidden=hidden, **options)
        self.mask_share = mask_share
        self.mask_dropout = nn.Dropout2d(0.3)  # of channels
        nn.init.zeros_(self.mask_layer.weight)

    def activate(self, features: Tensor) -> Tensor:
        """Return mask probabilities (N, C + 1, h, w), with sum 1 over the channels, of features (N, channels, h, w)."""
        scores = self.mask_layer(self.mask_dropout(features))
        return scores.softmax(1, torch.promote_types(scores.dtype, torch.float32))

    def pair_logits(self, images: Tensor, features: Tensor, masks: Tensor) -> Tensor:
        """Return (P, 2, 3C): logits of the CMA, of the masks' largest values, of the masks' means; see `EDAM.pair_logits`."""
        photo = F.adaptive_max_pool2d((images != 0).float().amax(1), masks.shape[2:]) > 0  # crops are padded with zeros
        photo, values = photo.flatten(1)[:, None], masks.flatten(2)  # (2P, 1, T), (2P, C + 1, T)
        number = (self.mask_share * photo.sum(2, keepdim=True)).round().clamp_min(1)  # of the largest values
        ordered = values[:, :-1].masked_fill(~photo, 0).sort(2, descending=True).values
        rank = torch.arange(values.shape[2], device=values.device)
        largest = (ordered * (rank < number)).sum(2) / number[:, :, 0]
        largest = largest.clamp(PROB_EPS, 1 - PROB_EPS).logit()
        scores = values.clamp_min(torch.finfo(values.dtype).tiny).log()
        scores = scores[:, :-1] - scores.mean(1, keepdim=True)
        average = (scores * photo).sum(2) / photo.sum(2) - MARGIN
        own = torch.cat([largest, average], 1).unflatten(0, (-1, 2))
        return torch.cat([super().pair_logits(images, features, masks), own], 2)
