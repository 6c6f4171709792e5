"""Turn a trained network's class masks into pseudo labels.

Pseudo labels with CRF and saliency:
    python infer_cls.py --voc12_root VOC2012 --weights EDAM.pth --infer_list voc12/train_aug.txt \\
        --sal_path SALIENCY --out_crf_pred OUT --theta 0.2 --alpha 0.000001 --beta 0.99999
Interrupted, the same command continues. On several GPUs: torchrun --nproc_per_node 4 infer_cls.py ...
"""

import argparse
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from network import make_net
from network.file_kind import weights_digest
from network.weights import load_weights
from pseudo_label.class_maps import class_maps, prepare
from pseudo_label.fusion import check_fusion
from pseudo_label.jobs import LabelJob, LabelPool
from pseudo_label.manifest import check_folder, claim_folder
from tool import distributed, flags
from tool.errors import UserError, run
from tool.files import make_folder
from tool.loading import batches
from tool.precision import autocast, setup_precision
from voc12.data import MultiScalePhotos
from voc12.labels import IGNORE_FOREIGN, load_labels
from voc12.lists import check_root, read_image_list


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=flags.Help)
    add, count, number = parser.add_argument, flags.count(), flags.number(float)
    network = "network.resnet38_EDAM_cls"
    add("--weights", required=True, metavar="FILE", help="trained EDAM network (.pth)")
    add("--network", type=flags.module_name, default=network, metavar="MODULE", help="module that holds the class Net")
    add("--infer_list", default="voc12/train.txt", metavar="FILE", help="photos to label")
    add("--voc12_root", required=True, metavar="DIR", help="VOC2012 folder of the devkit: JPEGImages, Annotations")
    add("--ignore_foreign", action="store_true", help=IGNORE_FOREIGN)
    add("--out_cam", type=Path, metavar="DIR", help="write class maps, <id>.npy: class 0..19 -> (H, W) float32")
    add("--out_cam_pred", type=Path, metavar="DIR", help="write label PNGs of the class maps")
    add("--out_crf", type=Path, metavar="DIR", help="write CRF probabilities, <id>.npy: label 0..20 -> (H, W) float32")
    add("--out_crf_pred", type=Path, metavar="DIR", help="write label PNGs of the CRF")
    add("--sal_path", type=Path, metavar="DIR", help="grey saliency maps <id>.png to fuse into the label PNGs")
    theta = "background score of class maps; with --sal_path: saliency up to theta x 100 is background"
    add("--theta", type=number, default=0.5, help=theta)
    add("--alpha", type=number, default=0.0, help="with --sal_path: scores below it never win")
    add("--beta", type=number, default=1.0, help="with --sal_path: scores above it always win")
    cores = distributed.cores()
    add("--num_workers", type=count, default=min(4, cores), help="processes that read and resize photos; 0: none")
    workers = "processes that compute CRFs and write files; 0: none"
    add("--crf_workers", type=count, default=max(1, min(16, cores - 1)), help=workers)
    add("--device", help="cpu, cuda or cuda:N; otherwise a GPU where there is one")
    add("--amp", choices=("off", "bf16", "fp16"), default="off", help="mixed precision")
    add("--tf32", action="store_true", help="let GPUs round float32 products to TF32")
    anew = "start anew, in place of what the output folders hold: after settings, labels or photos changed"
    add("--overwrite", action="store_true", help=anew)
    skip = "go on without photos whose label, photo or saliency map is bad; they are listed at the end, exit status 1"
    add("--skip_errors", action="store_true", help=skip)
    return parser


def main() -> None:
    args = get_parser().parse_args()
    job = LabelJob(**{name: getattr(args, name) for name in LabelJob.__dataclass_fields__})
    folders = output_folders(job)
    check_root(args.voc12_root)
    if job.sal_path and not job.sal_path.is_dir():
        raise UserError(f"--sal_path {job.sal_path}: no such folder")
    if job.sal_path or job.out_cam_pred:
        check_fusion(job.theta, job.alpha, job.beta, saliency=job.sal_path is not None)
    ids = list(dict.fromkeys(read_image_list(args.infer_list)))
    failures: list[tuple[str, str]] = []
    kept = failures if args.skip_errors else None
    labels = load_labels(ids, args.voc12_root, failures=kept, ignore_foreign=args.ignore_foreign)
    digest = weights_digest(args.weights)

    pool = LabelPool(job, args.crf_workers)  # before a GPU is touched
    try:
        device, rank, world = distributed.setup(args.device, apart=True)
        with distributed.explained("smaller photos or --amp bf16 need less; --device cpu has all of the machine's"):
            setup_precision(args.tf32)
            net = make_net(args.network)
            report = load_weights(net, args.weights)
            if report.missing:
                raise UserError(f"{report}: no trained EDAM network, which is what makes pseudo labels")
            if rank == 0:
                print(report, flush=True)
                print(distributed.describe(device, world), flush=True)
                claims = [
                    (folder, manifest(name, job, args, digest), args.overwrite) for name, folder in folders.items()
                ]
                for claim in claims:
                    check_folder(*claim)  # all of them, before one is touched
                for claim in claims:
                    claim_folder(*claim)
                tell_idle_flags(args, folders)
            # The first process alone decides what is left to do: the others may see a shared folder a little later.
            todo = distributed.from_first([i for i in labels if not job.finished(i)] if rank == 0 else None)
            for folder in folders.values():
                make_folder(folder)  # on this machine, should it be another one's disk
            if rank == 0 and len(todo) < len(labels):
                print(f"{len(labels) - len(todo)} of {len(labels)} photos are finished already", flush=True)
            label_photos(prepare(net, device, args.amp), todo[rank::world], labels, pool, device, rank, args)
            counts = distributed.gather((pool.finished, pool.failures))
    finally:
        pool.close()
    if rank == 0:
        failures += [failure for _, some in counts for failure in some]
        finished = sum(count for count, _ in counts) + len(labels) - len(todo)
        print(f"{finished} photos labelled in {', '.join(map(str, folders.values()))}", flush=True)
        for image_id, message in failures:
            print(f"skipped {image_id}: {message}", file=sys.stderr)
    distributed.barrier()
    distributed.cleanup()
    if rank == 0 and failures:
        raise UserError(f"{len(failures)} photos were skipped, listed above")


