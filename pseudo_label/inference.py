"""The machinery of every script that computes files for a list of photos: its common flags, and a run that continues, skips what is
broken where asked, computes with one network per process, and writes beside it.

A script makes a `Task`: its network, its photos, what is computed of each. What is written is a job (`pseudo_label.jobs`).
"""

import argparse
import itertools
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from network import options
from pseudo_label.jobs import Job, JobPool
from pseudo_label.manifest import check_folder, claim_folder
from tool import cli, distributed, ranks
from tool.cli import BadPhoto, UserError, counted, summarize_ids, summarize_problems
from tool.files import make_folder
from tool.loading import ItemDataset, items
from tool.precision import autocast, inference_form, setup_precision, warn_of_emulation
from voc12.inputs import Input, check_inputs

MORE_MEMORY = "smaller photos or --amp bf16 need less; --device cpu has all of the machine's"


@dataclass
class Task:
    """What one script computes.

    job: what is written of each photo.
    ids: the photos, each once; those that are finished are left out.
    inputs: the files of each photo, looked at before anything is computed.
    weights_sha256: which weights it is computed with, for the manifests.
    load_network: makes the network, trained weights loaded, and the line to report.
    photos: ids -> dataset of (id, photo uint8 RGB (H, W, 3), inputs of the network), or (id, UserError, []) for a bad one.
    compute: (network, id, photo, inputs, device) -> the arrays that the job writes, behind the id and the photo.
    announce: called once before the work, when nothing is left that could be wrong with the flags.
    failures: photos that are left out already, (id, message).
    """

    job: Job
    ids: Sequence[str]
    inputs: Sequence[Input]
    weights_sha256: str
    load_network: Callable[[], tuple[nn.Module, str]]
    photos: Callable[[list[str]], ItemDataset]
    compute: Callable[[nn.Module, str, Tensor, Any, torch.device], tuple]
    announce: Callable[[], None] = lambda: None
    failures: list[tuple[str, str]] = field(default_factory=list)


def add_flags(parser: argparse.ArgumentParser, workers: str) -> None:
    """Add the flags that all of these scripts share. workers: what the processes of --crf_workers do."""
    add, count, cores = parser.add_argument, cli.count(), distributed.cores()
    readers = "processes that read and resize photos (default: up to 4; on a CPU, whose cores the network uses, none)"
    add("--num_workers", type=count, help=readers)
    add("--crf_workers", type=count, default=max(1, min(16, cores - 1)), help=f"processes that {workers}; 0: none")
    add("--device", help="cpu, cuda or cuda:N; otherwise a GPU where there is one")
    add("--amp", choices=("off", "bf16", "fp16"), default="off", help="mixed precision")
    add("--tf32", action="store_true", help="let GPUs round float32 products to TF32")
    anew = "start anew, in place of what the output folders hold: after settings, labels or photos changed"
    add("--overwrite", action="store_true", help=anew)
    skip = "go on without photos whose files are missing or bad; they are listed at the end, exit status 1"
    add("--skip_errors", action="store_true", help=skip)


def check_outputs(job: Job) -> None:
    """UserError where no output is asked for, or two go into one folder."""
    folders = job.folders()
    if not folders:
        names = ", ".join(f"--{name}" for name in vars(job) if name.startswith("out_"))
        raise UserError(f"nothing to write: name an output folder with {' or '.join(names.rsplit(', ', 1))}")
    resolved = [folder.resolve() for folder in folders.values()]
    if len(set(resolved)) < len(resolved):
        raise UserError(f"two outputs in one folder would mix; give {', '.join(f'--{n}' for n in folders)} one each")


def run(args: argparse.Namespace, task: Task) -> None:
    """Compute and write what is not there yet. UserError: photos were skipped, or what ended the run."""
    folders = task.job.folders()
    for (name, folder), given in itertools.product(folders.items(), task.inputs):
        if folder.resolve() == given.folder.resolve():
            raise UserError(f"--{name} {folder} is the folder of the {given.what}s; name another one")
    if problems := check_inputs(task.ids, task.inputs):
        if not args.skip_errors:
            without = "it" if len(problems) == 1 else "them"
            remedy = f" (--skip_errors goes on without {without})" if len(problems) < len(task.ids) else ""
            raise UserError(f"{summarize_problems(problems)}{remedy}")
        task.failures += problems
        bad = dict(problems)
        task.ids = [image_id for image_id in task.ids if image_id not in bad]
    pool = JobPool(task.job, args.crf_workers, args.skip_errors)  # before a GPU is touched
    try:
        device, rank, world = distributed.setup(args.device, apart=True)
        with distributed.translate_errors(MORE_MEMORY):
            setup_precision(args.tf32)
            net, report = task.load_network()
            if rank == 0:
                warn_of_emulation(device, args.amp)
                print(report, flush=True)
                print(distributed.describe(device, world), flush=True)
                _claim(args, task, folders, getattr(net, "class_names", ()))
                task.announce()
            # The first process alone decides what is left to do: the others may see a shared folder a little later.
            todo = ranks.from_main([i for i in task.ids if not finished(task.job, i)] if rank == 0 else None)
            for folder in folders.values():
                make_folder(folder)  # on this machine, should it be another one's disk
            if rank == 0 and len(todo) < len(task.ids):
                print(f"{len(task.ids) - len(todo)} of {counted(len(task.ids), 'photos')} finished already", flush=True)
            _process(args, task, inference_form(net, device, args.amp), todo[rank::world], pool, device, rank)
            counts = distributed.gather((pool.finished, pool.failures, pool.remarks))
    finally:
        pool.close()
    failures = task.failures + [failure for _, some, _ in counts for failure in some]
    if rank == 0:
        done = sum(count for count, _, _ in counts) + len(task.ids) - len(todo)
        print(f"{counted(done, 'photos')} labelled in {', '.join(map(str, folders.values()))}", flush=True)
        summarise([remark for _, _, some in counts for remark in some], failures)
    distributed.barrier()
    distributed.cleanup()
    if rank == 0 and failures:
        raise UserError(f"skipped {counted(len(failures), 'photos')}, listed above")


