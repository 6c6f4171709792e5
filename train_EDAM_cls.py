"""Train EDAM from image-level labels.

One machine:          python train_EDAM_cls.py --voc12_root VOC2012 --weights ilsvrc-cls_rna-a1_cls1000_ep-0001.params
Several processes:    torchrun --nproc_per_node 4 train_EDAM_cls.py ... (the batch size counts pairs over all of them)
"""

import argparse
import zlib
from functools import partial
from tool.script import run_script
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from network import add_flags, make_net, options
from network.weights import load_weights
from pseudo_label.predict import class_map_pictures
from tool import cli, training
from tool.cli import UserError
from tool.optim import freeze, lr_factor, make_sgd, set_learning_rate
from tool.precision import training_form
from tool.processes import on_main
from voc12.data import TrainPairs
from voc12.dataset import ROOT, Dataset, check_inputs, report_problems
from voc12.labels import IGNORE_FOREIGN
from voc12.pairs import check_pairs


def get_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(__doc__)
    add, count, positive, number = parser.add_argument, cli.count(), cli.count(1), cli.number(float, 0)
    add("--voc12_root", required=True, metavar="DIR", help=f"{ROOT}, Annotations")
    add("--train_list", default="voc12/EDAM_train.txt", metavar="FILE", help="training pairs, made by voc12/prepare.py")
    add("--ignore_foreign", action="store_true", help=IGNORE_FOREIGN)
    add_flags(parser, "network.resnet38_EDAM_cls")
    add("--weights", metavar="FILE", help="initial weights: ResNet-38's (.params) or any .pth file; default: random")
    add("--batch_size", type=positive, default=8, help="pairs per step, over all GPUs and processes")
    add("--max_epoches", type=positive, default=1, help="passes over the pair list, which holds 25 epochs of pairs")
    add("--crop_size", type=cli.count(32), default=368, help="side of the square training crops in pixels")
    long_side = "range of the photos' longer side in pixels before cropping"
    add("--long_side", type=positive, nargs=2, default=[256, 512], metavar=("MIN", "MAX"), help=long_side)
    add("--lr", type=number, default=0.01, help="learning rate; new convolutions (not the CMA) have ten times it")
    add("--warmup_steps", type=count, default=2000, help="linear warm-up steps (from lr / 10)")
    add("--freeze_backbone", action="store_const", const=True, help="train EDAM's head alone, for hundreds of photos")
    add("--attn_dropout", type=cli.number(float, 0, 1), metavar="P", help="attention's dropout; default: the network's")
    training.add_flags(parser, session_name="EDAM", pictures="the class maps")
    return parser


def main() -> None:
    args = get_parser().parse_args()
    if args.long_side[0] > args.long_side[1]:
        raise UserError(f"--long_side {args.long_side[0]} {args.long_side[1]}: MIN is larger than MAX. Swap them.")
    training.run(args, make_task, "lower --batch_size or --crop_size, use more GPUs, or --amp bf16")


def make_task(args: argparse.Namespace, device: torch.device) -> training.Task:
    """Return EDAM's network, data and loss. UserError: missing files, or flags that do not fit."""
    dataset = Dataset(args.voc12_root, args.ignore_foreign)
    pairs = dataset.read_pairs(args.train_list)
    ids = list(dict.fromkeys(image_id for pair in pairs for image_id in pair[:2]))
    labels = on_main(lambda: dataset.image_labels(ids, args.train_list))
    check_pairs(pairs, labels, args.train_list, dataset.classes)
    report_problems(check_inputs(ids, [dataset.photos]), ids, None, "used from --train_list")
    max_step = len(pairs) // args.batch_size * args.max_epoches

    net = training_form(make_network(args, dataset), device, args.amp, args.tf32).train()
    optimizer = make_sgd(net.get_parameter_groups(), net.group_factors, args.lr, args.wt_dec)

    def loss(model: nn.Module, batch: list[Tensor]) -> Tensor:
        """Return the binary cross-entropy: the mean over all pairs of the step, their photos and the classes' logits."""
        images, targets = batch  # (P, 2, 3, H, W), (P, 2, C)
        logits = model(images)  # (P, 2, C), or (P, 2, K * C)
        targets = targets.repeat(1, 1, net.logits_per_class)
        total = F.binary_cross_entropy_with_logits(logits.float(), targets, reduction="sum")
        return total / (args.batch_size * targets[0].numel())

    watched = [(dataset.photos.find(image_id), np.flatnonzero(labels[image_id]).tolist()) for image_id in ids[:4]]
    return training.Task(
        net=net,
        optimizer=optimizer,
        data=TrainPairs(pairs, labels, dataset, args.crop_size, args.seed, tuple(args.long_side), net.input),
        max_step=max_step,
        settings={"train_list_crc32": zlib.crc32(repr(pairs).encode())},
        loss=loss,
        set_learning_rate=lambda step: set_learning_rate(optimizer, lr_factor(step, max_step, args.warmup_steps)),
        load_weights=load_weights,
        pictures=partial(class_map_pictures, photos=watched),
        unit="pairs",
    )


def make_network(args: argparse.Namespace, dataset: Dataset) -> Any:
    """Return the network that the flags describe."""
    needs = ("input", "num_classes", "logits_per_class", "get_parameter_groups", "group_factors", "forward_cam")
    net = make_net(args.network, needs, **options(args), **dataset.classes.options(num_classes=len(dataset.classes)))
    dataset.classes.check_outputs(args.network, net.num_classes, len(dataset.classes))
    if args.freeze_backbone:
        freeze(net.get_parameter_groups()[:2])
    if args.attn_dropout is not None:
        if not hasattr(net, "cma_dropout"):
            raise UserError(f"--attn_dropout: {args.network} has no cross-image attention. Leave the flag out.")
        net.cma_dropout.attention.p = args.attn_dropout
    return net


if __name__ == "__main__":
    run_script(main)
