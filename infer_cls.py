"""Turn a trained network's class masks into pseudo labels.

Pseudo labels with CRF and saliency:
    python infer_cls.py --voc12_root VOC2012 --weights EDAM.pth --infer_list voc12/train_aug.txt \\
        --sal_path SALIENCY --out_crf_pred OUT --theta 0.2 --alpha 0.000001 --beta 0.99999
One photo, to look at:
    python infer_cls.py --image photo.jpg --classes cat,sofa --weights EDAM.pth --out OUT
Rerun the same command to resume. On several GPUs: torchrun --nproc_per_node 4 infer_cls.py ...
"""

import argparse
from functools import partial
from pathlib import Path
from tool.script import run_script
from typing import Any

import numpy as np

from network import add_flags, make_net, options
from network.weights import read_checkpoint
from pseudo_label import loop
from pseudo_label.crf import dense_crf, with_background
from pseudo_label.fusion import check_fusion, pseudo_label, restore_classes
from pseudo_label.loop import Photo
from pseudo_label.manifest import digest
from pseudo_label.predict import SCALES, class_maps, views
from pseudo_label.visualise import contact_sheet, overlay
from tool import VOID, cli
from tool.cli import BadPhoto, UserError
from tool.files import save_npy_dict
from tool.processes import is_main_process, on_main
from voc12.classes import PALETTE, VOC, Classes, make_classes
from voc12.dataset import ROOT, Dataset, read_image_list, saliency_maps
from voc12.images import load_grey, load_label, load_photo, save_label, save_rgb, values_in
from voc12.labels import IGNORE_FOREIGN, class_number

FUSION = ("sal_path", "theta", "alpha", "beta", "keep_share")


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
    add("--out_crf", type=Path, metavar="DIR", help="write CRF probabilities, <id>.npy: label -> (H, W) float32")
    add("--out_crf_pred", type=Path, metavar="DIR", help="write label PNGs of the CRF")
    add("--out_plain_pred", type=Path, metavar="DIR", help="with --sal_path: write label PNGs of the CRF without it")
    add("--sal_path", type=Path, metavar="DIR", help="grey saliency maps <id>.png to fuse into the label PNGs")
    add("--image", type=Path, metavar="FILE", help="label this photo instead of a dataset; needs --classes and --out")
    add("--classes", metavar="A,B", help="with --image: the classes that the photo shows")
    add("--out", type=Path, metavar="DIR", help="with --image: write class maps, label PNG, labelled photo")
    add("--theta", type=number, default=0.5, help="background score; with --sal_path: saliency limit / 100")
    add("--alpha", type=number, default=0.0, help="with --sal_path: scores below it never win")
    add("--beta", type=number, default=1.0, help="with --sal_path: scores above it always win")
    share = "with --sal_path: among several classes, restore one that keeps less than this share of its CRF pixels"
    add("--keep_share", type=cli.number(float, 0, 1), default=0.0, help=share)
    loop.add_flags(parser, workers="compute CRFs and write files")
    return parser


def main() -> None:
    args = get_parser().parse_args()
    check_flags(args)
    if args.image:
        label_image(args)
        return
    data = Dataset(args.voc12_root, args.ignore_foreign)
    saliency = saliency_maps(args.sal_path) if args.sal_path and (args.out_cam_pred or args.out_crf_pred) else None
    with loop.start(args) as run:
        labels, problems = on_main(partial(read_labels, data, args.infer_list))
        needed = [data.photos, saliency] if saliency else [data.photos]
        ids = run.photos_left([*labels, *dict(problems)], needed, problems)
        sal_sha256 = digest(saliency) if saliency else None
        settings = {output: settings_of(args, output, sal_sha256) for output in run.folders}
        net = run.prepare(make_edam(args, data.classes), settings)
        warn_unused(args, run.folders)

        for photo, photo_views in run.read_ahead(ids, data.photos, views):
            with run.attempt(photo):
                classes = np.flatnonzero(labels[photo.id]).tolist()
                maps = class_maps(net, photo_views, classes, photo.pixels.shape[:2], run.device)
                saliency_path = saliency.find(photo.id) if saliency else None
                run.write_behind(write_labels, photo, classes, maps.cpu().numpy(), saliency_path, args)
        run.finish()


