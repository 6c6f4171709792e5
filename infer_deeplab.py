"""Segment photos with a trained DeepLab-v2: label PNGs, without and with a dense CRF.

    python infer_deeplab.py --voc12_root VOC2012 --infer_list voc12/val.txt --weights checkpoints/DeepLabV2/DeepLabV2.pth \\
        --out_pred PRED --out_crf_pred CRF
Interrupted, the same command continues. On several GPUs: torchrun --nproc_per_node 4 infer_deeplab.py ...
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from network import add_flags, make_net, options
from network.weights import load_weights
from pseudo_label import inference
from pseudo_label.manifest import weights_digest
from pseudo_label.segmentation import SegmentationJob, probabilities
from tool import cli
from tool.cli import BadPhoto, UserError, run_script
from voc12.data import WholePhotos
from voc12.inputs import photos
from voc12.lists import ROOT, check_root, photo_folder, read_classes, read_image_list


def get_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(__doc__)
    add = parser.add_argument
    add("--weights", required=True, metavar="FILE", help="trained DeepLab-v2 (.pth)")
    add_flags(parser, "network.deeplab_v2")
    add("--infer_list", default="voc12/val.txt", metavar="FILE", help="photos to segment")
    add("--voc12_root", required=True, metavar="DIR", help=ROOT)
    add("--out_pred", type=Path, metavar="DIR", help="write label PNGs")
    add("--out_crf_pred", type=Path, metavar="DIR", help="write label PNGs of the CRF")
    add("--out_prob", type=Path, metavar="DIR", help="write probabilities, <id>.npy: float16 (labels, H, W)")
    scales = "scales whose maximum is taken together with the whole size; otherwise the network's own, 0.5 and 0.75"
    add("--scales", type=cli.number(float, 0.1, 4), nargs="+", metavar="S", help=scales)
    add("--flip", action="store_true", help="the mean of each photo's and its mirror image's probabilities")
    inference.add_flags(parser, workers="compute CRFs and write files")
    return parser


def main() -> None:
    args = get_parser().parse_args()
    check_root(args.voc12_root)
    classes = read_classes(args.voc12_root)
    given = options(args) | classes.options(num_labels=len(classes.labels))
    net = make_net(args.network, ("input", "scales"), init_weights=False, **given)
    if args.scales:
        net.scales = tuple(scale for scale in args.scales if scale != 1)
    job = SegmentationJob(args.out_pred, args.out_crf_pred, args.out_prob, net.scales, args.flip)
    inference.check_outputs(job)

    def load_network() -> tuple[nn.Module, str]:
        report = load_weights(net, args.weights)
        if report.missing:
            raise UserError(f"{report}: no trained DeepLab-v2, which is what segments photos")
        return net, str(report)

    def compute(net: Any, image_id: str, photo: Tensor, inputs: None, device: torch.device) -> tuple:
        if min(photo.shape[:2]) * min((1, *net.scales)) < 1:
            raise BadPhoto(f"photo {image_id} is {photo.shape[1]}x{photo.shape[0]} pixels, too small for the scales")
        return job.results(image_id, probabilities(net, photo, device, args.flip))

    task = inference.Task(
        job=job,
        ids=list(dict.fromkeys(read_image_list(args.infer_list))),
        inputs=[photos(photo_folder(args.voc12_root))],
        weights_sha256=weights_digest(args.weights),
        load_network=load_network,
        photos=partial(WholePhotos, folder=photo_folder(args.voc12_root)),
        compute=compute,
    )
    inference.run(args, task)


if __name__ == "__main__":
    run_script(main, "interrupted; the same command goes on")
