"""Saliency maps by U^2-Net, PoolNet or another network: grey PNGs for infer_cls.py --sal_path.

Photos of a devkit:   python infer_sal.py --voc12_root VOC2012 --infer_list voc12/train_aug.txt --weights u2netp --out_sal SALIENCY
Photos of a folder:   python infer_sal.py --img_root PHOTOS --weights final.pth --out_sal SALIENCY
Rerun the same command to resume. On several GPUs: torchrun --nproc_per_node 4 infer_sal.py ...
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tool.script import run_script

import numpy as np
from PIL import Image

from pseudo_label import loop
from pseudo_label.loop import Photo, Run
from pseudo_label.onnx_saliency import PACKAGES, OnnxSaliency, find_weights, stretch
from tool import cli
from tool.cli import BadPhoto, UserError
from tool.processes import is_main_process, on_main
from voc12.dataset import ROOT, Dataset, Files, photos, read_image_list
from voc12.images import save_label


def get_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(__doc__)
    add, network = parser.add_argument, "network.poolnet"
    add("--weights", required=True, metavar="FILE", help="u2netp or u2net (by pip), ONNX network, or PoolNet (.pth)")
    add("--input_size", type=cli.count(1), metavar="N", help="side of the picture that an ONNX network takes")
    for name in ("mean", "std"):
        add(f"--{name}", type=cli.number(float), nargs=3, help=f"{name} of RGB in 0..1, for other ONNX networks")
    add("--network", default=network, metavar="MODULE", help="module that holds PoolNet")
    add("--voc12_root", type=Path, metavar="DIR", help=ROOT)
    add("--infer_list", default="voc12/train_aug.txt", metavar="FILE", help="with --voc12_root: photos to use")
    add("--img_root", type=Path, metavar="DIR", help="instead of --voc12_root: every photo in this folder and below")
    add("--out_sal", type=Path, metavar="DIR", help="write saliency maps, <id>.png: 8-bit grey, as large as the photo")
    loop.add_flags(parser, workers="write files")
    return parser


def main() -> None:
    args = get_parser().parse_args()
    is_onnx = args.weights in PACKAGES or args.weights.endswith(".onnx")
    if not is_onnx:
        import pseudo_label.predict  # noqa: F401 (with PyTorch, before the processes that use it are forked)
    with loop.start(args, needs_torch=not is_onnx) as run:
        files, ids = find_photos(args)
        if is_main_process():
            unused = ["network", "device", "amp", "tf32"] if is_onnx else ["input_size", "mean", "std"]
            unused += ["infer_list"] if args.img_root else []
            cli.warn_unused_flags(args, get_parser(), unused, "with these photos and weights")
        (infer_onnx if is_onnx else infer_poolnet)(run, run.photos_left(ids, [files]), files)
        run.finish()


def find_photos(args: argparse.Namespace) -> tuple[Files, list[str]]:
    """Return where the photos are, and their ids. UserError: not exactly one way to name them, or no photo."""
    if (args.voc12_root is None) == (args.img_root is None):
        raise UserError("give the photos: either --voc12_root with --infer_list, or --img_root")
    if args.voc12_root is not None:
        return Dataset(args.voc12_root).photos, list(dict.fromkeys(read_image_list(args.infer_list)))
    files = photos(args.img_root)
    files.check()
    files.warn_of_others()
    return files, files.ids()


def infer_poolnet(run: Run, ids: list[str], files: Files) -> None:
    """Write the maps of PoolNet."""
    import torch

    from network.weights import make_poolnet
    from pseudo_label.predict import grey_map, saliency_logits

    args = run.args
    net = make_poolnet(args.network, args.weights, ("input", "smallest_side"), init_weights=False)
    net = run.prepare(net, {"out_sal": {}})
    for photo, _ in run.read_ahead(ids, files):
        with run.attempt(photo):
            logits = saliency_logits(net, torch.from_numpy(photo.pixels), run.device).cpu().numpy()
            run.write_behind(write_map, photo, logits, grey_map, args.out_sal)


def infer_onnx(run: Run, ids: list[str], files: Files) -> None:
    """Write the maps of an ONNX network."""
    args = run.args
    on_main(partial(find_weights, args.weights))  # one download for all ranks that share its cache
    args.weights = find_weights(args.weights)
    scaling = {"mean": args.mean, "std": args.std, "highest": 255} if args.mean or args.std else None
    net = OnnxSaliency(args.weights, args.input_size, scaling)
    settings = {"network": "ONNX", "amp": "off", "tf32": False, "input_size": net.side, **net.scaling}
    run.claim(f"{args.weights}: {settings}", {"out_sal": settings})
    for photo, picture in run.read_ahead(ids, files, net.picture):
        with run.attempt(photo):
            run.write_behind(write_map, photo, net(picture), stretch, args.out_sal)


def write_map(photo: Photo, values: np.ndarray, to_grey: Callable, folder: Path) -> None:
    """Write <id>.png: the network's output, float (h, w), made grey by `to_grey`, uint8 (h, w), at the photo's size."""
    if not np.isfinite(values).all():
        raise BadPhoto(f"{photo.id}: saliency is not finite. Use --amp off or check the weights.")
    resized = Image.fromarray(to_grey(values)).resize(photo.pixels.shape[1::-1], Image.Resampling.LANCZOS)
    save_label(folder / f"{photo.id}.png", np.array(resized), grey=True)


if __name__ == "__main__":
    run_script(main, "interrupted; rerun to resume")
