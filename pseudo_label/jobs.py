"""Writing what was computed of a photo: in processes of their own, beside the network."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pseudo_label.crf import dense_crf, with_background
from pseudo_label.fusion import pseudo_label
from tool.cli import BadPhoto, UserError
from tool.files import remove_leftovers, save_npy_dict
from tool.workers import WorkerPool
from voc12.folders import SALIENCY_ENDINGS, find_file
from voc12.images import load_grey, save_label

FUSED = ("out_cam_pred", "out_crf_pred")  # outputs of LabelJob that saliency is fused into


class Job(Protocol):
    """What is written of each photo, and where it goes."""

    def folders(self) -> dict[str, Path]:
        """Folder of each output that is asked for, by the name of its flag."""

    def settings(self, output: str) -> Mapping[str, Any]:
        """What the files of an output depend on besides network and precision, JSON values."""

    def paths(self, image_id: str) -> list[Path]:
        """The files of one photo."""

    def write(self, image_id: str, photo: np.ndarray, *results: Any) -> str | None:
        """Write the files of one photo, uint8 RGB (H, W, 3); what a user would want to know about them, if anything.

        Raises:
            BadPhoto: something is wrong with the input of this photo, which then has no files; others may go on.
            UserError: a file can't be written, which stops the run: the next ones can't be either.
        """


class OutputJob:
    """A job whose outputs are its attributes out_...: folders, or None where they are not asked for."""

    def folders(self) -> dict[str, Path]:
        return {name: folder for name, folder in vars(self).items() if name.startswith("out_") and folder}

    def paths(self, image_id: str) -> list[Path]:
        pictures = ("_pred", "_sal")
        return [
            folder / f"{image_id}.{'png' if name.endswith(pictures) else 'npy'}"
            for name, folder in self.folders().items()
        ]


@dataclass(frozen=True)
class LabelJob(OutputJob):
    """Pseudo labels from class maps. A folder that is None is not asked for.

    out_cam: class maps, <id>.npy; out_cam_pred: label PNGs of them; out_crf: CRF probabilities, <id>.npy; out_crf_pred: label PNGs
    of them; out_plain_pred: those without saliency. sal_path: saliency maps <id>.png to be fused into the other label PNGs. theta,
    alpha, beta: see `pseudo_label.fusion`.
    """

    out_cam: Path | None = None
    out_cam_pred: Path | None = None
    out_crf: Path | None = None
    out_crf_pred: Path | None = None
    out_plain_pred: Path | None = None
    sal_path: Path | None = None
    theta: float = 0.5
    alpha: float = 0.0
    beta: float = 1.0

    @property
    def fused(self) -> Path | None:
        """The saliency maps, where an output has them fused into it."""
        return self.sal_path if any(output in FUSED for output in self.folders()) else None

    def fusion_settings(self, output: str) -> tuple[str, ...]:
        """The settings of the fusion, by name, that the files of an output depend on."""
        if output not in FUSED:
            return ()
        if self.sal_path is not None:
            return ("sal_path", "theta", "alpha", "beta")
        return ("theta",) if output == "out_cam_pred" else ()  # the CRF has a background of its own

    def settings(self, output: str) -> dict[str, Any]:
        if output == "out_plain_pred":  # the files of another run's out_crf_pred, had it no saliency
            return {"output": "out_crf_pred", "sal_path": None}
        settings = {name: getattr(self, name) for name in self.fusion_settings(output)}
        if output in FUSED:
            settings["sal_path"] = self.sal_path and str(self.sal_path.resolve())
        return settings

    def write(self, image_id: str, photo: np.ndarray, classes: Sequence[int], maps: np.ndarray) -> str | None:
        """classes: the n classes of its label, from 0; n may be 0. maps: class maps, float32 (n, H, W) in 0..1."""
        if not np.isfinite(maps).all():
            raise BadPhoto(
                f"the class maps of {image_id} are not finite; compute in float32 (--amp off) or check the weights"
            )
        numbers = np.array(classes, np.int64)
        fusion: dict[str, Any] = {"theta": self.theta, "alpha": self.alpha, "beta": self.beta}
        if self.fused:
            fusion["saliency"] = read_saliency(self.fused, image_id, photo.shape[:2])
        labels = []
        if self.out_cam:
            save_npy_dict(self.out_cam / f"{image_id}.npy", dict(zip(classes, maps, strict=True)))
        if self.out_cam_pred:
            labels.append(pseudo_label(maps, numbers, **fusion))
            save_label(self.out_cam_pred / f"{image_id}.png", labels[-1])
        if self.out_crf or self.out_crf_pred or self.out_plain_pred:
            probability = dense_crf(photo, with_background(maps))
            if self.out_crf:
                keys = [0, *(c + 1 for c in classes)]
                save_npy_dict(self.out_crf / f"{image_id}.npy", dict(zip(keys, probability, strict=True)))
            if self.out_crf_pred:
                labels.append(pseudo_label(probability[1:], numbers, background=probability[0], **fusion))
                save_label(self.out_crf_pred / f"{image_id}.png", labels[-1])
            if self.out_plain_pred:
                labels.append(pseudo_label(probability[1:], numbers, background=probability[0]))
                save_label(self.out_plain_pred / f"{image_id}.png", labels[-1])
        if classes and not all(label.any() for label in labels):
            return "with classes in their labels, but none in their pseudo labels"
        return None


def read_saliency(folder: Path, image_id: str, size: tuple[int, ...]) -> np.ndarray:
    """Saliency map of a photo in `folder`, uint8 (H, W) = size. BadPhoto: missing, not grey, another size."""
    try:
        path = find_file(folder, image_id, SALIENCY_ENDINGS)
        saliency = load_grey(path)
    except UserError as error:
        raise BadPhoto(str(error)) from error
    if saliency.shape != size:
        raise BadPhoto(
            f"saliency map {path} is {saliency.shape[1]}x{saliency.shape[0]} pixels, its photo {size[1]}x{size[0]}: resize it"
        )
    return saliency


class JobPool:
    """Runs a job's `write` in `workers` processes, at most a few photos behind; 0 workers run it at once.

    Make it before a GPU is touched. Its methods raise UserError where a file can't be written or a process was killed. Where
    `go_on` is set, new processes are started instead, and a photo that ends one again, by itself, becomes a failure.
    """

    def __init__(self, job: Job, workers: int, go_on: bool = False) -> None:
        self.job, self.workers, self.go_on = job, workers, go_on
        self.pending: dict[Future, tuple[Any, ...]] = {}  # id, photo, results
        self.failures: list[tuple[str, str]] = []  # id, message
        self.remarks: list[tuple[str, str]] = []  # id, text
        self.finished = 0
        self.pool = None
        if workers:
            self.pool = WorkerPool(workers)
            self.pool.submit(os.getpid).result()  # starts all of them

    def submit(self, image_id: str, photo: np.ndarray, *results: Any) -> None:
        """Hand over one photo; waits while too many are under way. Photos whose input is bad end up in `failures`."""
        if self.pool is None:
            self._note(image_id, *_write(self.job, image_id, photo, *results))
            return
        while len(self.pending) >= 2 * self.workers:
            self._collect()
        task = (image_id, photo, *results)
        try:
            future = self.pool.submit(_write, self.job, *task)
        except BrokenProcessPool as error:
            self._again(error)
            future = self.pool.submit(_write, self.job, *task)
        self.pending[future] = task

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
        future, (image_id, *_) = next(iter(self.pending.items()))
        try:
            outcome = future.result()
        except BrokenProcessPool as error:
            self._again(error)
            return
        del self.pending[future]
        self._note(image_id, *outcome)

    def _again(self, error: BrokenProcessPool) -> None:
        """After a process was killed: write what was under way one by one, each alone in a process, then go on with new processes."""
        if not self.go_on:
            raise UserError(
                f"a process that writes results (CRF) was killed at one of {', '.join(task[0] for task in self.pending.values())} "
                "(memory may be full); lower --crf_workers and run the same command again: it continues "
                "(--skip_errors goes on without a photo that needs too much)"
            ) from error
        self.close()
        for folder in self.job.folders().values():
            remove_leftovers(folder)  # the pool ends its other processes, too, in the midst of writing
        alone = WorkerPool(1, late=True)
        for future, task in self.pending.items():
            try:
                outcome = future.result()  # those that had ended
            except BrokenProcessPool:
                try:
                    outcome = alone.submit(_write, self.job, *task).result()
                except BrokenProcessPool:
                    outcome = (
                        f"{_named(*task)}: the process that writes its results (CRF) was killed; memory may be full",
                        None,
                    )
                    alone = WorkerPool(1, late=True)
            self._note(task[0], *outcome)
        alone.shutdown()
        self.pending.clear()
        self.pool = WorkerPool(self.workers, late=True)

    def _note(self, image_id: str, failure: str | None, remark: str | None) -> None:
        if failure is not None:
            self.failures.append((image_id, failure))
            return
        self.finished += 1
        if remark is not None:
            self.remarks.append((image_id, remark))


def _write(job: Job, image_id: str, photo: np.ndarray, *results: Any) -> tuple[str | None, str | None]:
    """What is wrong with the photo's input, and the job's remark. UserError: as `Job.write`."""
    try:
        return None, job.write(image_id, photo, *results)
    except BadPhoto as error:
        return str(error), None
    except MemoryError:
        return f"{_named(image_id, photo)}: out of memory; lower --crf_workers", None


def _named(image_id: str, photo: np.ndarray, *_: Any) -> str:
    return f"photo {image_id}, {photo.shape[1]}x{photo.shape[0]} pixels"
