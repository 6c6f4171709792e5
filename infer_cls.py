"""Turn a trained network's class masks into pseudo labels.

Pseudo labels with CRF and saliency:
    python infer_cls.py --voc12_root VOC2012 --weights EDAM.pth --infer_list voc12/train_aug.txt \\
        --sal_path SALIENCY --out_crf_pred OUT --theta 0.2 --alpha 0.000001 --beta 0.99999
Interrupted, the same command continues. On several GPUs: torchrun --nproc_per_node 4 infer_cls.py ...
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from network import add_flags, make_net, options
from network.weights import load_weights
from pseudo_label import inference
from pseudo_label.class_maps import class_maps
from pseudo_label.fusion import check_fusion
from pseudo_label.jobs import LabelJob
from pseudo_label.manifest import weights_digest
from tool import flags
from tool.errors import UserError, run
from tool.wording import nearest_path
from voc12.data import MultiScalePhotos
from voc12.inputs import photos, saliency_maps
from voc12.labels import IGNORE_FOREIGN, load_labels
from voc12.lists import check_root, photo_folder, read_image_list


def get_parser() -> argparse.ArgumentParser:
    parser = flags.Parser(__doc__)
    add, number = parser.add_argument, flags.number(float)
    add("--weights", required=True, metavar="FILE", help="trained EDAM network (.pth)")
    add_flags(parser, "network.resnet38_EDAM_cls")
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
    inference.add_flags(parser, workers="compute CRFs and write files")
    return parser


def main() -> None:
    args = get_parser().parse_args()
    job = LabelJob(**{name: getattr(args, name) for name in LabelJob.__dataclass_fields__})
    inference.check_outputs(job)
    check_root(args.voc12_root)
    if job.sal_path and not job.sal_path.is_dir():
        raise UserError(f"--sal_path {job.sal_path}: no such folder{nearest_path(job.sal_path)}")
    if job.sal_path or job.out_cam_pred:
        check_fusion(job.theta, job.alpha, job.beta, saliency=job.sal_path is not None)
    ids = list(dict.fromkeys(read_image_list(args.infer_list)))
    failures: list[tuple[str, str]] = []
    kept = failures if args.skip_errors else None
    labels = load_labels(ids, args.voc12_root, failures=kept, ignore_foreign=args.ignore_foreign)

    saliency = job.sal_path if job.out_cam_pred or job.out_crf_pred else None

    def load_network() -> tuple[nn.Module, str]:
        net = make_net(args.network, needs=("forward_cam", "input"), **options(args))
        report = load_weights(net, args.weights)
        if report.missing:
            raise UserError(f"{report}: no trained EDAM network, which is what makes pseudo labels")
        return net, str(report)

    def compute(
        net: Any, image_id: str, photo: Tensor, views: list[Tensor], device: torch.device
    ) -> tuple[list[int], np.ndarray]:
        classes = np.flatnonzero(labels[image_id]).tolist()
        maps = class_maps(net, views, classes, (photo.shape[0], photo.shape[1]), device)
        return classes, maps.cpu().numpy()

    task = inference.Task(
        job=job,
        ids=list(labels),
        inputs=[photos(photo_folder(args.voc12_root)), *([saliency_maps(saliency)] if saliency else [])],
        weights_sha256=weights_digest(args.weights),
        load_network=load_network,
        photos=partial(MultiScalePhotos, folder=photo_folder(args.voc12_root)),
        compute=compute,
        announce=lambda: tell_idle_flags(args, job),
        failures=failures,
    )
    inference.run(args, task)


def tell_idle_flags(args: argparse.Namespace, job: LabelJob) -> None:
    """Say which settings of the label PNGs were given though none of the outputs depends on them."""
    outputs = job.folders()
    used = {name for output in outputs for name in job.fusion_settings(output)}
    idle = [name for name in ("sal_path", "theta", "alpha", "beta") if name not in used]
    without = "" if job.sal_path or not any(output.endswith("_pred") for output in outputs) else " without --sal_path"
    flags.tell_idle(args, get_parser(), idle, f"on {', '.join(f'--{output}' for output in outputs)}{without}")


if __name__ == "__main__":
    run(main, "interrupted; the same command goes on")
