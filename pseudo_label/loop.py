"""Helpers of the inference scripts' loops. PyTorch (two seconds to import) is imported where needed: not for ONNX."""

import argparse
import contextlib
import os
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from pseudo_label.manifest import check_folder, claim_folder, weights_digest
from tool import cli
from tool.cli import BadPhoto, UserError, counted, summarize_ids
from tool.processes import WorkerPool, cores, is_main_process, on_main
from voc12.dataset import Files, check_inputs, report_problems
from voc12.images import load_photo

MORE_MEMORY = "use smaller photos, --amp bf16 or fewer --crf_workers; --device cpu can use all of the machine's memory"


class Photo(NamedTuple):
    """A photo, upright: `pixels` are uint8 RGB (H, W, 3)."""

    id: str
    pixels: np.ndarray


def add_flags(parser: argparse.ArgumentParser, workers: str) -> None:
    """Add the flags that all inference scripts share. workers: what the processes of --crf_workers do."""
    add, count = parser.add_argument, cli.count()
    add("--num_workers", type=count, help="threads that read photos (default: up to 4 with a GPU, 0 on a CPU)")
    add("--crf_workers", type=count, default=max(1, min(16, cores() - 1)), help=f"processes that {workers}; 0: none")
    add("--device", help="cpu, cuda or cuda:N; default: a GPU if there is one")
    add("--amp", choices=("off", "bf16", "fp16"), default="off", help="mixed precision")
    add("--tf32", action="store_true", help="let GPUs round float32 products to TF32")
    add("--overwrite", action="store_true", help="delete existing results and start over")
    add("--skip_errors", action="store_true", help="list and skip photos whose files are missing or bad; exit status 1")


@contextlib.contextmanager
def start(args: argparse.Namespace, needs_torch: bool = True) -> Iterator["Run"]:
    """Start the processes that write, choose the device, join the process group; end the processes after the block."""
    flags = [name for name in vars(args) if name.startswith("out_")]
    folders = {name: getattr(args, name) for name in flags if getattr(args, name)}
    if not folders:
        raise UserError(f"nothing to write. Name an output folder: --{', --'.join(flags)}.")
    if len({folder.resolve() for folder in folders.values()}) < len(folders):
        raise UserError(f"--{', --'.join(folders)} must be different folders")
    try:
        with WorkerPool(args.crf_workers) if args.crf_workers else contextlib.nullcontext() as pool:
            if pool:
                pool.submit(os.getpid).result()  # forks all processes, before a GPU is touched
            if needs_torch or "WORLD_SIZE" in os.environ:
                from tool import distributed

                device, rank, world = distributed.setup(args.device if needs_torch else "cpu", independent=True)
                with distributed.translate_errors(MORE_MEMORY):
                    yield Run(args, folders, pool, device, rank, world)
            else:
                yield Run(args, folders, pool)
    except BrokenProcessPool as error:
        problem = "a process that writes results was killed; memory may be full"
        raise UserError(f"--crf_workers: {problem}. Lower it and rerun; finished photos are kept.") from error


