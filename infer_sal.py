"""Saliency maps from a trained PoolNet: grey PNGs, just what infer_cls.py --sal_path takes.

Photos of a devkit:   python infer_sal.py --voc12_root VOC2012 --infer_list voc12/train_aug.txt --weights final.pth --out_sal SALIENCY
Photos of a folder:   python infer_sal.py --img_root PHOTOS --weights final.pth --out_sal SALIENCY
Interrupted, the same command continues. On several GPUs: torchrun --nproc_per_node 4 infer_sal.py ...
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from network.caffe_weights import make_poolnet
from network.poolnet import is_joint
from pseudo_label import inference
from pseudo_label.manifest import weights_digest
from pseudo_label.saliency_maps import SaliencyJob, enlargement, saliency_logits
from tool import cli
from tool.cli import UserError, run_script
from voc12.data import WholePhotos
from voc12.folders import photos_below
from voc12.inputs import check_folder, photos
from voc12.lists import ROOT, check_root, photo_folder, read_image_list


def get_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(__doc__)
    add, network = parser.add_argument, "network.poolnet"
    add("--weights", required=True, metavar="FILE", help="trained PoolNet (.pth), with or without its edge branch")
    add("--network", type=cli.module_name, default=network, metavar="MODULE", help="module that holds the networks")
    add("--voc12_root", type=Path, metavar="DIR", help=ROOT)
    add("--infer_list", default="voc12/train_aug.txt", metavar="FILE", help="with --voc12_root: photos to look at")
    add("--img_root", type=Path, metavar="DIR", help="in place of --voc12_root: every photo in this folder and below")
    add("--out_sal", type=Path, metavar="DIR", help="write saliency maps, <id>.png: 8-bit grey, as large as the photo")
    inference.add_flags(parser, workers="write files")
    return parser


def main() -> None:
    args = get_parser().parse_args()
    job = SaliencyJob(args.out_sal)
    inference.check_outputs(job)
    folder, ids = find_photos(args)

    def load_network() -> tuple[nn.Module, str]:
        net, load_weights = make_poolnet(args.network, args.weights, ("input", "smallest_side"), init_weights=False)
        report = load_weights(args.weights)
        if report.missing:
            raise UserError(f"{report}: no trained PoolNet, which is what makes saliency maps")
        return net, f"{report}, {'with' if is_joint(net.state_dict()) else 'without'} its edge branch"

    def compute(net: Any, image_id: str, photo: Tensor, inputs: None, device: torch.device) -> tuple[np.ndarray, bool]:
        return saliency_logits(net, photo, device).cpu().numpy(), enlargement(net, photo.shape) > 1

    task = inference.Task(
        job=job,
        ids=ids,
        inputs=[photos(folder)],
        weights_sha256=weights_digest(args.weights),
        load_network=load_network,
        photos=partial(WholePhotos, folder=folder),
        compute=compute,
    )
    inference.run(args, task)


def find_photos(args: argparse.Namespace) -> tuple[Path, list[str]]:
    """The folder of the photos, and their ids. UserError: neither or both of the two ways to name them, or nothing there."""
    if (args.voc12_root is None) == (args.img_root is None):
        raise UserError("give the photos: either --voc12_root with --infer_list, or --img_root")
    if args.voc12_root is not None:
        check_root(args.voc12_root)
        return photo_folder(args.voc12_root), list(dict.fromkeys(read_image_list(args.infer_list)))
    cli.warn_unused_flags(args, get_parser(), ["infer_list"], "with --img_root")
    check_folder(photos(args.img_root))
    return args.img_root, sorted(photos_below(args.img_root))


if __name__ == "__main__":
    run_script(main, "interrupted; the same command goes on")
