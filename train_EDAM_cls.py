"""Train EDAM from image-level labels.

One machine, whatever it has:      python train_EDAM_cls.py --voc12_root VOC2012 --weights ilsvrc-cls_rna-a1_cls1000_ep-0001.params
Several processes or machines:     torchrun --nproc_per_node 4 train_EDAM_cls.py ... (the batch size counts pairs over all of them)
Interrupted, the same command with --resume goes on.
"""

import argparse
import zlib
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from network import add_flags, make_net, options
from network.weights import load_weights
from pseudo_label.class_maps import class_map_pictures
from tool import cli, training
from tool.cli import UserError, run_script, summarize_problems
from tool.optim import freeze, lr_factor, make_sgd, set_learning_rate
from tool.precision import training_form
from voc12.data import TrainPairs
from voc12.inputs import check_inputs, photos
from voc12.labels import IGNORE_FOREIGN, load_labels
from voc12.lists import ROOT, check_root, photo_folder, photo_path, read_classes, read_pairs
from voc12.pairs import check_pairs

# Flags that a resumed run has to share with the interrupted one, besides those that all training scripts have.
MUST_MATCH = ("max_epoches", "crop_size", "long_side", "warmup_steps", "attn_dropout", "freeze_backbone")


def get_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(__doc__)
    add, count, positive, number = parser.add_argument, cli.count(), cli.count(1), cli.number(float, 0)
    pairs = "list of training pairs, made by voc12/prepare.py"
    add("--voc12_root", required=True, metavar="DIR", help=f"{ROOT}, Annotations")
    add("--train_list", default="voc12/EDAM_train.txt", metavar="FILE", help=pairs)
    add("--ignore_foreign", action="store_true", help=IGNORE_FOREIGN)
    add_flags(parser, "network.resnet38_EDAM_cls")
    weights = "initial weights: the ImageNet ResNet-38 (.params) or a PyTorch checkpoint (.pth); random without it"
    add("--weights", metavar="FILE", help=weights)
    add("--batch_size", type=positive, default=8, help="pairs per step, over all GPUs and processes")
    epochs = "times through the pair list, which holds 25 epochs' worth of pairs"
    add("--max_epoches", type=positive, default=1, help=epochs)
    add("--crop_size", type=positive, default=368, help="side of the square training crops in pixels")
    long_side = "range of the photos' longer side in pixels before cropping"
    add("--long_side", type=positive, nargs=2, default=[256, 512], metavar=("MIN", "MAX"), help=long_side)
    add("--lr", type=number, default=0.01, help="learning rate of the backbone; new layers have ten times as much")
    warmup = "steps over which the learning rate rises from a tenth"
    add("--warmup_steps", type=count, default=2000, help=warmup)
    frozen = "train EDAM's head alone: faster, and better where there are hundreds of photos only"
    add("--freeze_backbone", action="store_const", const=True, help=frozen)
    dropout = "dropout on the attention weights; 0 is faster on CPUs; otherwise the network's own, 0.1"
    add("--attn_dropout", type=cli.number(float, 0, 1), metavar="P", help=dropout)
    training.add_flags(parser, session_name="EDAM", pictures="the class maps")
    return parser


def main() -> None:
    args = get_parser().parse_args()
    if args.long_side[0] > args.long_side[1]:
        raise UserError(f"--long_side {args.long_side[0]} {args.long_side[1]}: the smaller one comes first")
    check_root(args.voc12_root)
    training.run(args, make_task, "lower --batch_size or --crop_size, use more GPUs, or --amp bf16")


def make_task(args: argparse.Namespace, device: torch.device) -> training.Task:
    """Read lists and labels and make the network. UserError: what the flags name is not there or does not fit."""
    classes = read_classes(args.voc12_root)
    pairs = read_pairs(args.train_list, classes)
    labels = load_labels(
        dict.fromkeys(image_id for pair in pairs for image_id in pair[:2]),
        args.voc12_root,
        ignore_foreign=args.ignore_foreign,
        listed_in=args.train_list,
    )
    check_pairs(pairs, labels, args.train_list, classes)
    if problems := check_inputs(labels, [photos(photo_folder(args.voc12_root))]):
        raise UserError(summarize_problems(problems))
    max_step = len(pairs) // args.batch_size * args.max_epoches
    if max_step == 0:
        raise UserError(f"--batch_size {args.batch_size} is more than the {len(pairs)} pairs of {args.train_list}")
    needs = ("input", "get_parameter_groups", "group_factors", "forward_cam")
    net = make_net(args.network, needs, **options(args), **classes.options(num_classes=len(classes)))
    if args.freeze_backbone:
        freeze(net.get_parameter_groups()[:2])
    net = training_form(net, device, args.amp, args.tf32).train()
    if args.attn_dropout is not None:
        if not hasattr(net, "cma_dropout"):
            raise UserError(f"--attn_dropout: {args.network} has no attention of EDAM's kind")
        net.cma_dropout.attention.p = args.attn_dropout
    optimizer = make_sgd(net.get_parameter_groups(), net.group_factors, args.lr, args.wt_dec)

    def loss(model: nn.Module, batch: list[Tensor]) -> Tensor:
        """Binary cross-entropy, the mean over the pairs of all processes, their images and the classes' logits."""
        images, targets = batch  # (P, 2, 3, H, W), (P, 2, C)
        logits = model(images)  # (P, 2, C); a network may give each class several, (P, 2, K * C)
        targets = targets.repeat(1, 1, logits.shape[2] // targets.shape[2])
        total = F.binary_cross_entropy_with_logits(logits.float(), targets, reduction="sum")
        return total / (args.batch_size * targets[0].numel())

    first_ids = list(dict.fromkeys(image_id for pair in pairs[:8] for image_id in pair[:2]))[:4]
    watched = [(photo_path(args.voc12_root, i), np.flatnonzero(labels[i]).tolist()) for i in first_ids]
    settings = {name: getattr(args, name) for name in MUST_MATCH}
    return training.Task(
        net=net,
        optimizer=optimizer,
        data=TrainPairs(pairs, labels, args.voc12_root, args.crop_size, args.seed, tuple(args.long_side), net.input),
        max_step=max_step,
        settings=settings | {"train_list_crc32": zlib.crc32(repr(pairs).encode())},
        loss=loss,
        set_learning_rate=lambda step: set_learning_rate(optimizer, lr_factor(step, max_step, args.warmup_steps)),
        load_weights=partial(load_weights, net),
        pictures=partial(class_map_pictures, photos=watched),
        unit="pairs",
        photos=2,
    )


if __name__ == "__main__":
    run_script(main)