def read_labels(data: Dataset, list_path: str) -> tuple[dict[str, np.ndarray], list[tuple[str, str]]]:
    """Return the label of each photo in a list, multi-hot float32 (C,), and (id, message) of those without one."""
    problems: list[tuple[str, str]] = []
    return data.image_labels(read_image_list(list_path), list_path, problems), problems


def write_labels(
    photo: Photo, classes: list[int], maps: np.ndarray, saliency_path: Path | None, args: argparse.Namespace
) -> str | None:
    """Write the files of one photo: class maps -> CRF -> fusion -> files. Return a remark if nothing was labelled.

    `maps` are the class maps, float32 (n, H, W) in 0..1, of the n `classes`, from 0, that the photo shows; n may be 0.
    """
    if not np.isfinite(maps).all():
        raise BadPhoto(f"{photo.id}: class maps are not finite. Compute in float32 (--amp off) or check the weights.")
    numbers = np.array(classes, np.int64)
    fusion: dict[str, Any] = {"theta": args.theta, "alpha": args.alpha, "beta": args.beta}
    if saliency_path:
        fusion["saliency"] = load_saliency(saliency_path, maps.shape[1:], {number + 1 for number in classes})
    if args.out_cam:
        save_npy_dict(args.out_cam / f"{photo.id}.npy", dict(zip(classes, maps, strict=True)))
    labels: dict[Path, np.ndarray] = {}  # by folder
    if args.out_cam_pred:
        labels[args.out_cam_pred] = pseudo_label(maps, numbers, **fusion)
    if args.out_crf or args.out_crf_pred or args.out_plain_pred:
        probability = dense_crf(photo.pixels, with_background(maps))  # (n + 1, H, W), background first
        if args.out_crf:
            keys = [0, *(number + 1 for number in classes)]
            save_npy_dict(args.out_crf / f"{photo.id}.npy", dict(zip(keys, probability, strict=True)))
        plain = fused = pseudo_label(probability[1:], numbers, background=probability[0])
        if saliency_path:
            fused = restore_classes(pseudo_label(probability[1:], numbers, **fusion), plain, args.keep_share)
        labels |= {args.out_plain_pred: plain, args.out_crf_pred: fused}
    labels = {folder: label for folder, label in labels.items() if folder}
    for folder, label in labels.items():
        save_label(folder / f"{photo.id}.png", label)
    all_background = bool(classes) and not all(label.any() for label in labels.values())
    return "with image labels but an all-background pseudo label" if all_background else None


def load_saliency(path: Path, size: tuple[int, ...], labels: set[int]) -> np.ndarray:
    """Return a saliency map, uint8 `size` = (H, W). BadPhoto: missing, not grey, of another size, or a map of `labels`."""
    try:
        saliency = load_grey(path)
    except UserError as error:
        raise BadPhoto(str(error)) from error
    if saliency.shape != size:
        raise BadPhoto(f"saliency map {path}: is {saliency.shape} pixels (height, width), its photo {size}. Resize it.")
    held = set(values_in(saliency)) - {0, VOID}
    if held and held <= labels - {1}:  # a dark saliency map may also hold 1
        raise BadPhoto(f"{path}: is a label map of the photo, not a saliency map. Check --sal_path.")
    return saliency


def make_edam(args: argparse.Namespace, classes: Classes) -> Any:
    """Return the network of --network for these classes."""
    given = options(args) | classes.options(num_classes=len(classes))
    return make_net(args.network, ("forward_cam", "input"), init_weights=False, **given)


