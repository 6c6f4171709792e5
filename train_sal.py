"""Train PoolNet, which finds what is salient in a photo, on photos with masks.

Pairs, as of DUTS-TR:     python train_sal.py --root DUTS-TR --train_list DUTS-TR/train_pair.lst --weights resnet50_caffe.pth \\
                              --skip_errors (three of its masks have another size than their photo)
A devkit's label maps:    python train_sal.py --voc12_root VOC2012 --mask_dir VOC2012/SegmentationClassAug --weights resnet50_caffe.pth
Several processes:        torchrun --nproc_per_node 2 train_sal.py ... (the batch size counts photos over all of them)
Interrupted, the same command with --resume goes on.

Masks of pairs are 8-bit grey, 0..255, and may be soft. Of label maps every class is foreground, and void (255) does not count.
A PoolNet with its edge branch is trained on saliency alone: what detects the edges stays as it is in --weights.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from network.caffe_weights import make_poolnet
from network.frozen_norm import FrozenBatchNorm2d
from network.poolnet import is_joint
from network.saliency_loss import saliency_loss
from pseudo_label.saliency_maps import saliency_pictures
from tool import cli, distributed, training
from tool.checkpoint import digest
from tool.cli import UserError, run_script
from tool.optim import make_adam, set_learning_rate
from tool.precision import training_form
from voc12.inputs import sound_ids
from voc12.lists import check_root, read_image_list, read_mask_pairs
from voc12.saliency import MaskedPhotos, PairedPhotos

# Flags that a resumed run has to share with the interrupted one, besides those that all training scripts have.
MUST_MATCH = ("max_epoches", "crop_size", "iter_size")
DECAYED = 0.1  # factor on the learning rate in the last third of a run


def get_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(__doc__)
    add, positive, number = parser.add_argument, cli.count(1), cli.number(float, 0)
    add("--root", metavar="DIR", help="folder that the pairs of --train_list are relative to")
    add("--voc12_root", metavar="DIR", help="in place of --root: VOC2012 folder of the devkit: JPEGImages")
    masks = "with --voc12_root: label PNGs, <id>.png with values 0..20, or 255 for unknown"
    add("--mask_dir", metavar="DIR", help=masks)
    pairs = "photos to train on: lines `image mask`; with --voc12_root ids, by default voc12/train_aug.txt"
    add("--train_list", metavar="FILE", help=pairs)
    network = "network.poolnet"
    add("--network", type=cli.module_name, default=network, metavar="MODULE", help="module that holds the networks")
    weights = (
        "initial weights: resnet50_caffe.pth, or a trained PoolNet, with its edge branch or without; random without it"
    )
    add("--weights", metavar="FILE", help=weights)
    decay = "times through the list; after two thirds of it a new Adam has a tenth of the learning rate"
    add("--max_epoches", type=positive, default=24, help=decay)
    add("--batch_size", type=positive, default=10, help="photos per step, over all GPUs and processes")
    crop = (
        "side of square crops, which are computed together: a GPU is used better than by whole photos, each computed by itself, as "
        "published. But a crop may lack what makes its photo's objects stand out, and the maps are made of whole photos"
    )
    add("--crop_size", type=positive, metavar="N", help=crop)
    parts = "with --crop_size: parts that a step is computed in, one after the other, to save memory"
    add("--iter_size", type=positive, default=1, help=parts)
    add("--lr", type=number, default=5e-5, help="learning rate")
    add("--skip_errors", action="store_true", help="leave out photos whose files are missing or bad, and say which")
    training.add_flags(parser, session_name="PoolNet", pictures="the saliency maps")
    return parser


def main() -> None:
    args = get_parser().parse_args()
    if (args.root is None) == (args.voc12_root is None):
        raise UserError("give the photos: either --root with a --train_list of pairs, or --voc12_root with --mask_dir")
    if args.voc12_root is not None:
        check_root(args.voc12_root)
    if args.crop_size is None:
        cli.warn_unused_flags(
            args, get_parser(), ["iter_size"], "without --crop_size: whole photos are computed one by one"
        )
    elif args.batch_size % args.iter_size:
        raise UserError(f"--batch_size {args.batch_size} is no multiple of --iter_size {args.iter_size}")
    training.run(args, make_task, "lower --crop_size or raise --iter_size, take smaller photos, or --amp bf16")


def make_task(args: argparse.Namespace, device: torch.device) -> training.Task:
    """Make the network and check the data. UserError: what the flags name is not there or does not fit."""
    parts = parts_of_a_step(args)
    needs = ("input", "smallest_side", "get_parameter_groups")
    net, load_weights = make_poolnet(args.network, args.weights, needs)
    if not (args.weights or args.resume) and any(isinstance(part, FrozenBatchNorm2d) for part in net.modules()):
        print("note: random weights with batch norms that do not learn may diverge: give --weights")
    if is_joint(net.state_dict()):
        net.freeze_edges()
    net = training_form(net, device, args.amp, args.tf32).train()
    torch.backends.cudnn.benchmark &= args.crop_size is not None  # it tries out each new size
    data, listed = find_photos(args, net)
    data.ids, skipped = sound_ids(data.ids, data.check_masked, args.train_list, args.skip_errors)
    optimizer = make_adam(net.get_parameter_groups(), args.lr, args.wt_dec)
    max_step = len(data) * args.max_epoches // args.batch_size
    decay_step = -(-2 * len(data) * args.max_epoches // (3 * args.batch_size))
    if max_step == 0:
        raise UserError(f"--batch_size {args.batch_size} is more than there are photos in all epochs")

    def loss(model: nn.Module, batch: list[Tensor]) -> Tensor:
        """The sum over pixels, over the photos of a step."""
        pictures, masks = batch  # (N, 3, H, W), (N, 1, H, W)
        return saliency_loss(model(pictures).float(), masks, args.batch_size)

    def prepare(step: int) -> float:
        if step == decay_step:
            optimizer.state.clear()  # as published, a new Adam, which knows no moments
        return set_learning_rate(optimizer, 1.0 if step < decay_step else DECAYED)

    settings = {name: getattr(args, name) for name in MUST_MATCH}
    return training.Task(
        net=net,
        optimizer=optimizer,
        data=data,
        max_step=max_step,
        settings=settings | {"train_list_crc32": digest(listed), "skipped_crc32": digest(skipped)},
        loss=loss,
        set_learning_rate=prepare,
        load_weights=load_weights,
        pictures=partial(saliency_pictures, data=data),
        parts=parts,
    )


def find_photos(args: argparse.Namespace, net: Any) -> tuple[MaskedPhotos, list[str]]:
    """The photos that the flags name, not looked at yet, and what their list says. UserError: the flags do not fit together."""
    if args.crop_size is not None and args.crop_size < net.smallest_side:
        raise UserError(f"--crop_size {args.crop_size}: {args.network} needs {net.smallest_side} or more")
    how = {"crop_size": args.crop_size, "seed": args.seed, "statistics": net.input}
    data: MaskedPhotos
    if args.voc12_root is not None:
        if args.mask_dir is None or not Path(args.mask_dir).is_dir():
            raise UserError(f"--mask_dir {args.mask_dir}: no such folder; with --voc12_root it holds the masks")
        args.train_list = args.train_list or "voc12/train_aug.txt"
        listed = list(dict.fromkeys(read_image_list(args.train_list)))
        data = MaskedPhotos(listed, args.voc12_root, args.mask_dir, **how)
    else:
        if args.train_list is None:
            raise UserError(
                "--root goes with --train_list, whose lines are `image mask`, such as DUTS-TR's train_pair.lst"
            )
        cli.warn_unused_flags(args, get_parser(), ["mask_dir"], "without --voc12_root")
        pairs = read_mask_pairs(args.train_list)
        listed = [f"{photo} {mask}" for photo, mask in pairs.items()]
        data = PairedPhotos(pairs, Path(args.root), **how)
    data.least = net.smallest_side
    return data, listed


def parts_of_a_step(args: argparse.Namespace) -> int:
    """Crops are computed in as many parts as asked for, whole photos, which differ in size, one by one in each process."""
    if args.crop_size is not None:
        return args.iter_size
    world = distributed.world_size()
    if args.batch_size % world:
        raise UserError(
            f"--batch_size {args.batch_size} is no multiple of {world} processes, which take whole photos one by one"
        )
    return args.batch_size // world


if __name__ == "__main__":
    run_script(main)
