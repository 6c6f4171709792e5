"""Train DeepLab-v2 on label maps: pseudo labels of infer_cls.py, or ground truth.

One machine:          python train_deeplab.py --voc12_root VOC2012 --label_dir OUT_CRF_PRED --weights deeplabv1_resnet101-coco.pth
Several processes:    torchrun --nproc_per_node 4 train_deeplab.py ... (the batch size counts photos over all of them)
"""

import argparse
from functools import partial
from pathlib import Path
from tool.script import run_script
from typing import Any

import torch
from torch import Tensor, nn

from network import add_flags, make_net, options
from network.frozen_norm import unfreeze_batch_norms
from network.losses import multi_scale_loss
from network.weights import load_weights
from pseudo_label.manifest import check_classes
from pseudo_label.predict import label_pictures
from tool import cli, training
from tool.checkpoint import digest
from tool.optim import freeze, make_adamw, make_sgd, set_learning_rate, stepwise_lr_factor
from tool.precision import training_form
from voc12.classes import PALETTE
from voc12.data import LabelledPhotos
from voc12.dataset import ROOT, Dataset, label_maps, read_image_list
from voc12.labels import ACCEPT


def get_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(__doc__)
    add, positive, number = parser.add_argument, cli.count(1), cli.number(float, 0)
    add("--voc12_root", required=True, metavar="DIR", help=ROOT)
    add("--label_dir", required=True, metavar="DIR", help="label PNGs, <id>.png: 0 background, class + 1, 255 unknown")
    add("--train_list", default="voc12/train_aug.txt", metavar="FILE", help="photos to train on")
    add_flags(parser, "network.deeplab_v2")
    add("--weights", metavar="FILE", help="initial weights (.pth) of a backbone or DeepLab-v2; default: random")
    add("--max_iters", type=positive, default=20000, metavar="N", help="training steps")
    add("--batch_size", type=positive, default=10, help="photos per step, over all GPUs and processes")
    add("--iter_size", type=positive, default=2, help="gradient accumulation: micro-batches per step")
    add("--crop_size", type=cli.count(32), default=321, help="side of the square training crops in pixels")
    add("--lr", type=number, default=2.5e-4, help="learning rate of the backbone; new layers have ten times as much")
    add("--adamw", action="store_const", const=True, help="train by AdamW, with --lr for all layers, instead of SGD")
    add("--warmup_steps", type=positive, metavar="N", help="linear warm-up steps, from --lr / 10; default: none")
    add("--balanced_loss", action="store_true", help="give background and objects equal weight in the loss")
    learn = "keep the batch norms of --weights, as published; without weights they must learn"
    add("--freeze_bn", action=argparse.BooleanOptionalAction, default=True, help=learn)
    add("--freeze_backbone", action="store_const", const=True, help="train the ASPP alone, for hundreds of photos")
    add("--skip_errors", action="store_true", help="skip photos whose files are missing or bad, and list them")
    add("--accept_labels", action="store_true", help=ACCEPT)
    training.add_flags(parser, session_name="DeepLabV2", pictures="the predicted labels")
    return parser


def main() -> None:
    training.run(get_parser().parse_args(), make_task, "raise --iter_size, lower --crop_size, or --amp bf16")


def make_task(args: argparse.Namespace, device: torch.device) -> training.Task:
    """Return DeepLab-v2's network, data and loss. UserError: missing files, or flags that do not fit."""
    dataset = Dataset(args.voc12_root)
    check_classes(Path(args.label_dir), dataset.classes.names)
    net = training_form(make_network(args, dataset), device, args.amp, args.tf32).train()
    make_optimizer = make_adamw if args.adamw else make_sgd
    optimizer = make_optimizer(net.get_parameter_groups(), net.group_factors, args.lr, args.wt_dec)
    ids = list(dict.fromkeys(read_image_list(args.train_list)))
    labels = label_maps(args.label_dir)
    data = LabelledPhotos(ids, dataset.photos, labels, args.crop_size, args.seed, net.input, dataset)
    skipped = data.drop_unusable(args.skip_errors, args.accept_labels)
    lr_factor = partial(stepwise_lr_factor, max_step=args.max_iters, warmup_steps=args.warmup_steps or 0)

    def loss(model: nn.Module, batch: list[Tensor]) -> Tensor:
        """Return the sum over the scales of a micro-batch's loss; a step's loss is the mean of its micro-batches'."""
        pictures, labels = batch  # (N, 3, H, W), (N, H, W)
        logits = [scale.float() for scale in model(pictures)]
        return multi_scale_loss(logits, labels, args.balanced_loss) / args.iter_size

    return training.Task(
        net=net,
        optimizer=optimizer,
        data=data,
        max_step=args.max_iters,
        settings={"train_list_crc32": digest(ids), "skipped_crc32": digest(skipped)},
        loss=loss,
        set_learning_rate=lambda step: set_learning_rate(optimizer, lr_factor(step)),
        load_weights=load_weights,
        pictures=partial(label_pictures, data=data, palette=PALETTE),
        accumulation_steps=args.iter_size,
    )


def make_network(args: argparse.Namespace, dataset: Dataset) -> Any:
    """Return the network that the flags describe."""
    needs = ("input", "num_labels", "get_parameter_groups", "group_factors")
    count = len(dataset.classes.labels)
    net = make_net(args.network, needs, **options(args), **dataset.classes.options(num_labels=count))
    dataset.classes.check_outputs(args.network, net.num_labels, count)
    if not args.freeze_bn:
        unfreeze_batch_norms(net)
    if args.freeze_backbone:
        freeze(net.get_parameter_groups()[:1])
    return net


if __name__ == "__main__":
    run_script(main)
