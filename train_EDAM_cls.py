"""Train EDAM from image-level labels.

One machine, whatever it has:      python train_EDAM_cls.py --voc12_root VOC2012 --weights ilsvrc-cls_rna-a1_cls1000_ep-0001.params
Several processes or machines:     torchrun --nproc_per_node 4 train_EDAM_cls.py ... (the batch size counts pairs over all of them)
"""

import argparse
import math
import os
import signal
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from network import make_net
from network.weights import load_weights
from tool import distributed
from tool.checkpoint import STATE, catch_signals, checkpoint_steps, find_state, load_state, save_torch, write_settings
from tool.errors import UserError, run
from tool.loading import StepBatches, batches, make_loader
from tool.monitor import Monitor
from tool.optim import make_optimizer, set_learning_rate
from tool.precision import autocast, setup_precision
from voc12.data import TrainPairs
from voc12.labels import load_labels
from voc12.lists import photo_path, read_pairs


def positive(kind: type) -> Callable[[str], int | float]:
    """An argparse type: a number above 0."""

    def parse(text: str) -> int | float:
        value = kind(text)
        if not value > 0:
            raise argparse.ArgumentTypeError(f"{text} is not above 0")
        return value

    parse.__name__ = kind.__name__
    return parse


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--voc12_root", required=True, metavar="DIR", help="VOC2012 folder of the devkit: JPEGImages, Annotations")
    add(
        "--train_list",
        default="voc12/EDAM_train.txt",
        metavar="FILE",
        help="list of training pairs, made by voc12/prepare.py (default: %(default)s)",
    )
    add(
        "--network",
        default="network.resnet38_EDAM_cls",
        metavar="MODULE",
        help="module that holds the class Net (default: %(default)s)",
    )
    add(
        "--weights",
        metavar="FILE",
        help="initial weights: the ImageNet ResNet-38 (.params) or a PyTorch checkpoint (.pth); random without it",
    )
    add(
        "--batch_size",
        type=positive(int),
        default=8,
        help="pairs per step, over all GPUs and processes (default: %(default)s)",
    )
    add(
        "--max_epoches",
        type=positive(int),
        default=1,
        help="times through the pair list, which holds 25 epochs' worth of pairs (default: %(default)s)",
    )
    add(
        "--crop_size",
        type=positive(int),
        default=368,
        help="side of the square training crops in pixels (default: %(default)s)",
    )
    add(
        "--lr",
        type=positive(float),
        default=0.01,
        help="learning rate of the backbone; new layers have ten times as much (default: %(default)s)",
    )
    add("--wt_dec", type=float, default=5e-4, help="weight decay (default: %(default)s)")
    add(
        "--warmup_steps",
        type=int,
        default=2000,
        help="steps over which the learning rate rises from a tenth (default: %(default)s)",
    )
    add(
        "--num_workers",
        type=int,
        default=min(8, os.cpu_count() or 1),
        help="processes that read and augment photos, per training process; 0: none (default here: %(default)s)",
    )
    add(
        "--long_side",
        type=positive(int),
        nargs=2,
        default=(256, 512),
        metavar=("MIN", "MAX"),
        help="range of the photos' longer side in pixels before cropping (default: 256 512)",
    )
    add("--seed", type=int, default=0, help="of initial weights, augmentation and dropout (default: %(default)s)")
    add("--device", help="cpu, cuda or cuda:N (default: every visible GPU, else the CPU)")
    add(
        "--amp",
        choices=("off", "bf16", "fp16"),
        default="off",
        help="compute in mixed precision (default: %(default)s)",
    )
    add("--tf32", action="store_true", help="let GPUs round float32 products to TF32: faster, 1e-3 relative error")
    add(
        "--attn_dropout",
        type=float,
        metavar="P",
        help="dropout on the attention weights (default: the network's, 0.1); 0 is faster on CPUs",
    )
    add("--session_name", default="EDAM", help="name of the run, of its folder and checkpoints (default: %(default)s)")
    add(
        "--checkpoint_dir",
        default="checkpoints",
        metavar="DIR",
        help="a run's checkpoints, settings and log go to DIR/SESSION_NAME (default: %(default)s)",
    )
    add(
        "--log_dir",
        default="runs",
        metavar="DIR",
        help="TensorBoard events go to DIR/SESSION_NAME (default: %(default)s)",
    )
    add(
        "--resume",
        nargs="?",
        const="latest",
        metavar="PATH",
        help="go on with an interrupted run: the session's own, or a state.pth or a run's folder",
    )
    add(
        "--vis_every",
        type=int,
        default=0,
        metavar="N",
        help="every N steps show the class maps of a few photos in TensorBoard; 0: never (default: %(default)s)",
    )
    add(
        "--save_every",
        type=int,
        default=0,
        metavar="N",
        help="also write the state to resume from every N steps; 0: at the 25 checkpoints and when stopped (default: %(default)s)",
    )
    return parser


MUST_MATCH = (
    "network",
    "batch_size",
    "max_epoches",
    "crop_size",
    "lr",
    "wt_dec",
    "warmup_steps",
    "seed",
    "amp",
    "attn_dropout",
)  # what a resumed run has to share with the interrupted one


