"""Turn a trained network's class masks into pseudo labels.

Pseudo labels with CRF and saliency:
    python infer_cls.py --voc12_root VOC2012 --weights EDAM.pth --infer_list voc12/train_aug.txt \\
        --sal_path SALIENCY --out_crf_pred OUT --theta 0.2 --alpha 0.000001 --beta 0.99999
Interrupted, the same command continues. On several GPUs: torchrun --nproc_per_node 4 infer_cls.py ...
"""

import argparse
import os
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
from torch.utils.data import DataLoader
from tqdm import tqdm

from network import make_net
from network.weights import load_weights
from tool import distributed
from tool.errors import UserError, run
from tool.inference import class_maps
from tool.labelling import LabelJob, LabelPool
from tool.loading import batches
from tool.manifest import claim_folder, file_digest
from tool.precision import autocast, setup_precision
from voc12.data import MultiScalePhotos
from voc12.labels import load_labels
from voc12.lists import read_image_list


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--weights", required=True, metavar="FILE", help="trained EDAM network (.pth)")
    add(
        "--network",
        default="network.resnet38_EDAM_cls",
        metavar="MODULE",
        help="module that holds the class Net (default: %(default)s)",
    )
    add("--infer_list", default="voc12/train.txt", metavar="FILE", help="photos to label (default: %(default)s)")
    add("--voc12_root", required=True, metavar="DIR", help="VOC2012 folder of the devkit: JPEGImages, Annotations")
    add("--out_cam", type=Path, metavar="DIR", help="write class maps, <id>.npy: class 0..19 -> (H, W) float32")
    add("--out_cam_pred", type=Path, metavar="DIR", help="write label PNGs of the class maps")
    add("--out_crf", type=Path, metavar="DIR", help="write CRF probabilities, <id>.npy: label 0..20 -> (H, W) float32")
    add("--out_crf_pred", type=Path, metavar="DIR", help="write label PNGs of the CRF")
    add("--sal_path", type=Path, metavar="DIR", help="grey saliency maps <id>.png to fuse into the label PNGs")
    add(
        "--theta",
        type=float,
        default=0.5,
        help="background score of class maps; with --sal_path: saliency up to theta x 100 is background (default: %(default)s)",
    )
    add("--alpha", type=float, default=0.0, help="with --sal_path: scores below it never win (default: %(default)s)")
    add("--beta", type=float, default=1.0, help="with --sal_path: scores above it always win (default: %(default)s)")
    add(
        "--num_workers",
        type=int,
        default=min(4, os.cpu_count() or 1),
        help="processes that read and resize photos (default here: %(default)s)",
    )
    add(
        "--crf_workers",
        type=int,
        default=max(1, min(16, (os.cpu_count() or 1) - 1)),
        help="processes that compute CRFs and write files; 0: none (default here: %(default)s)",
    )
    add("--device", help="cpu, cuda or cuda:N (default: a GPU, else the CPU)")
    add("--amp", choices=("off", "bf16", "fp16"), default="off", help="mixed precision (default: %(default)s)")
    add("--tf32", action="store_true", help="let GPUs round float32 products to TF32")
    add("--overwrite", action="store_true", help="replace what another run wrote to the output folders")
    add(
        "--skip_errors",
        action="store_true",
        help="go on after a photo or saliency map that can't be read; they are listed at the end and the exit status is 1",
    )
    return parser


def main() -> None:
    args = get_parser().parse_args()
    job = LabelJob(**{name: getattr(args, name) for name in LabelJob.__dataclass_fields__})
    folders = {n: f for n, f in asdict(job).items() if n.startswith("out_") and f}
    if not folders:
        raise UserError(
            "nothing to write: name an output folder with --out_cam, --out_cam_pred, --out_crf or --out_crf_pred"
        )
    if job.sal_path and not job.sal_path.is_dir():
        raise UserError(f"--sal_path {job.sal_path}: no such folder")
    ids = list(dict.fromkeys(read_image_list(args.infer_list)))
    labels = load_labels(ids, args.voc12_root)
    digest = file_digest(args.weights)

    pool = LabelPool(job, args.crf_workers)  # before a GPU is touched
    try:
        device, rank, world = distributed.setup(args.device)
        setup_precision(args.tf32)
        net = make_net(args.network)
        report = load_weights(net, args.weights)
        if rank == 0:
            print(report, flush=True)
            print(distributed.describe(device, world), flush=True)
            for name, folder in folders.items():
                claim_folder(folder, manifest(name, job, args, digest), args.overwrite)
        distributed.barrier()
        net.to(device).eval()

        mine = ids[rank::world]
        todo = [image_id for image_id in mine if not job.finished(image_id)]
        if len(todo) < len(mine):
            print(f"{len(mine) - len(todo)} of {len(mine)} photos are finished already", flush=True)
        loader = DataLoader(
            MultiScalePhotos(todo, args.voc12_root),
            batch_size=None,
            num_workers=min(args.num_workers, len(todo)),
            pin_memory=device.type == "cuda",
        )
        bar = tqdm(total=len(mine), initial=len(mine) - len(todo), unit="photo", disable=rank > 0, dynamic_ncols=True)
        for image_id, photo, views in batches(loader):
            if isinstance(photo, UserError):
                pool.failures.append((image_id, str(photo)))
            else:
                classes = np.flatnonzero(labels[image_id]).tolist()
                with autocast(device, args.amp):
                    maps = class_maps(net, views, classes, tuple(photo.shape[:2]), device)
                pool.submit(image_id, photo.numpy(), classes, maps.cpu().numpy())
            if pool.failures and not args.skip_errors:
                break
            bar.update()
        pool.wait()
        bar.close()
    finally:
        pool.close()
    finish(pool, args.skip_errors, len(mine) - len(todo), folders)
    distributed.barrier()
    distributed.cleanup()


def manifest(output: str, job: LabelJob, args: argparse.Namespace, digest: str) -> dict[str, str | float | bool | None]:
    """What the files of one output depend on."""
    settings = {"output": output, "weights_sha256": digest, "network": args.network, "amp": args.amp, "tf32": args.tf32}
    if output.endswith("_pred"):
        saliency = job.sal_path and str(job.sal_path.resolve())
        settings |= {"theta": job.theta, "alpha": job.alpha, "beta": job.beta, "sal_path": saliency}
    return settings


def finish(pool: LabelPool, skip_errors: bool, before: int, folders: dict[str, Path]) -> None:
    """Report what was written; leave with an error where something failed."""
    if pool.failures and not skip_errors:
        raise UserError(f"{pool.failures[0][1]} (--skip_errors goes on without it)")
    print(f"{pool.finished + before} photos labelled in {', '.join(map(str, folders.values()))}", flush=True)
    if pool.failures:
        for image_id, message in pool.failures:
            print(f"skipped {image_id}: {message}", file=sys.stderr)
        raise UserError(f"{len(pool.failures)} photos were skipped, listed above")


if __name__ == "__main__":
    run(main)
