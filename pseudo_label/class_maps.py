"""Multi-scale class maps: what the network gives to the pseudo labels."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tool.precision import AMP_DTYPES
from tool.transforms import normalise

_Net = TypeVar("_Net", bound=nn.Module)


class MaskNetwork(Protocol):
    """A network that computes class masks."""

    def forward_cam(self, images: Tensor) -> Tensor:
        """Normalised images (N, 3, H, W) -> masks (N, classes + 1, h, w) in 0..1, the last one background."""
        ...


def prepare(net: _Net, device: torch.device, amp: str = "off") -> _Net:
    """Make a network with `forward_cam` ready for `class_maps`: on the device, frozen, in the fastest form. It can't be trained then.

    amp: "off", "bf16" or "fp16", the precision of the autocast context that the maps will be computed in: convolution weights
    are cast once instead of for every photo.
    """
    net.eval().requires_grad_(False)
    fold = getattr(net, "fold_batch_norms", None)
    if callable(fold):
        fold()
    for module in net.modules():
        if isinstance(module, nn.Conv2d) and amp != "off":
            module.to(AMP_DTYPES[amp])
    return net.to(device).to(memory_format=torch.channels_last)


@torch.inference_mode()
def class_maps(
    net: MaskNetwork, views: Sequence[Tensor], classes: Sequence[int], size: tuple[int, int], device: torch.device
) -> Tensor:
    """Class maps of one photo: masks of all views and their mirror images, upsampled, summed, each divided by its maximum.

    Args:
        net: in eval mode on `device`, better still from `prepare`.
        views: the photo at several scales, uint8 (h, w, 3).
        classes: the classes wanted, 0..19.
        size: (H, W) of the maps.

    Returns:
        float32 (len(classes), H, W) in 0..1, on `device`.
    """
    total = torch.zeros(len(classes), *size, device=device)
    if not classes:
        return total
    for view in views:
        image = normalise(view.to(device, non_blocking=True))
        pair = torch.stack([image, image.flip(-1)]).contiguous(memory_format=torch.channels_last)
        # One after the other on a CPU: just as fast, in two thirds of the memory.
        parts = pair.split(1) if device.type == "cpu" else [pair]
        masks = torch.cat([net.forward_cam(part)[:, list(classes)] for part in parts]).float()  # (2, n, h, w)
        # Bilinear upsampling commutes with mirroring: un-mirror and add while the masks are small.
        masks = masks[0] + masks[1].flip(-1)
        total += F.interpolate(masks[None], size, mode="bilinear", align_corners=False)[0]
    return total / total.amax(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(total.dtype).tiny)