def main() -> None:
    args = get_parser().parse_args()
    device, rank, world = distributed.setup(args.device)
    setup_precision(args.tf32)
    pairs = read_pairs(args.train_list)
    labels = load_labels({image_id for pair in pairs for image_id in pair[:2]}, args.voc12_root)
    max_step = len(pairs) // args.batch_size * args.max_epoches
    if max_step == 0:
        raise UserError(f"--batch_size {args.batch_size} is more than the {len(pairs)} pairs of {args.train_list}")
    if args.batch_size < world:
        raise UserError(f"--batch_size {args.batch_size} gives some of the {world} processes nothing to do; raise it")
    settings = {name: getattr(args, name) for name in MUST_MATCH}
    settings |= {"long_side": list(args.long_side), "train_list_crc32": zlib.crc32(repr(pairs).encode())}

    torch.manual_seed(args.seed)
    net = make_net(args.network)
    if args.attn_dropout is not None:
        net.cma_dropout.attention.p = args.attn_dropout
    optimizer = make_optimizer(net.get_parameter_groups(), args.lr, args.wt_dec)
    scaler = torch.amp.GradScaler(device.type, enabled=args.amp == "fp16")
    session = Path(args.checkpoint_dir, args.session_name)
    state_path = find_state(args.resume, session) if args.resume else None
    start, origin = 0, "no --weights and nothing to resume: starts from random weights"
    if state_path:
        state = load_state(state_path, settings)
        net.load_state_dict(state["network"])
        start, origin = state["step"], f"resumed {state_path} after step {state['step']} of {max_step}"
    elif args.weights:
        origin = str(load_weights(net, args.weights))
    net.to(device).train()
    if state_path:
        optimizer.load_state_dict(state["optimizer"])  # after the move, so that the momentum follows
        scaler.load_state_dict(state["scaler"])
        del state

    continues = state_path is not None and state_path.parent.resolve() == session.resolve()
    monitor = Monitor(args, session, continues, start, max_step) if rank == 0 else None
    if monitor:
        write_settings(session, {**vars(args), **settings, "steps": max_step, "command": sys.argv})
        monitor.say(distributed.describe(device, world))
        monitor.say(origin)
        monitor.say(f"{len(pairs)} pairs, {max_step} steps of {args.batch_size} pairs, checkpoints in {session}")

    model: nn.Module = net
    if world > 1:
        model = DistributedDataParallel(net, broadcast_buffers=False, gradient_as_bucket_view=True)
    elif device.type == "cuda" and args.device is None and torch.cuda.device_count() > 1:
        model = nn.DataParallel(net)

    dataset = TrainPairs(pairs, labels, args.voc12_root, args.crop_size, args.seed, tuple(args.long_side))
    loader = make_loader(
        dataset, StepBatches(start, max_step, args.batch_size, rank, world), args.num_workers, device.type == "cuda"
    )
    first_ids = list(dict.fromkeys(image_id for pair in pairs[:8] for image_id in pair[:2]))[:4]
    watched = [(photo_path(args.voc12_root, i), np.flatnonzero(labels[i]).tolist()) for i in first_ids]
    checkpoints = checkpoint_steps(max_step)
    signals = catch_signals()
    for step, (images, targets) in enumerate(batches(loader), start):
        images, targets = (tensor.to(device, non_blocking=True) for tensor in (images, targets))
        lr = set_learning_rate(optimizer, step, max_step, args.warmup_steps)
        distributed.seed_step(args.seed, step, rank)  # dropout depends on these alone: resuming repeats it

        with autocast(device, args.amp):
            logits = model(images)  # (P, 2, 20)
        # The mean over the pairs of all processes. DistributedDataParallel averages their gradients, hence `world`.
        loss = F.binary_cross_entropy_with_logits(logits.float(), targets, reduction="sum")
        loss = loss / (args.batch_size * targets[0].numel())
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss * world).backward()
        value = float(distributed.total(loss.detach()))
        if not math.isfinite(value):
            raise UserError(
                f"the loss is {value} at step {step} ({' '.join(dataset.names(step * args.batch_size))}, ...): "
                f"lower --lr or check the weights; what was saved in {session} is intact"
            )
        scaler.step(optimizer)
        scaler.update()

        done = step + 1
        stopping = distributed.any_process(bool(signals), device) and done < max_step
        if monitor:
            monitor.step(step, value, lr)
            if args.vis_every and (done % args.vis_every == 0 or done == max_step):
                monitor.class_maps(step, net, watched)
            if done in checkpoints:
                save_torch(session / f"{args.session_name}_{checkpoints[done]:02d}.pth", net.state_dict())
            if done in checkpoints or stopping or (args.save_every and done % args.save_every == 0):
                state = {
                    "network": net.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "scaler": scaler.state_dict(),
                }
                save_torch(session / STATE, {**state, "step": done, "settings": settings})
        if stopping:
            if monitor:
                monitor.say(f"stopped by a signal after step {done} of {max_step}; run again with --resume to go on")
            sys.exit(128 + signals[0] if signals else 128 + signal.SIGTERM)
    if monitor:
        save_torch(session / f"{args.session_name}.pth", net.state_dict())
        monitor.say(f"finished: {session / args.session_name}.pth")
        monitor.close()
    distributed.cleanup()


if __name__ == "__main__":
    run(main)
