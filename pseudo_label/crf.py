"""Dense CRF (Krähenbühl and Koltun, NIPS 2011) over class scores. Pure, on arrays."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pydensecrf.densecrf as densecrf


@dataclass(frozen=True)
class CrfSettings:
    """Kernels of the pairwise terms, and steps of mean-field inference. The channel order changes the result slightly."""

    iterations: int
    smoothness: Mapping[str, float]  # near pixels get the same label
    appearance: Mapping[str, float]  # and so do pixels of a similar colour, farther away
    order: str = "RGB"


EDAM = CrfSettings(3, {"sxy": 3, "compat": 3}, {"sxy": 80, "srgb": 13, "compat": 10})
DEEPLAB = CrfSettings(10, {"sxy": 1, "compat": 3}, {"sxy": 67, "srgb": 3, "compat": 4}, "BGR")
FLOOR = 1e-5


def with_background(maps: np.ndarray) -> np.ndarray:
    """Return the CRF's input, float32 (n + 1, H, W): background score 1 - max over classes, then the n class maps."""
    background = 1 - maps.max(axis=0, initial=0.0)
    return np.concatenate([background[None], maps]).astype(np.float32)


def dense_crf(image: np.ndarray, scores: np.ndarray, settings: CrfSettings = EDAM) -> np.ndarray:
    """Return the probabilities float32 (n, H, W) of n labels after mean-field inference.

    `image` is uint8 RGB (H, W, 3), `scores` float (n, H, W) in 0..1, background included. The unary term is
    -log of the scores, clipped at 1e-5 and not renormalised to sum to 1.
    """
    labels, height, width = scores.shape
    image = image[..., ["RGB".index(channel) for channel in settings.order]]
    unary = -np.log(np.clip(scores, FLOOR, 1.0)).reshape(labels, -1).astype(np.float32)
    crf = densecrf.DenseCRF2D(width, height, labels)
    crf.setUnaryEnergy(np.ascontiguousarray(unary))
    crf.addPairwiseGaussian(**settings.smoothness)
    crf.addPairwiseBilateral(rgbim=np.ascontiguousarray(image), **settings.appearance)
    return np.array(crf.inference(settings.iterations), dtype=np.float32).reshape(labels, height, width)
