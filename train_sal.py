"""Train PoolNet, which finds salient objects, on photos with masks.

Pairs, as in DUTS-TR:    python train_sal.py --root DUTS-TR --train_list DUTS-TR/train_pair.lst --weights resnet50_caffe.pth
Label maps:              python train_sal.py --voc12_root VOC2012 --mask_dir VOC2012/SegmentationClassAug --weights resnet50_caffe.pth
Several processes:       torchrun --nproc_per_node 2 train_sal.py ... (the batch size counts photos over all of them)

Masks of pairs are 8-bit grey, 0..255, and may be soft. In label maps every class is foreground, and void (255) does not count.
A PoolNet with its edge branch is trained on saliency alone: the layers that detect edges keep their --weights.
"""

import argparse
from functools import partial
from pathlib import Path
from tool.script import run_script
from typing import Any

import torch
from torch import Tensor, nn

from network.losses import saliency_loss
from network.poolnet import is_joint
from network.weights import load_weights, make_poolnet
from pseudo_label.predict import saliency_pictures
from tool import cli, training
from tool.checkpoint import digest
from tool.cli import UserError
from tool.optim import set_learning_rate
from tool.precision import training_form
from voc12.data import MaskedPhotos, PairedPhotos
from voc12.dataset import Dataset, label_maps, read_image_list
from voc12.labels import ACCEPT
from voc12.lists import read_mask_pairs


def get_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(__doc__)
    add, positive, number = parser.add_argument, cli.count(1), cli.number(float, 0)
    add("--root", metavar="DIR", help="folder that the paths in --train_list are relative to")
    add("--voc12_root", metavar="DIR", help="instead of --root: VOC2012 folder of the devkit, which holds JPEGImages")
    add("--mask_dir", metavar="DIR", help="with --voc12_root: label PNGs, <id>.png: 0 background, 255 unknown")
    add("--train_list", metavar="FILE", help="lines `image mask`; with --voc12_root ids, default voc12/train_aug.txt")
    add("--network", default="network.poolnet", metavar="MODULE", help="module of the networks")
    add("--weights", metavar="FILE", help="initial weights: resnet50_caffe.pth, or a PoolNet; default: random")
    add("--max_epoches", type=positive, default=24, help="passes over the list; in the last third at a tenth of --lr")
    add("--batch_size", type=positive, default=10, help="photos per step, over all GPUs and processes")
    add("--crop_size", type=positive, metavar="N", help="side of square crops; default: whole photos, one by one")
    add("--iter_size", type=positive, default=1, help="with --crop_size: micro-batches per step")
    add("--lr", type=number, default=5e-5, help="learning rate")
    add("--skip_errors", action="store_true", help="skip photos whose files are missing or bad, and list them")
    add("--accept_labels", action="store_true", help=ACCEPT)
    training.add_flags(parser, session_name="PoolNet", pictures="the saliency maps")
    return parser


def main() -> None:
    args = get_parser().parse_args()
    given = (args.voc12_root, args.mask_dir) if args.root is None else (args.root, args.train_list)
    if None in given or (args.root and (args.voc12_root or args.mask_dir)):
        raise UserError("--root: give either --root and --train_list, or --voc12_root and --mask_dir.")
    training.run(args, make_task, "lower --crop_size or raise --iter_size, take smaller photos, or --amp bf16")


def make_task(args: argparse.Namespace, device: torch.device) -> training.Task:
    """Return PoolNet, its data and loss. UserError: missing files, or flags that do not fit."""
    net = make_poolnet(args.network, args.weights, ("input", "smallest_side", "get_parameter_groups"))
    if args.crop_size is not None and args.crop_size < net.smallest_side:
        raise UserError(f"--crop_size {args.crop_size}: {args.network} needs {net.smallest_side} or more")
    if is_joint(net.state_dict()):
        net.freeze_edges()
    net = training_form(net, device, args.amp, args.tf32).train()
    torch.backends.cudnn.benchmark &= args.crop_size is not None  # it would tune for each photo size
    data, listed = find_photos(args, net)
    skipped = data.drop_unusable(args.skip_errors, args.accept_labels)
    groups = [{"params": parameters, "initial_lr": args.lr} for parameters in net.get_parameter_groups()]
    optimizer = torch.optim.Adam(groups, args.lr, weight_decay=args.wt_dec)
    max_step = len(data) * args.max_epoches // args.batch_size
    decay_step = -(-2 * len(data) * args.max_epoches // (3 * args.batch_size))  # two thirds, rounded up

    def loss(model: nn.Module, batch: list[Tensor]) -> Tensor:
        """Return the cross-entropy summed over pixels, divided by the photos of a step."""
        pictures, masks = batch  # (N, 3, H, W), (N, 1, H, W)
        return saliency_loss(model(pictures).float(), masks, args.batch_size)

    def prepare_step(step: int) -> float:
        if step == decay_step:
            optimizer.state.clear()  # the published code makes a new Adam
        return set_learning_rate(optimizer, 1.0 if step < decay_step else 0.1)

    return training.Task(
        net=net,
        optimizer=optimizer,
        data=data,
        max_step=max_step,
        settings={"train_list_crc32": digest(listed), "skipped_crc32": digest(skipped)},
        loss=loss,
        set_learning_rate=prepare_step,
        load_weights=load_weights,
        pictures=partial(saliency_pictures, data=data),
        accumulation_steps=args.iter_size if args.crop_size else None,  # whole photos differ in size
    )


def find_photos(args: argparse.Namespace, net: Any) -> tuple[MaskedPhotos | PairedPhotos, list[str]]:
    """Return the photos of the flags, unchecked, and the entries of their list."""
    data: MaskedPhotos | PairedPhotos
    if args.root is not None:
        pairs = read_mask_pairs(args.train_list)
        data = PairedPhotos.listed(pairs, Path(args.root), args.crop_size, args.seed, net.input)
        listed = [f"{photo} {mask}" for photo, mask in pairs.items()]
    else:
        listed = list(dict.fromkeys(read_image_list(args.train_list or "voc12/train_aug.txt")))
        dataset, masks = Dataset(args.voc12_root), label_maps(args.mask_dir)
        data = MaskedPhotos(listed, dataset.photos, masks, args.crop_size, args.seed, net.input, dataset)
    data.smallest_side = net.smallest_side
    return data, listed


if __name__ == "__main__":
    run_script(main)
