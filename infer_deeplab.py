"""Segment photos with a trained DeepLab-v2: label PNGs, without and with a dense CRF.

    python infer_deeplab.py --voc12_root VOC2012 --infer_list voc12/val.txt --weights checkpoints/DeepLabV2/DeepLabV2.pth \\
        --out_pred PRED --out_crf_pred CRF
Rerun the same command to resume. On several GPUs: torchrun --nproc_per_node 4 infer_deeplab.py ...
"""

import argparse
from pathlib import Path
from tool.script import run_script

import numpy as np
import torch

from network import add_flags, make_net, options
from pseudo_label import loop
from pseudo_label.crf import DEEPLAB, dense_crf
from pseudo_label.loop import Photo
from pseudo_label.predict import probabilities
from tool import cli
from tool.cli import BadPhoto
from tool.files import atomic_write
from voc12.dataset import ROOT, Dataset, read_image_list
from voc12.images import save_label


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
    scale = cli.number(float, 0.1, 4)
    add("--scales", type=scale, nargs="+", metavar="S", help="scales besides 1 (default: the network's, 0.5 and 0.75)")
    add("--flip", action="store_true", help="average the probabilities of each photo and its mirror image")
    loop.add_flags(parser, workers="compute CRFs and write files")
    return parser


def main() -> None:
    args = get_parser().parse_args()
    data = Dataset(args.voc12_root)
    with loop.start(args) as run:
        ids = run.photos_left(list(dict.fromkeys(read_image_list(args.infer_list))), [data.photos])
        given = options(args) | data.classes.options(num_labels=len(data.classes.labels))
        net = make_net(args.network, ("input", "scales"), init_weights=False, **given)
        if args.scales:
            net.scales = tuple(scale for scale in args.scales if scale != 1)
        settings = {"scales": list(net.scales), "flip": args.flip}
        net = run.prepare(net, dict.fromkeys(run.folders, settings))

        for photo, _ in run.read_ahead(ids, data.photos):
            with run.attempt(photo):
                height, width = photo.pixels.shape[:2]
                if min(height, width) * min((1, *net.scales)) < 1:
                    raise BadPhoto(f"{photo.id}: {width}x{height} pixels is too small for --scales")
                probability = probabilities(net, torch.from_numpy(photo.pixels), run.device, args.flip)
                highest = probability.max(0)  # four times as fast as argmax; propagates NaN
                if not highest.values.isfinite().all():
                    raise BadPhoto(f"{photo.id}: probabilities are not finite. Use --amp off or check the weights.")
                label = highest.indices.to(torch.uint8).cpu().numpy()
                scores = probability.cpu().numpy() if args.out_crf_pred or args.out_prob else None
                run.write_behind(write_labels, photo, label, scores, args)
        run.finish()


def write_labels(photo: Photo, label: np.ndarray, probability: np.ndarray | None, args: argparse.Namespace) -> None:
    """Write the files of one photo: network's labels uint8 (H, W), probabilities (labels, H, W), labels after the CRF."""
    if args.out_pred:
        save_label(args.out_pred / f"{photo.id}.png", label)
    if args.out_prob and probability is not None:
        with atomic_write(args.out_prob / f"{photo.id}.npy") as file:
            np.save(file, probability.astype(np.float16))
    if args.out_crf_pred and probability is not None:
        refined = dense_crf(photo.pixels, probability, DEEPLAB).argmax(0).astype(np.uint8)
        save_label(args.out_crf_pred / f"{photo.id}.png", refined)


if __name__ == "__main__":
    run_script(main, "interrupted; rerun to resume")
