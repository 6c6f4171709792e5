"""Many images' predictions against their ground truth, in several processes."""

from collections.abc import Iterator
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from pseudo_label.saliency_scores import SaliencySource, score_image
from pseudo_label.scoring import Source, evaluate_image
from tool.cli import UserError
from tool.workers import WorkerPool

CHUNK = 8  # images per task of a worker process


@dataclass
class Evaluation:
    """What is known of some images.

    total: the summed confusion, int64 (1 or 100, n, n), or what `score_image` returns of saliency maps.
    problems: (id, message) of images that cannot be read.
    with_objects, all_background: how many show objects in the ground truth; of these, how many are predicted all background.
    """

    total: Any = 0
    problems: list[tuple[str, str]] = field(default_factory=list)
    with_objects: int = 0
    all_background: int = 0

    def add(self, other: "Evaluation") -> None:
        self.total = self.total + other.total
        self.problems += other.problems
        self.with_objects += other.with_objects
        self.all_background += other.all_background


def evaluate_chunk(ids: list[str], source: Source | SaliencySource) -> Evaluation:
    """Evaluate some images."""
    result = Evaluation()
    for image_id in ids:
        try:
            if isinstance(source, SaliencySource):
                result.total = result.total + score_image(image_id, source)
                continue
            matrix = evaluate_image(image_id, source)
        except UserError as error:
            result.problems.append((image_id, str(error)))
            continue
        shown = bool(matrix[0, 1:].any())  # of a curve: at its first theta, which leaves most foreground
        result.add(Evaluation(matrix, [], int(shown), int(shown and not matrix[0, :, 1:].any())))
    return result


def evaluate(ids: list[str], source: Source | SaliencySource, workers: int) -> Evaluation:
    """Evaluate all images; the problems come in any order."""
    chunks = [ids[start : start + CHUNK] for start in range(0, len(ids), CHUNK)]
    result = Evaluation()
    with tqdm(total=len(ids), unit="image", desc="eval", disable=None) as bar:
        for count, part in run_chunks(chunks, source, workers):
            result.add(part)
            bar.update(count)
    return result


def run_chunks(
    chunks: list[list[str]], source: Source | SaliencySource, workers: int
) -> Iterator[tuple[int, Evaluation]]:
    if workers < 2 or len(chunks) < 2:
        for chunk in chunks:
            yield len(chunk), evaluate_chunk(chunk, source)
        return
    with WorkerPool(min(workers, len(chunks))) as pool:
        try:
            tasks = {pool.submit(evaluate_chunk, chunk, source): len(chunk) for chunk in chunks}
            for task in as_completed(tasks):
                yield tasks[task], task.result()
        except BrokenProcessPool as error:
            remedy = "lower --num_workers, or 1 for none beside the script, and run it again"
            raise UserError(f"a process that scores images was killed; memory may be full; {remedy}") from error
