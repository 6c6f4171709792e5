"""Helpers of the inference scripts' loops: which photos are left, read ahead, write behind, finish."""

import argparse
import contextlib
import os
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn
from tqdm import tqdm

from network import options
from pseudo_label.manifest import check_folder, claim_folder, weights_digest
from tool import cli, distributed, loading
from tool.cli import BadPhoto, UserError, counted, summarize_ids
from tool.files import make_folder
from tool.precision import autocast, inference_form, setup_precision, warn_of_emulation
from tool.processes import WorkerPool, is_main_process, on_main
from voc12.dataset import Files, check_inputs, report_problems
from voc12.images import load_photo

MORE_MEMORY = "smaller photos or --amp bf16 need less; --device cpu has all of the machine's"


class Photo(NamedTuple):
    """A photo, upright: `pixels` are uint8 RGB (H, W, 3)."""

    id: str
    pixels: np.ndarray


def add_flags(parser: argparse.ArgumentParser, workers: str) -> None:
    """Add the flags that all inference scripts share. workers: what the processes of --crf_workers do."""
    add, count, cores = parser.add_argument, cli.count(), distributed.cores()
    readers = "threads that read and resize photos (default: up to 4; on a CPU, whose cores the network uses, none)"
    add("--num_workers", type=count, help=readers)
    add("--crf_workers", type=count, default=max(1, min(16, cores - 1)), help=f"processes that {workers}; 0: none")
    add("--device", help="cpu, cuda or cuda:N; default: a GPU if there is one")
    add("--amp", choices=("off", "bf16", "fp16"), default="off", help="mixed precision")
    add("--tf32", action="store_true", help="let GPUs round float32 products to TF32")
    overwrite = "delete existing results and start over, after settings, labels or photos changed"
    add("--overwrite", action="store_true", help=overwrite)
    skip = "skip photos whose files are missing or bad; they are listed, exit status 1"
    add("--skip_errors", action="store_true", help=skip)


@contextlib.contextmanager
def start(args: argparse.Namespace) -> Iterator["Run"]:
    """Start the processes that write, choose the device, and join the process group; end the processes after the block.

    Args:
        args: flags of `add_flags` and of the network; output folders are the flags out_....

    Raises:
        UserError: no output folder, two outputs in one, no such device, or a process was killed.
    """
    flags = {name: folder for name, folder in vars(args).items() if name.startswith("out_")}
    folders = {name: folder for name, folder in flags.items() if folder}
    if not folders:
        raise UserError(f"nothing to write. Name an output folder: --{', --'.join(flags)}.")
    if len({folder.resolve() for folder in folders.values()}) < len(folders):
        raise UserError(f"--{', --'.join(folders)} must be different folders")
    pool = WorkerPool(args.crf_workers) if args.crf_workers else None
    try:
        if pool is not None:
            pool.submit(os.getpid).result()  # forks all processes, before a GPU is touched
        device, rank, world = distributed.setup(args.device, independent=True)
        with distributed.translate_errors(MORE_MEMORY):
            setup_precision(args.tf32)
            yield Run(args, folders, device, rank, world, pool)
    except BrokenProcessPool as error:
        problem = "a process that writes results was killed; memory may be full"
        raise UserError(f"--crf_workers: {problem}. Lower it and rerun; finished photos are kept.") from error
    finally:
        if pool is not None:
            pool.shutdown(cancel_futures=True)


