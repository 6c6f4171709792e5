"""EDAM's head on a backbone of timm, small enough for a laptop. Not the published network: that is network.resnet38_EDAM_cls."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from network.edam import EDAM
from network.timm_backbone import TimmBackbone

_LEAST = 1e-6  # of a probability whose logit is taken
_ABOVE = 2  # what a class that the photo shows is above the mean of all labels' scores


class Net(EDAM, TimmBackbone):
    """EDAM with narrower tokens, on `backbone`; the options are those of both bases.

    It is made for hundreds of photos where the published one has 10582. There, masks that learn through the CMA alone stay flat, so
    - masks are probabilities, a softmax over classes and background, which start equal: a component of a unit vector, as published,
      is about the square root of a probability, and far from 0 where the class is improbable;
    - masks are told by themselves, too, what their photo shows: twice, by where they are largest, and by all of them.

    Args:
        mask_share: of the positions of a photo, those where a mask is largest; their mean is the photo's probability of the class.
        mask_dropout: of whole channels of the features that masks are made of.
    """

    def __init__(
        self,
        num_classes: int = 20,
        dim: int = 64,
        hidden: int = 256,
        mask_share: float = 0.2,
        mask_dropout: float = 0.3,
        **options,
    ) -> None:
        super().__init__(num_classes, dim, hidden=hidden, **options)
        self.mask_share = mask_share
        self.mask_dropout = nn.Dropout2d(mask_dropout)
        nn.init.zeros_(self.mask_layer.weight)

    def activate(self, features: Tensor) -> Tensor:
        """Mask probabilities: (N, channels, h, w) -> (N, C + 1, h, w), which add up to 1 over the channels."""
        scores = self.mask_layer(self.mask_dropout(features))
        return scores.softmax(1, torch.promote_types(scores.dtype, torch.float32))

    def pair_logits(self, images: Tensor, features: Tensor, masks: Tensor) -> Tensor:
        """The CMA's logits of the C classes, then twice the masks' own: (P, 2, 3C)."""
        photo = F.adaptive_max_pool2d((images != 0).float().amax(1), masks.shape[2:]) > 0  # crops are padded with zeros
        photo, values = photo.flatten(1)[:, None], masks.flatten(2)  # (2P, 1, T), (2P, C + 1, T)
        largest = mean_of_largest(values[:, :-1], photo, self.mask_share).clamp(_LEAST, 1 - _LEAST).logit()
        scores = values.clamp_min(torch.finfo(values.dtype).tiny).log()
        scores = scores[:, :-1] - scores.mean(1, keepdim=True)  # how far above all labels' mean
        average = (scores * photo).sum(2) / photo.sum(2) - _ABOVE
        own = torch.cat([largest, average], 1).unflatten(0, (-1, 2))
        return torch.cat([super().pair_logits(images, features, masks), own], 2)


def mean_of_largest(values: Tensor, counted: Tensor, share: float) -> Tensor:
    """The mean of the largest values of each row: a share of those that count, bool (N, 1, T); (N, C, T), from 0 -> (N, C)."""
    number = (share * counted.sum(2, keepdim=True)).round().clamp_min(1)  # (N, 1, 1)
    ordered = values.masked_fill(~counted, 0).sort(2, descending=True).values
    rank = torch.arange(values.shape[2], device=values.device)
    return (ordered * (rank < number)).sum(2) / number[:, :, 0]