def check_flags(args: argparse.Namespace) -> None:
    """Raise UserError for flags that do not fit together."""
    if args.image and (args.classes is None or args.out is None):
        raise UserError("--image: needs --classes A,B, which the photo shows, and --out DIR")
    if args.image is None and args.voc12_root is None:
        raise UserError("no photos. Give --voc12_root and --infer_list, or --image.")
    if args.out_plain_pred and not args.sal_path:
        raise UserError("--out_plain_pred: needs --sal_path. Without saliency, use --out_crf_pred.")
    if args.sal_path or args.out_cam_pred:
        check_fusion(args.theta, args.alpha, args.beta, saliency=args.sal_path is not None)


def settings_of(args: argparse.Namespace, output: str, sal_sha256: str | None) -> dict[str, Any]:
    """Return the settings that the files of an output depend on besides the network, for its manifest."""
    settings: dict[str, Any] = {"scales": list(SCALES)}
    if output == "out_plain_pred":  # the same files as out_crf_pred of a run without saliency
        settings |= {"output": "out_crf_pred", "sal_path": None}
    elif output.endswith("_pred") and args.sal_path:
        settings |= {name: getattr(args, name) for name in FUSION if name != "keep_share" or output == "out_crf_pred"}
        settings |= {"sal_path": str(args.sal_path.resolve()), "sal_sha256": sal_sha256}
    elif output.endswith("_pred"):
        settings |= {"sal_path": None} | ({"theta": args.theta} if output == "out_cam_pred" else {})
    return settings


def warn_unused(args: argparse.Namespace, outputs: dict[str, Path]) -> None:
    """Print which flags were given without effect on the outputs."""
    unused = ["classes", "out"]
    if not (args.sal_path and (args.out_cam_pred or args.out_crf_pred)):
        unused += [name for name in FUSION if name != "theta" or not args.out_cam_pred]
    elif not args.out_crf_pred:
        unused += ["keep_share"]
    if is_main_process():
        cli.warn_unused_flags(args, get_parser(), unused, f"on --{', --'.join(outputs)} with these flags")


def label_image(args: argparse.Namespace) -> None:
    """Write the files of --image. The weights name the classes, so it needs no dataset."""
    outputs = [name for name in vars(args) if name.startswith("out_")]
    unused = ["voc12_root", "infer_list", "skip_errors", *([] if args.sal_path else FUSION), *outputs]
    cli.warn_unused_flags(args, get_parser(), unused, "with --image")
    image, name = load_photo(args.image), args.image.stem
    photo = Photo(name, np.array(image))
    names = read_checkpoint(args.weights)[1]
    classes = make_classes(names, args.weights) if names else VOC
    numbers = sorted({class_number(one, classes, "--classes") for one in args.classes.split(",")})
    saliency_path = saliency_maps(args.sal_path).find(name) if args.sal_path else None
    if saliency_path:
        labels = {number + 1 for number in numbers}
        load_saliency(saliency_path, photo.pixels.shape[:2], labels)  # a bad one fails before the work
    vars(args).update(dict.fromkeys(outputs), out_cam=args.out, crf_workers=0, skip_errors=False)
    with loop.start(args) as run:
        net = run.prepare(make_edam(args, classes), {"out_cam": {"output": "one photo"}})
        args.out_crf_pred = args.out
        with run.attempt(photo):
            maps = class_maps(net, views(image), numbers, photo.pixels.shape[:2], run.device)
            run.write_behind(write_labels, photo, numbers, maps.cpu().numpy(), saliency_path, args)
        run.finish()
    label = load_label(args.out / f"{name}.png")
    key = {classes.labels[value]: PALETTE[value] for value in np.unique(label) if value}
    sheet = contact_sheet([[overlay(photo.pixels, label, PALETTE)]], [""], [name], key)
    save_rgb(args.out / f"{name}_overlay.png", sheet)


if __name__ == "__main__":
    run_script(main, "interrupted; rerun to resume")
