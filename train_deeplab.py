"""Train DeepLab-v2 on label maps: pseudo labels as infer_cls.py writes them, or ground truth.

    python train_deeplab.py --voc12_root VOC2012 --label_dir OUT_CRF_PRED --weights deeplabv1_resnet101-coco.pth
Several processes or machines:     torchrun --nproc_per_node 4 train_deeplab.py ... (the batch size counts photos over all of them)
Interrupted, the same command with --resume goes on.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from network import add_flags, make_net, options
from network.frozen_norm import has_frozen_norms, unfreeze_batch_norms
from network.segmentation_loss import multi_scale_loss
from network.weights import load_weights
from pseudo_label.manifest import check_classes
from pseudo_label.segmentation import label_pictures
from tool import cli, training
from tool.checkpoint import digest
from tool.cli import UserError, nearest_path, run_script
from tool.optim import freeze, make_sgd, set_learning_rate, stepwise_lr_factor
from tool.precision import training_form
from voc12.classes import PALETTE
from voc12.data import LabelledPhotos
from voc12.inputs import check_folder, label_maps, sound_ids
from voc12.lists import ROOT, check_root, read_classes, read_image_list

# Flags that a resumed run has to share with the interrupted one, besides those that all training scripts have.
MUST_MATCH = ("max_iters", "iter_size", "crop_size", "balanced_loss", "freeze_bn", "freeze_backbone")


def get_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(__doc__)
    add, positive, number = parser.add_argument, cli.count(1), cli.number(float, 0)
    add("--voc12_root", required=True, metavar="DIR", help=ROOT)
    add(
        "--label_dir",
        required=True,
        metavar="DIR",
        help="label PNGs, <id>.png: 0 background, class + 1, or 255 for unknown",
    )
    add("--train_list", default="voc12/train_aug.txt", metavar="FILE", help="photos to train on")
    add_flags(parser, "network.deeplab_v2")
    weights = "initial weights, such as deeplabv1_resnet101-coco.pth, or a trained DeepLab-v2 (.pth); random without it"
    add("--weights", metavar="FILE", help=weights)
    add("--max_iters", type=positive, default=20000, metavar="N", help="training steps")
    add("--batch_size", type=positive, default=10, help="photos per step, over all GPUs and processes")
    parts = "parts that a step is computed in, one after the other, to save memory; a loss is the mean over its part"
    add("--iter_size", type=positive, default=2, help=parts)
    add("--crop_size", type=positive, default=321, help="side of the square training crops in pixels")
    add("--lr", type=number, default=2.5e-4, help="learning rate of the backbone; new layers have ten times as much")
    balanced = "background and objects count equally in the loss; with ImageNet weights the plain one may diverge"
    add("--balanced_loss", action="store_true", help=balanced)
    freeze = "keep the batch norms as they are in --weights, as published; without weights they have to learn"
    add("--freeze_bn", action=argparse.BooleanOptionalAction, default=True, help=freeze)
    frozen = "train the ASPP alone: faster, and steadier where there are hundreds of photos only"
    add("--freeze_backbone", action="store_const", const=True, help=frozen)
    add("--skip_errors", action="store_true", help="leave out photos whose files are missing or bad, and say which")
    training.add_flags(parser, session_name="DeepLabV2", pictures="the predicted labels")
    return parser


def main() -> None:
    args = get_parser().parse_args()
    if args.batch_size % args.iter_size:
        raise UserError(f"--batch_size {args.batch_size} is no multiple of --iter_size {args.iter_size}")
    check_root(args.voc12_root)
    training.run(args, make_task, "raise --iter_size, lower --batch_size or --crop_size, or --amp bf16")


def make_task(args: argparse.Namespace, device: torch.device) -> training.Task:
    """Make the network and check the data. UserError: what the flags name is not there or does not fit."""
    classes = read_classes(args.voc12_root)
    check_classes(Path(args.label_dir), classes.names)
    needs = ("input", "num_labels", "get_parameter_groups", "group_factors")
    net = make_net(args.network, needs, **options(args), **classes.options(num_labels=len(classes.labels)))
    if not args.freeze_bn:
        unfreeze_batch_norms(net)
    elif not (args.weights or args.resume) and has_frozen_norms(net):
        print("note: random weights with batch norms that do not learn may diverge: --no-freeze_bn lets them learn")
    if args.freeze_backbone:
        freeze(net.get_parameter_groups()[:1])
    net = training_form(net, device, args.amp, args.tf32).train()
    optimizer = make_sgd(net.get_parameter_groups(), net.group_factors, args.lr, args.wt_dec)
    data, skipped = sound_photos(args, net)

    def loss(model: nn.Module, batch: list[Tensor]) -> Tensor:
        """The mean over the parts of a step of their sums over the scales."""
        pictures, labels = batch  # (N, 3, H, W), (N, H, W)
        logits = [scale.float() for scale in model(pictures)]
        return multi_scale_loss(logits, labels, args.balanced_loss) / args.iter_size

    settings = {name: getattr(args, name) for name in MUST_MATCH}
    return training.Task(
        net=net,
        optimizer=optimizer,
        data=data,
        max_step=args.max_iters,
        settings=settings | {"train_list_crc32": digest([*data.ids, *skipped]), "skipped_crc32": digest(skipped)},
        loss=loss,
        set_learning_rate=lambda step: set_learning_rate(optimizer, stepwise_lr_factor(step, args.max_iters)),
        load_weights=partial(load_weights, net),
        pictures=partial(label_pictures, data=data, palette=PALETTE),
        parts=args.iter_size,
    )


def sound_photos(args: argparse.Namespace, net: Any) -> tuple[LabelledPhotos, list[str]]:
    """The photos to train on, all of whose files were looked at, and those left out. UserError: some are bad, unless --skip_errors."""
    if not Path(args.label_dir).is_dir():
        raise UserError(f"--label_dir {args.label_dir}: no such folder{nearest_path(args.label_dir)}")
    check_folder(label_maps(args.label_dir))
    ids = list(dict.fromkeys(read_image_list(args.train_list)))
    data = LabelledPhotos(ids, args.voc12_root, args.label_dir, args.crop_size, args.seed, net.input)
    data.ids, skipped = sound_ids(
        ids, partial(data.check, num_labels=net.num_labels), args.train_list, args.skip_errors
    )
    return data, skipped


if __name__ == "__main__":
    run_script(main)
