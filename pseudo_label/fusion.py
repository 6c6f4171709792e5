"""Pseudo labels from class scores: one function for inference and evaluation alike. Pure, on arrays."""

import numpy as np

from tool.cli import UserError
from voc12.images import values_in


def pseudo_label(
    scores: np.ndarray,
    classes: np.ndarray,
    *,
    theta: float = 0.5,
    background: np.ndarray | None = None,
    saliency: np.ndarray | None = None,
    alpha: float = 0.0,
    beta: float = 1.0,
) -> np.ndarray:
    """Return the label map, uint8 (H, W): 0 background, class + 1 elsewhere.

    `scores` (n, H, W) float are the n classes' own scores, class maps or CRF probabilities, without background;
    `classes` (n,) are their numbers, from 0; n may be 0. They compete with a background, the first of these that is given:
      saliency    uint8 (H, W), 0..255: scores below `alpha` are out, scores above `beta` win, and the others win
                  where the saliency is above `theta * 100` (both for maps and for the CRF)
      background  (H, W): the CRF's background probability; `theta`, `alpha`, `beta` are not used
      theta       the background score of class maps; `alpha`, `beta` are not used
    A tie goes to the background, and between classes to the first, as in np.argmax with the background in front.
    """
    label, level = levels(scores, classes, saliency=saliency, alpha=alpha, beta=beta)
    limit = theta if background is None else background
    if saliency is not None:
        limit = theta * 100
    return np.where(level > limit, label, np.uint8(0))


def levels(
    scores: np.ndarray,
    classes: np.ndarray,
    *,
    saliency: np.ndarray | None = None,
    alpha: float = 0.0,
    beta: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Return (label, level), both (H, W), that hold `pseudo_label` for every theta at once.

    The label map of theta is `label` where `level > theta` (with a saliency map: `level > theta * 100`), else 0.
    """
    if saliency is not None:
        scores = np.where(scores < alpha, -2, np.where(scores > beta, 2, scores)).astype(scores.dtype)
    best, label = np.full(scores.shape[1:], -np.inf, np.float32), np.zeros(scores.shape[1:], np.uint8)
    for score, category in zip(scores, classes, strict=True):  # several times faster than argmax over axis 0
        label[score > best] = category + 1
        best = np.maximum(best, score)
    if saliency is None:
        return label, best
    return label, np.where(best > 1, np.inf, np.where(best > 0, saliency, -np.inf))


def restore_classes(fused: np.ndarray, plain: np.ndarray, share: float) -> np.ndarray:
    """Return `fused`, uint8 (H, W), with classes that saliency removed put back from `plain`, the labels without saliency.

    One counts as removed if under `share` of its pixels is left and `plain` has several. Not in the paper; 0: never.
    """
    shown = [label for label in values_in(plain) if label]
    restored = fused.copy()
    for label in shown if len(shown) > 1 else ():
        if np.count_nonzero(fused == label) < share * np.count_nonzero(plain == label):
            restored[plain == label] = label
    return restored


def check_fusion(theta: float, alpha: float = 0.0, beta: float = 1.0, *, saliency: bool) -> None:
    """Raise UserError if a setting of `pseudo_label` is on a wrong scale; `saliency`: maps 0..255 are fused."""
    limit = 2.55 if saliency else 1
    if not 0 <= theta < limit:
        example = f"; for {theta:g} % write {theta / 100:g}" if 1 <= theta <= 100 else ""
        raise UserError(f"--theta {theta:g}: must be at least 0 and below {limit:g}{example}")
    if saliency and not 0 <= alpha <= beta <= 1:
        raise UserError(f"--alpha {alpha:g} --beta {beta:g}: must be 0 <= alpha <= beta <= 1")
