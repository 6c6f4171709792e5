"""From a photo's class maps to its output files: CRF, fusion, writing; in processes of their own beside the network.

Nothing here needs PyTorch, so that the processes stay small.
"""

import os
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pseudo_label.crf import dense_crf, with_background
from pseudo_label.fusion import pseudo_label
from tool.errors import UserError
from tool.files import save_npy_dict
from tool.workers import WorkerPool
from voc12.folders import SALIENCY_ENDINGS, find_file
from voc12.images import load_grey, save_label


@dataclass(frozen=True)
class LabelJob:
    """What is made of each photo's class maps, and where it goes. A folder that is None is not asked for.

    out_cam: class maps, <id>.npy; out_cam_pred: label PNGs of them; out_crf: CRF probabilities, <id>.npy; out_crf_pred: label PNGs
    of them. sal_path: saliency maps <id>.png to be fused into the label PNGs. theta, alpha, beta: see `pseudo_label.fusion`.
    """

    out_cam: Path | None = None
    out_cam_pred: Path | None = None
    out_crf: Path | None = None
    out_crf_pred: Path | None = None
    sal_path: Path | None = None
    theta: float = 0.5
    alpha: float = 0.0
    beta: float = 1.0

    def paths(self, image_id: str) -> list[Path]:
        """The files of one photo."""
        outputs = ((self.out_cam, "npy"), (self.out_cam_pred, "png"), (self.out_crf, "npy"), (self.out_crf_pred, "png"))
        return [folder / f"{image_id}.{suffix}" for folder, suffix in outputs if folder]

    def finished(self, image_id: str) -> bool:
        """Whether all files of a photo are there; each is written whole or not at all."""
        return all(path.is_file() for path in self.paths(image_id))


def read_saliency(folder: Path, image_id: str, size: tuple[int, int]) -> np.ndarray:
    """Saliency map of a photo in `folder`, uint8 (H, W) = size. UserError: missing, not grey, another size."""
    path = find_file(folder, image_id, SALIENCY_ENDINGS)
    saliency = load_grey(path)
    if saliency.shape != size:
        raise UserError(
            f"saliency map {path} is {saliency.shape[1]}x{saliency.shape[0]} pixels, its photo {size[1]}x{size[0]}: resize it"
        )
    return saliency


def write_labels(
    image_id: str, photo: np.ndarray, classes: Sequence[int], maps: np.ndarray, job: LabelJob
) -> UserError | None:
    """Write everything that the job asks for of one photo.

    Args:
        photo: uint8 RGB (H, W, 3).
        classes: the n classes of its label, 0..19; n may be 0.
        maps: class maps, float32 (n, H, W) in 0..1.

    Returns:
        What is wrong with the input of this photo, which then has no files; other photos may go on.

    Raises:
        UserError: a file can't be written, which stops the run: the next ones can't be either.
    """
    numbers = np.array(classes, np.int64)
    fusion = {"theta": job.theta, "alpha": job.alpha, "beta": job.beta}
    try:
        if not np.isfinite(maps).all():
            raise UserError(
                f"the class maps of {image_id} are not finite; compute in float32 (--amp off) or check the weights"
            )
        if job.sal_path and (job.out_cam_pred or job.out_crf_pred):
            fusion["saliency"] = read_saliency(job.sal_path, image_id, photo.shape[:2])
    except UserError as error:
        return error
    if job.out_cam:
        save_npy_dict(job.out_cam / f"{image_id}.npy", dict(zip(classes, maps, strict=True)))
    if job.out_cam_pred:
        save_label(job.out_cam_pred / f"{image_id}.png", pseudo_label(maps, numbers, **fusion))
    if job.out_crf or job.out_crf_pred:
        probability = dense_crf(photo, with_background(maps))
        if job.out_crf:
            labels = [0, *(c + 1 for c in classes)]
            save_npy_dict(job.out_crf / f"{image_id}.npy", dict(zip(labels, probability, strict=True)))
        if job.out_crf_pred:
            label = pseudo_label(probability[1:], numbers, background=probability[0], **fusion)
            save_label(job.out_crf_pred / f"{image_id}.png", label)
    return None


class LabelPool:
    """Runs `write_labels` in `workers` processes, at most a few photos behind; 0 workers run it at once.

    Make it before a GPU is touched. Its methods raise UserError where a file can't be written or a process was killed.
    """

    def __init__(self, job: LabelJob, workers: int) -> None:
        self.job, self.workers = job, workers
        self.pending: dict[Future, str] = {}
        self.failures: list[tuple[str, str]] = []
        self.finished = 0
        self.pool = None
        if workers:
            self.pool = WorkerPool(workers)
            self.pool.submit(os.getpid).result()  # starts all of them

    def submit(self, image_id: str, photo: np.ndarray, classes: Sequence[int], maps: np.ndarray) -> None:
        """Hand over one photo; waits while too many are under way. Photos whose input is bad end up in `failures`."""
        if self.pool is None:
            self._note(image_id, write_labels(image_id, photo, classes, maps, self.job))
            return
        while len(self.pending) >= 2 * self.workers:
            self._collect()
        try:
            self.pending[self.pool.submit(write_labels, image_id, photo, classes, maps, self.job)] = image_id
        except BrokenProcessPool as error:
            raise _worker_died() from error

    def wait(self) -> None:
        """Until everything handed over is written."""
        while self.pending:
            self._collect()

    def close(self) -> None:
        """End the processes; what has not started is dropped."""
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)

    def _collect(self) -> None:
        """Wait for the photo handed over first, so that failures come in the order of the photos."""
        future, image_id = next(iter(self.pending.items()))
        del self.pending[future]
        try:
            self._note(image_id, future.result())
        except BrokenProcessPool as error:
            raise _worker_died() from error

    def _note(self, image_id: str, error: UserError | None) -> None:
        if error is None:
            self.finished += 1
        else:
            self.failures.append((image_id, str(error)))


def _worker_died() -> UserError:
    return UserError(
        "a process that computes CRFs was killed (memory may be full); lower --crf_workers and run the same command again: "
        "it continues"
    )
