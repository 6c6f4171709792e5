"""Label maps from a segmentation network: probabilities at the photo's size, what is written of them, and pictures of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pseudo_label.crf import DEEPLAB, dense_crf
from pseudo_label.jobs import OutputJob
from pseudo_label.visualise import overlay
from tool import VOID
from tool.cli import BadPhoto
from tool.files import atomic_write
from tool.precision import evaluating
from voc12.data import LabelledPhotos
from voc12.images import save_label


@torch.inference_mode()
def probabilities(net: Any, photo: Tensor, device: torch.device, flip: bool = False) -> Tensor:
    """Probability of each label at each pixel: logits upsampled to the photo's size, softmax.

    Args:
        net: a DeepLab-v2 in eval mode on `device`, with the attribute `input`.
        photo: uint8 RGB (H, W, 3).
        flip: the mean over the photo and its mirror image.

    Returns:
        float32 (labels, H, W), on `device`.
    """
    picture = net.input.normalise(photo.to(device))[None].contiguous(memory_format=torch.channels_last)
    size = tuple(photo.shape[:2])
    total = _softmax(net(picture), size)
    if flip:
        total = (total + _softmax(net(picture.flip(-1)), size).flip(-1)) / 2
    return total


def _softmax(logits: Tensor, size: tuple[int, ...]) -> Tensor:
    return F.interpolate(logits.float(), size, mode="bilinear", align_corners=False)[0].softmax(0)


@dataclass(frozen=True)
class SegmentationJob(OutputJob):
    """Label maps from probabilities. A folder that is None is not asked for.

    out_pred: label PNGs; out_crf_pred: label PNGs after the dense CRF; out_prob: probabilities, <id>.npy float16 (labels, H, W).
    """

    out_pred: Path | None = None
    out_crf_pred: Path | None = None
    out_prob: Path | None = None
    scales: tuple[float, ...] = ()
    flip: bool = False

    def settings(self, output: str) -> dict[str, Any]:
        return {"scales": list(self.scales), "flip": self.flip}

    def results(self, image_id: str, probability: Tensor) -> tuple[np.ndarray, np.ndarray | None]:
        """What `write` takes, as little as is needed: the label map uint8 (H, W), and the probabilities."""
        highest = probability.max(0)  # four times as fast as argmax; NaN where there is one
        if not torch.isfinite(highest.values).all():
            raise BadPhoto(
                f"the probabilities of {image_id} are not finite; compute in float32 (--amp off) or check the weights"
            )
        label = highest.indices.to(torch.uint8).cpu().numpy()
        return label, probability.cpu().numpy() if self.out_crf_pred or self.out_prob else None

    def write(self, image_id: str, photo: np.ndarray, label: np.ndarray, probability: np.ndarray | None) -> None:
        if self.out_pred:
            save_label(self.out_pred / f"{image_id}.png", label)
        if self.out_prob and probability is not None:
            with atomic_write(self.out_prob / f"{image_id}.npy") as file:
                np.save(file, probability.astype(np.float16))
        if self.out_crf_pred and probability is not None:
            refined = dense_crf(photo, probability, DEEPLAB).argmax(0).astype(np.uint8)
            save_label(self.out_crf_pred / f"{image_id}.png", refined)


def label_pictures(net: nn.Module, data: LabelledPhotos, palette: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """(name, picture) of the first four photos under their labels, and under those that the network predicts."""
    device = next(net.parameters()).device
    with evaluating(net):
        for image_id in data.ids[:4]:
            photo, label = data.load(image_id)
            predicted = probabilities(net, torch.from_numpy(photo), device).argmax(0).cpu().numpy()
            pictures = [overlay(photo, each, palette) for each in (np.where(label == VOID, 0, label), predicted)]
            yield f"Labels/{image_id}", np.hstack([photo, *pictures])
