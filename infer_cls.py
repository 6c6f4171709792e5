"""Turn a trained network's class masks into pseudo labels.

Pseudo labels with CRF and saliency:
    python infer_cls.py --voc12_root VOC2012 --weights EDAM.pth --infer_list voc12/train_aug.txt \\
        --sal_path SALIENCY --out_crf_pred OUT --theta 0.2 --alpha 0.000001 --beta 0.99999
One photo, to look at:
    python infer_cls.py --image photo.jpg --classes cat,sofa --weights EDAM.pth --out OUT
Interrupted, the same command continues. On several GPUs: torchrun --nproc_per_node 4 infer_cls.py ...
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from network import add_flags, make_net, options
from network.state_dict import read_checkpoint
from network.weights import load_weights
from pseudo_label import inference
from pseudo_label.class_maps import MultiScalePhotos, class_maps, views
from pseudo_label.fusion import check_fusion
from pseudo_label.jobs import LabelJob
from pseudo_label.manifest import check_folder, claim_folder, weights_digest
from pseudo_label.visualise import overlay
from tool import cli, distributed
from tool.cli import UserError, nearest_path, run_script
from tool.files import make_folder
from tool.precision import autocast, inference_form, setup_precision
from voc12.classes import PALETTE, VOC, Classes
from voc12.images import load_label, load_photo, save_rgb
from voc12.inputs import photos, saliency_maps
from voc12.labels import IGNORE_FOREIGN, class_number, load_labels
from voc12.lists import ROOT, check_root, make_classes, photo_folder, read_classes, read_image_list

ONE_PHOTO = {"output": "one photo"}  # what the folder of --image holds


def get_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(__doc__)
    add, number = parser.add_argument, cli.number(float)
    add("--weights", required=True, metavar="FILE", help="trained EDAM network (.pth)")
    add_flags(parser, "network.resnet38_EDAM_cls")
    add("--infer_list", default="voc12/train.txt", metavar="FILE", help="photos to label")
    add("--voc12_root", metavar="DIR", help=f"{ROOT}, Annotations")
    add("--ignore_foreign", action="store_true", help=IGNORE_FOREIGN)
    add("--out_cam", type=Path, metavar="DIR", help="write class maps, <id>.npy: class from 0 -> (H, W) float32")
    add("--out_cam_pred", type=Path, metavar="DIR", help="write label PNGs of the class maps")
    add(
        "--out_crf",
        type=Path,
        metavar="DIR",
        help="write CRF probabilities, <id>.npy: label, 0 background -> (H, W) float32",
    )
    add("--out_crf_pred", type=Path, metavar="DIR", help="write label PNGs of the CRF")
    plain = "with --sal_path: write label PNGs of the CRF without saliency as well"
    add("--out_plain_pred", type=Path, metavar="DIR", help=plain)
    add("--sal_path", type=Path, metavar="DIR", help="grey saliency maps <id>.png to fuse into the label PNGs")
    add(
        "--image",
        type=Path,
        metavar="FILE",
        help="in place of a dataset: one photo, whose classes are given by --classes",
    )
    add("--classes", metavar="A,B", help="with --image: the classes that the photo shows")
    one = "with --image: write class maps, label PNG with CRF and the photo under its label: <name>.npy, .png, _overlay.png"
    add("--out", type=Path, metavar="DIR", help=one)
    theta = "background score of class maps; with --sal_path: saliency up to theta x 100 is background"
    add("--theta", type=number, default=0.5, help=theta)
    add("--alpha", type=number, default=0.0, help="with --sal_path: scores below it never win")
    add("--beta", type=number, default=1.0, help="with --sal_path: scores above it always win")
    inference.add_flags(parser, workers="compute CRFs and write files")
    return parser


def main() -> None:
    args = get_parser().parse_args()
    job = LabelJob(**{name: getattr(args, name) for name in LabelJob.__dataclass_fields__})
    if job.sal_path and not job.sal_path.is_dir():
        raise UserError(f"--sal_path {job.sal_path}: no such folder{nearest_path(job.sal_path)}")
    if args.image:
        label_one(args, job)
        return
    inference.check_outputs(job)
    if job.out_plain_pred and not job.sal_path:
        raise UserError(
            "--out_plain_pred is for labels beside those with --sal_path; without it, --out_crf_pred writes them"
        )
    if args.voc12_root is None:
        raise UserError("give the photos: --voc12_root with --infer_list, or --image with --classes and --out")
    check_root(args.voc12_root)
    if job.sal_path or job.out_cam_pred:
        check_fusion(job.theta, job.alpha, job.beta, saliency=job.sal_path is not None)
    ids = list(dict.fromkeys(read_image_list(args.infer_list)))
    failures: list[tuple[str, str]] = []
    kept = failures if args.skip_errors else None
    how = {"ignore_foreign": args.ignore_foreign, "listed_in": args.infer_list}
    labels = load_labels(ids, args.voc12_root, failures=kept, **how)

    def compute(
        net: Any, image_id: str, photo: Tensor, views: list[Tensor], device: torch.device
    ) -> tuple[list[int], np.ndarray]:
        classes = np.flatnonzero(labels[image_id]).tolist()
        maps = class_maps(net, views, classes, (photo.shape[0], photo.shape[1]), device)
        return classes, maps.cpu().numpy()

    task = inference.Task(
        job=job,
        ids=list(labels),
        inputs=[photos(photo_folder(args.voc12_root)), *([saliency_maps(job.fused)] if job.fused else [])],
        weights_sha256=weights_digest(args.weights),
        load_network=lambda: load_network(args, read_classes(args.voc12_root)),
        photos=partial(MultiScalePhotos, folder=photo_folder(args.voc12_root)),
        compute=compute,
        announce=lambda: warn_unused(args, job),
        failures=failures,
    )
    inference.run(args, task)


def load_network(args: argparse.Namespace, classes: Classes) -> tuple[Any, str]:
    """The trained network, and the line to report."""
    given = options(args) | classes.options(num_classes=len(classes))
    net = make_net(args.network, ("forward_cam", "input"), init_weights=False, **given)
    report = load_weights(net, args.weights)
    if report.missing:
        raise UserError(f"{report}: no trained EDAM network, which is what makes pseudo labels")
    return net, str(report)


def label_one(args: argparse.Namespace, job: LabelJob) -> None:
    """Label the photo of --image, which needs no dataset: the weights say which classes there are."""
    if args.classes is None or args.out is None:
        raise UserError("--image needs --classes A,B, what the photo shows, and --out DIR")
    photo, name = load_photo(args.image), args.image.stem
    if args.out.resolve() == args.image.parent.resolve():
        raise UserError(f"--out {args.out} is the folder of the photo; name another one")
    check_folder(args.out, ONE_PHOTO, overwrite=False, remedy="name another folder")
    idle = [
        "voc12_root",
        "infer_list",
        "skip_errors",
        *([] if job.sal_path else ["theta", "alpha", "beta"]),
        *(f"out_{output}" for output in ("cam", "cam_pred", "crf", "crf_pred", "plain_pred")),
    ]
    cli.warn_unused_flags(args, get_parser(), idle, "with --image")
    names = read_checkpoint(args.weights)[1]
    classes = make_classes(names, args.weights) if names else VOC
    numbers = sorted({class_number(one, classes, "--classes") for one in args.classes.split(",")})
    if job.sal_path:
        check_fusion(job.theta, job.alpha, job.beta, saliency=True)
    device = distributed.setup(args.device)[0]
    with distributed.translate_errors(inference.MORE_MEMORY):
        setup_precision(args.tf32)
        net, report = load_network(args, classes)
        print(report, flush=True)
        net = inference_form(net, device, args.amp)
        with autocast(device, args.amp):
            maps = class_maps(net, views(photo), numbers, photo.size[::-1], device).cpu().numpy()
    claim_folder(args.out, ONE_PHOTO, overwrite=False)
    fusion = {name: getattr(job, name) for name in ("sal_path", "theta", "alpha", "beta")}
    job = LabelJob(out_cam=make_folder(args.out), out_crf_pred=args.out, **fusion)
    remark = job.write(name, np.array(photo), numbers, maps)
    drawn = overlay(np.array(photo), load_label(args.out / f"{name}.png"), PALETTE)
    save_rgb(args.out / f"{name}_overlay.png", drawn)
    print(f"{args.image}: {args.out / name}.npy, .png and _overlay.png{' (no pixel got a class)' if remark else ''}")


def warn_unused(args: argparse.Namespace, job: LabelJob) -> None:
    """Say which settings of the label PNGs were given though none of the outputs depends on them, and what is for --image alone."""
    cli.warn_unused_flags(args, get_parser(), ["classes", "out"], "without --image")
    outputs = job.folders()
    used = {name for output in outputs for name in job.fusion_settings(output)}
    idle = [name for name in ("sal_path", "theta", "alpha", "beta") if name not in used]
    without = "" if job.sal_path or not any(output.endswith("_pred") for output in outputs) else " without --sal_path"
    cli.warn_unused_flags(args, get_parser(), idle, f"on {', '.join(f'--{output}' for output in outputs)}{without}")


if __name__ == "__main__":
    run_script(main, "interrupted; the same command goes on")