def finished(job: Job, image_id: str) -> bool:
    """Whether all files of a photo are there; each is written whole or not at all."""
    return all(path.is_file() for path in job.paths(image_id))


def _claim(args: argparse.Namespace, task: Task, folders: dict[str, Path], class_names: Sequence[str]) -> None:
    """Make the output folders this run's, all of them or none."""
    network: dict[str, Any] = {"network": args.network, **options(args), "amp": args.amp, "tf32": args.tf32}
    if class_names:
        network["classes"] = list(class_names)
    claims = [
        (folder, {"output": name, "weights_sha256": task.weights_sha256, **network, **task.job.settings(name)})
        for name, folder in folders.items()
    ]
    for claim in claims:
        check_folder(*claim, args.overwrite)  # all of them, before one is touched
    for claim in claims:
        claim_folder(*claim, args.overwrite)


def _process(
    args: argparse.Namespace,
    task: Task,
    net: nn.Module,
    ids: list[str],
    pool: JobPool,
    device: torch.device,
    rank: int,
) -> None:
    """Hand what is computed of each photo to the pool, and wait until all is written.

    Raises:
        UserError: a bad photo, unless args.skip_errors; a file that can't be written.
    """

    def check() -> None:
        if pool.failures and not args.skip_errors:
            raise UserError(f"{pool.failures[0][1]} (--skip_errors goes on without it)")

    with tqdm(total=len(ids), unit="photo", disable=rank > 0, dynamic_ncols=True) as bar:
        largest = (0, 0)
        readers = args.num_workers
        if readers is None:
            readers = 0 if device.type == "cpu" else min(4, distributed.cores())
        photos = items(task.photos(ids), readers, device.type == "cuda", args.skip_errors)
        for image_id, photo, inputs in photos:
            try:
                if isinstance(photo, UserError):
                    raise BadPhoto(str(photo))
                with autocast(device, args.amp):
                    results = _compute(task, net, image_id, photo, inputs, device, largest)
                largest = max(largest, photo.shape[:2], key=math.prod)
                pool.submit(image_id, photo.numpy(), *results)
            except BadPhoto as error:
                pool.failures.append((image_id, str(error)))
            check()
            bar.update()
        pool.wait()
        check()


def _compute(
    task: Task,
    net: nn.Module,
    image_id: str,
    photo: Tensor,
    inputs: Any,
    device: torch.device,
    largest: tuple[int, ...],
) -> tuple:
    """What the job writes of a photo. BadPhoto: there is not enough memory for it; `largest` (H, W) is the largest that had enough."""
    try:
        return task.compute(net, image_id, photo, inputs, device)
    except (MemoryError, RuntimeError) as error:
        if not distributed.is_out_of_memory(error):
            raise
        if device.type == "cuda":
            torch.cuda.empty_cache()
        size = f"{photo.shape[1]}x{photo.shape[0]} pixels"
    fitted = f"; the largest that fitted was {largest[1]}x{largest[0]}" if any(largest) else ""
    raise BadPhoto(f"photo {image_id}, {size}: out of memory{fitted}; {MORE_MEMORY}")


def summarise(remarks: Iterable[tuple[str, str]], failures: Iterable[tuple[str, str]]) -> None:
    """Print what a user would want to look at: photos with remarks, and those that were skipped."""
    by_text: dict[str, list[str]] = {}
    for image_id, text in remarks:
        by_text.setdefault(text, []).append(image_id)
    for text, ids in by_text.items():
        print(f"note: {counted(len(ids), 'photos')} {text}: {summarize_ids(ids)}", file=sys.stderr)
    for image_id, message in failures:
        print(f"skipped {image_id}: {message}", file=sys.stderr)