@dataclass
class Run:
    """One process's part of a run; `start` makes it."""

    args: argparse.Namespace
    folders: dict[str, Path]  # of the outputs, by the names of their flags
    device: torch.device
    rank: int
    world: int
    pool: WorkerPool | None  # processes that write; None: this one
    _pending: deque[tuple[str, Callable[[], str | None]]] = field(default_factory=deque)  # id, result of `write`
    _done: int = 0
    _remarks: list[tuple[str, str]] = field(default_factory=list)  # id, text
    _failures: list[tuple[str, str]] = field(default_factory=list)  # id, message
    _unusable: int = 0

    def usable(self, ids: Sequence[str], files: Sequence[Files], problems: Sequence[tuple[str, str]] = ()) -> list[str]:
        """Return the ids whose input files can be used. UserError: some cannot, without --skip_errors.

        Args:
            ids: photos, each once.
            files: kinds of files that each photo needs.
            problems: (id, message) known before.
        """
        inputs = {one.folder.resolve(): one.what for one in files}
        for name, folder in self.folders.items():
            if what := inputs.get(folder.resolve()):
                raise UserError(f"--{name} {folder}: is the folder of the {what}s. Name another one.")
        bad = dict(problems)
        needed = ids if self.args.overwrite else self._unfinished(ids)
        bad |= check_inputs([image_id for image_id in needed if image_id not in bad], files)
        self._unusable = len(bad)
        return report_problems(list(bad.items()), ids, self.args.skip_errors, "labelled")

    def prepare(self, net: nn.Module, report: object, settings: Mapping[str, Mapping[str, Any]]) -> Any:
        """Claim the output folders, and return the network ready for inference on the device.

        Args:
            net: network with trained weights.
            report: line about the weights to print.
            settings: by output, what its files depend on besides network and precision; for its manifest.
        """
        args = self.args
        if is_main_process():
            warn_of_emulation(self.device, args.amp)
            print(report, distributed.describe(self.device, self.world), sep="\n", flush=True)
            shared = {"weights_sha256": weights_digest(args.weights), "network": args.network, **options(args)}
            shared |= {"amp": args.amp, "tf32": args.tf32}
            if names := getattr(net, "class_names", ()):
                shared["classes"] = list(names)
            for claim in (check_folder, claim_folder):  # check all of them before one is changed
                for name, folder in self.folders.items():
                    claim(folder, {"output": name, **shared, **settings[name]}, args.overwrite)
        return inference_form(net, self.device, args.amp, args.tf32)

    def photos_left(self, ids: Sequence[str]) -> list[str]:
        """Return this process's share of the photos that lack a file in an output folder."""
        left = self._unfinished(ids)
        for folder in self.folders.values():
            make_folder(folder)  # another machine may have a disk of its own
        if is_main_process() and len(left) < len(ids):
            self._done = len(ids) - len(left)
            print(f"{self._done} of {counted(len(ids), 'photos')} finished already", flush=True)
        return left[self.rank :: self.world]

    def _unfinished(self, ids: Sequence[str]) -> list[str]:
        """Return the photos without all of their files, of which each is written whole or not at all.

        The main process lists the folders: others may see a shared one a little later, and each file's own stat takes longer.
        """

        def unfinished() -> list[str]:
            names = [os.listdir(folder) if folder.is_dir() else [] for folder in self.folders.values()]
            found = [{name[:-4] for name in listed if name.endswith((".png", ".npy"))} for listed in names]
            return [image_id for image_id in ids if not all(image_id in finished for finished in found)]

        return on_main(unfinished)

    def read_ahead(
        self, ids: Sequence[str], files: Files, prepare: Callable[[Image.Image], Any] | None = None
    ) -> Iterator[tuple[Photo, Any]]:
        """Yield each photo and what the network takes of it, read by other threads meanwhile; show the progress.

        Args:
            ids: photos.
            files: where they are.
            prepare: returns of a photo what the network takes, such as `class_maps.views`; None without it.
        """
        workers = self.args.num_workers
        if workers is None:
            workers = 0 if self.device.type == "cpu" else min(4, distributed.cores())
        items = loading.read_ahead(_Photos(ids, files, prepare), workers, pin_memory=self.device.type == "cuda")
        with tqdm(total=len(ids), unit="photo", disable=not is_main_process(), dynamic_ncols=True) as bar:
            for image_id, item in zip(ids, items, strict=True):
                if isinstance(item, UserError):
                    self._skip(image_id, str(item))
                else:
                    yield Photo(image_id, item[0].numpy()), item[1]
                bar.update()

    @contextlib.contextmanager
    def attempt(self, photo: Photo) -> Iterator[None]:
        """Compute in the precision of --amp. A bad photo, or one too large for the memory, is skipped or ends the run."""
        try:
            with autocast(self.device, self.args.amp):
                yield
        except BadPhoto as error:
            self._skip(photo.id, str(error))
        except (MemoryError, RuntimeError) as error:
            if not distributed.is_out_of_memory(error):
                raise
            traceback.clear_frames(error.__traceback__)  # which hold the network's activations
            torch.cuda.empty_cache()
            height, width = photo.pixels.shape[:2]
            self._skip(photo.id, f"photo {photo.id}, {width}x{height} pixels: out of memory; {MORE_MEMORY}")

    def write_behind(self, write: Callable[..., str | None], photo: Photo, *results: Any) -> None:
        """Run `write(photo, *results)` in a process of --crf_workers, at most a few photos behind the network.

        Args:
            write: function of a module; writes a photo's files and may return a remark for the summary.
            photo: photo to write files of.
            results: arrays and settings.
        """
        call = self.pool.submit(write, photo, *results).result if self.pool else partial(write, photo, *results)
        self._pending.append((photo.id, call))
        while len(self._pending) > 2 * self.args.crf_workers:
            self._wait_for_oldest()

    def _wait_for_oldest(self) -> None:
        image_id, call = self._pending.popleft()
        try:
            if remark := call():
                self._remarks.append((image_id, remark))
            self._done += 1
        except BadPhoto as error:
            self._skip(image_id, str(error))
        except MemoryError:
            self._skip(image_id, f"photo {image_id}: out of memory; lower --crf_workers")

    def _skip(self, image_id: str, message: str) -> None:
        if not self.args.skip_errors:
            raise UserError(f"{message}; --skip_errors skips it")
        self._failures.append((image_id, message))

    def finish(self) -> None:
        """Wait for all files and print a summary of all ranks. UserError on rank 0 if photos were skipped."""
        while self._pending:
            self._wait_for_oldest()
        ranks = distributed.gather((self._done, self._remarks, self._failures))
        distributed.barrier()
        distributed.cleanup()
        if self.rank > 0:
            return
        done = sum(count for count, _, _ in ranks)
        made = "saliency maps" if "out_sal" in self.folders else "photos labelled"
        print(f"{counted(done, made)} in {', '.join(map(str, self.folders.values()))}", flush=True)
        remarks = [remark for _, remarks, _ in ranks for remark in remarks]
        for text in dict.fromkeys(text for _, text in remarks):
            ids = [image_id for image_id, other in remarks if other == text]
            print(f"note: {counted(len(ids), 'photos')} {text}: {summarize_ids(ids)}", file=sys.stderr)
        failures = [failure for _, _, failures in ranks for failure in failures]
        for image_id, message in failures:
            print(f"skipped {image_id}: {message}", file=sys.stderr)
        if skipped := self._unusable + len(failures):
            raise UserError(f"skipped {counted(skipped, 'photos')}, listed above")


@dataclass
class _Photos:
    """Photos by position: pixels, and what `prepare` returns of them."""

    ids: Sequence[str]
    files: Files
    prepare: Callable[[Image.Image], Any] | None

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, Any]:
        photo = load_photo(self.files.find(self.ids[index]))
        return torch.from_numpy(np.array(photo)), self.prepare(photo) if self.prepare else None