@dataclass
class Run:
    """One process's part of a run; `start` makes it."""

    args: argparse.Namespace
    folders: dict[str, Path]  # of the outputs, by the names of their flags
    pool: WorkerPool | None  # processes that write; None: this one
    device: Any = None  # torch.device
    rank: int = 0
    world: int = 1
    _precision: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext
    _pending: deque[tuple[Photo, Callable[[], str | None]]] = field(default_factory=deque)  # photo, `write` call
    _results: list[tuple[str, str | None, str | None]] = field(default_factory=list)  # id, remark, problem
    _usable: int = 0
    _unusable: int = 0
    _finished: int = 0  # before this run

    def photos_left(
        self, ids: Sequence[str], files: Sequence[Files], problems: Sequence[tuple[str, str]] = ()
    ) -> list[str]:
        """Return those of the photos `ids` that lack a file in an output folder; each needs files of all kinds in `files`.

        problems: (id, message) known before. UserError: unusable inputs, unless --skip_errors is set.
        """
        inputs = {one.folder.resolve(): one.what for one in files}
        for name, folder in self.folders.items():
            if what := inputs.get(folder.resolve()):
                raise UserError(f"--{name} {folder}: is the folder of the {what}s. Name another one.")
        left = on_main(lambda: self._unfinished(ids))  # other ranks may see a shared folder a little later
        bad = dict(problems)
        bad |= check_inputs([image_id for image_id in left if image_id not in bad], files)
        usable = report_problems(list(bad.items()), ids, self.args.skip_errors, "labelled")
        left = [image_id for image_id in left if image_id not in bad]
        self._usable, self._unusable, self._finished = len(usable), len(bad), len(usable) - len(left)
        return left

    def _unfinished(self, ids: Sequence[str]) -> list[str]:
        if self.args.overwrite:
            return list(ids)
        # Listings, as each file's own stat takes longer; a file is written whole or not at all.
        listings = [os.listdir(folder) if folder.is_dir() else [] for folder in self.folders.values()]
        finished = [{name[:-4] for name in names if name.endswith((".png", ".npy"))} for names in listings]
        return [image_id for image_id in ids if not all(image_id in done for done in finished)]

    def claim(self, report: object, settings: Mapping[str, Mapping[str, Any]]) -> None:
        """Print `report`, on the weights, and claim the output folders; their manifests get the weights' digest and `settings`."""

        def claim_all() -> None:
            print(report, flush=True)
            weights = weights_digest(self.args.weights)
            for claim in (check_folder, claim_folder):  # check all of them before one is changed
                for name, folder in self.folders.items():
                    claim(folder, {"output": name, "weights_sha256": weights, **settings[name]}, self.args.overwrite)
            if self._finished:
                print(f"{self._finished} of {counted(self._usable, 'photos')} finished already", flush=True)

        on_main(claim_all)  # other ranks write after old results are deleted

    def prepare(self, net: Any, settings: Mapping[str, Mapping[str, Any]]) -> Any:
        """Load --weights into a PyTorch network, claim the output folders, and return it ready for inference on the device."""
        from network import options
        from network.weights import load_weights
        from tool.distributed import describe
        from tool.precision import autocast, inference_form, setup_precision

        args, report = self.args, load_weights(net, self.args.weights)
        if report.missing:
            raise UserError(f"{report}. Give a trained checkpoint, not a backbone.")
        shared = {"network": args.network, **options(args), "amp": args.amp, "tf32": args.tf32}
        if names := getattr(net, "class_names", ()):
            shared["classes"] = list(names)
        lines = f"{report}\n{describe(self.device, self.world)}"
        self.claim(lines, {name: {**shared, **settings[name]} for name in self.folders})
        setup_precision(args.tf32)
        self._precision = partial(autocast, self.device, args.amp)
        return inference_form(net, self.device, args.amp, args.tf32)

    def read_ahead(
        self, ids: Sequence[str], files: Files, prepare: Callable[[Image.Image], Any] | None = None
    ) -> Iterator[tuple[Photo, Any]]:
        """Yield this rank's photos, each with the result of `prepare` on it, such as `predict.views`; show the progress."""
        ids = ids[self.rank :: self.world]
        threads = self.args.num_workers
        if threads is None:
            threads = min(4, cores()) if self.device is not None and self.device.type == "cuda" else 0

        def read(image_id: str) -> tuple[Photo, Any] | UserError:
            try:
                photo = load_photo(files.find(image_id))
                return Photo(image_id, np.array(photo)), prepare(photo) if prepare else None
            except UserError as error:
                return error

        with tqdm(total=len(ids), unit="photo", disable=not is_main_process(), dynamic_ncols=True) as bar:
            for image_id, item in zip(ids, map_ahead(read, ids, threads), strict=True):
                if isinstance(item, UserError):
                    self._skip(image_id, str(item))
                else:
                    yield item
                bar.update()

    @contextlib.contextmanager
    def attempt(self, photo: Photo) -> Iterator[None]:
        """Compute in the precision of --amp. A bad photo, or one too large for the memory, is skipped or ends the run."""
        try:
            with self._precision():
                yield
        except BadPhoto as error:
            self._skip(photo.id, str(error))
        except (MemoryError, RuntimeError) as error:
            import torch

            from tool.distributed import is_out_of_memory

            if not is_out_of_memory(error):
                raise
            traceback.clear_frames(error.__traceback__)  # which hold the network's activations
            torch.cuda.empty_cache()
            height, width = photo.pixels.shape[:2]
            self._skip(photo.id, f"photo {photo.id}, {width}x{height} pixels: out of memory; {MORE_MEMORY}")

    def write_behind(self, write: Callable[..., str | None], photo: Photo, *results: Any) -> None:
        """Run `write(photo, *results)`, which may return a remark for the summary, in a process of --crf_workers."""
        call = self.pool.submit(write, photo, *results).result if self.pool else partial(write, photo, *results)
        self._pending.append((photo, call))
        while len(self._pending) > 2 * self.args.crf_workers:
            self._wait_for_oldest()

    def _wait_for_oldest(self) -> None:
        photo, call = self._pending.popleft()
        with self.attempt(photo):
            self._results.append((photo.id, call(), None))

    def _skip(self, image_id: str, message: str) -> None:
        if not self.args.skip_errors:
            raise UserError(f"{message}; --skip_errors skips it")
        self._results.append((image_id, None, message))

    def finish(self) -> None:
        """Wait for all files and print a summary of all ranks. UserError on rank 0 if photos were skipped."""
        while self._pending:
            self._wait_for_oldest()
        results = self._results
        if self.world > 1:
            from tool import distributed

            results = [result for rank in distributed.gather(results) for result in rank]
            distributed.cleanup()
        if self.rank > 0:
            return
        remarks = {image_id: remark for image_id, remark, _ in results if remark}
        problems = {image_id: problem for image_id, _, problem in results if problem}
        done = self._finished + len(results) - len(problems)
        made = "saliency maps" if "out_sal" in self.folders else "photos labelled"
        print(f"{counted(done, made)} in {', '.join(map(str, self.folders.values()))}", flush=True)
        if remarks:
            text = f"{counted(len(remarks), 'photos')} {next(iter(remarks.values()))}"  # a script's are all the same
            print(f"note: {text}: {summarize_ids(list(remarks))}", file=sys.stderr)
        for image_id, problem in problems.items():
            print(f"skipped {image_id}: {problem}", file=sys.stderr)
        if skipped := self._unusable + len(problems):
            raise UserError(f"skipped {counted(skipped, 'photos')}, listed above")


def map_ahead(function: Callable[[str], Any], items: Sequence[str], threads: int) -> Iterator[Any]:
    """Yield function(item) of all items in order; `threads` compute later ones meanwhile, as Pillow releases the GIL."""
    pending: deque[Future] = deque()
    with ThreadPoolExecutor(max(1, threads)) as pool:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