def label_photos(
    net: nn.Module,
    ids: list[str],
    labels: dict[str, np.ndarray],
    pool: LabelPool,
    device: torch.device,
    rank: int,
    args: argparse.Namespace,
) -> None:
    """Hand the class maps of each photo to the pool, and wait until all are written.

    Raises:
        UserError: a bad photo or saliency map, unless args.skip_errors; a file that can't be written.
    """
    loader = DataLoader(
        MultiScalePhotos(ids, args.voc12_root),
        batch_size=None,
        num_workers=min(args.num_workers, len(ids)),
        pin_memory=device.type == "cuda",
    )

    def check() -> None:
        if pool.failures and not args.skip_errors:
            raise UserError(f"{pool.failures[0][1]} (--skip_errors goes on without it)")

    with tqdm(total=len(ids), unit="photo", disable=rank > 0, dynamic_ncols=True) as bar:
        for image_id, photo, views in batches(loader):
            if isinstance(photo, UserError):
                pool.failures.append((image_id, str(photo)))
            else:
                classes = np.flatnonzero(labels[image_id]).tolist()
                with autocast(device, args.amp):
                    maps = class_maps(net, views, classes, tuple(photo.shape[:2]), device)
                pool.submit(image_id, photo.numpy(), classes, maps.cpu().numpy())
            check()
            bar.update()
        pool.wait()
        check()


def tell_idle_flags(args: argparse.Namespace, outputs: Iterable[str]) -> None:
    """Say which settings of the label PNGs were given though none of the outputs depends on them."""
    used = {name for output in outputs for name in label_settings(output, args.sal_path)}
    idle = [name for name in ("sal_path", "theta", "alpha", "beta") if name not in used]
    without = "" if args.sal_path or not any(map(_is_label, outputs)) else " without --sal_path"
    flags.tell_idle(args, get_parser(), idle, f"on {', '.join(f'--{output}' for output in outputs)}{without}")


def label_settings(output: str, sal_path: Path | None) -> tuple[str, ...]:
    """The settings, by name, that the files of an output depend on besides the network."""
    if not _is_label(output):
        return ()
    if sal_path is not None:
        return ("sal_path", "theta", "alpha", "beta")
    return ("theta",) if output == "out_cam_pred" else ()  # the CRF has a background of its own


def _is_label(output: str) -> bool:
    return output.endswith("_pred")


def output_folders(job: LabelJob) -> dict[str, Path]:
    """Name of each output asked for -> its folder. UserError: none, or two in one folder."""
    folders = {name: folder for name, folder in asdict(job).items() if name.startswith("out_") and folder}
    if not folders:
        raise UserError(
            "nothing to write: name an output folder with --out_cam, --out_cam_pred, --out_crf or --out_crf_pred"
        )
    resolved = [folder.resolve() for folder in folders.values()]
    if len(set(resolved)) < len(resolved):
        raise UserError(f"two outputs in one folder would mix; give {', '.join(f'--{n}' for n in folders)} one each")
    return folders


def manifest(output: str, job: LabelJob, args: argparse.Namespace, digest: str) -> dict[str, str | float | bool | None]:
    """What the files of one output depend on."""
    settings = {"output": output, "weights_sha256": digest, "network": args.network, "amp": args.amp, "tf32": args.tf32}
    if _is_label(output):
        settings |= {name: getattr(job, name) for name in label_settings(output, job.sal_path)}
        settings["sal_path"] = job.sal_path and str(job.sal_path.resolve())
    return settings


if __name__ == "__main__":
    run(main, "interrupted; the same command goes on")
