"""Train EDAM from image-level labels.

One machine, whatever it has:      python train_EDAM_cls.py --voc12_root VOC2012 --weights ilsvrc-cls_rna-a1_cls1000_ep-0001.params
Several processes or machines:     torchrun --nproc_per_node 4 train_EDAM_cls.py ... (the batch size counts pairs over all of them)
Interrupted, the same command with --resume goes on.
"""

import argparse
import contextlib
import math
import signal
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from network import make_net
from network.torch_file import read_torch_file
from network.weights import load_weights
from pseudo_label.monitor import Monitor
from tool import checkpoint, distributed, flags
from tool.errors import UserError, run, show
from tool.loading import StepBatches, batches, make_loader
from tool.optim import make_optimizer, set_learning_rate
from tool.precision import Autocast, setup_precision, training_form
from voc12.data import TrainPairs
from voc12.labels import IGNORE_FOREIGN, load_labels
from voc12.lists import check_root, photo_path, read_pairs
from voc12.pairs import check_pairs

# What a resumed run has to share with the interrupted one.
MUST_MATCH = (
    *("network", "batch_size", "max_epoches", "crop_size", "long_side", "lr", "wt_dec", "warmup_steps"),
    *("seed", "amp", "attn_dropout"),
)
GO_ON, STOP, FAIL = 0, 1, 2  # what the processes agree on before each step


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=flags.Help)
    add, count, positive, number = parser.add_argument, flags.count(), flags.count(1), flags.number(float, 0)
    network, pairs = "network.resnet38_EDAM_cls", "list of training pairs, made by voc12/prepare.py"
    add("--voc12_root", required=True, metavar="DIR", help="VOC2012 folder of the devkit: JPEGImages, Annotations")
    add("--train_list", default="voc12/EDAM_train.txt", metavar="FILE", help=pairs)
    add("--ignore_foreign", action="store_true", help=IGNORE_FOREIGN)
    add("--network", type=flags.module_name, default=network, metavar="MODULE", help="module that holds the class Net")
    weights = "initial weights: the ImageNet ResNet-38 (.params) or a PyTorch checkpoint (.pth); random without it"
    add("--weights", metavar="FILE", help=weights)
    add("--batch_size", type=positive, default=8, help="pairs per step, over all GPUs and processes")
    epochs = "times through the pair list, which holds 25 epochs' worth of pairs"
    add("--max_epoches", type=positive, default=1, help=epochs)
    add("--crop_size", type=positive, default=368, help="side of the square training crops in pixels")
    long_side = "range of the photos' longer side in pixels before cropping"
    add("--long_side", type=positive, nargs=2, default=[256, 512], metavar=("MIN", "MAX"), help=long_side)
    add("--lr", type=number, default=0.01, help="learning rate of the backbone; new layers have ten times as much")
    add("--wt_dec", type=number, default=5e-4, help="weight decay")
    warmup = "steps over which the learning rate rises from a tenth"
    add("--warmup_steps", type=count, default=2000, help=warmup)
    dropout = "dropout on the attention weights; 0 is faster on CPUs; otherwise the network's own, 0.1"
    add("--attn_dropout", type=flags.number(float, 0, 1), metavar="P", help=dropout)
    add("--seed", type=count, default=0, help="of initial weights, augmentation and dropout")
    workers = "processes that read and augment photos, per training process; 0: none"
    add("--num_workers", type=count, default=min(8, distributed.cores()), help=workers)
    add("--device", help="cpu, cuda or cuda:N; otherwise every visible GPU, or the CPU")
    add("--amp", choices=("off", "bf16", "fp16"), default="off", help="compute in mixed precision")
    add("--tf32", action="store_true", help="let GPUs round float32 products to TF32: faster, 1e-3 relative error")
    name = "name of the run, of its folder and checkpoints"
    add("--session_name", type=flags.plain_name, default="EDAM", help=name)
    folder = "a run's checkpoints, settings and log go to DIR/SESSION_NAME"
    add("--checkpoint_dir", default="checkpoints", metavar="DIR", help=folder)
    add("--log_dir", default="runs", metavar="DIR", help="TensorBoard events go to DIR/SESSION_NAME")
    resume = "go on with an interrupted run: the session's own, or a state.pth or a run's folder"
    add("--resume", nargs="?", const="latest", metavar="PATH", help=resume)
    save = "write the state to resume from every N steps, not only at the 25 checkpoints and when stopped"
    add("--save_every", type=count, default=0, metavar="N", help=save)
    vis = "every N steps show the class maps of a few photos in TensorBoard; 0: never"
    add("--vis_every", type=count, default=0, metavar="N", help=vis)
    return parser


def main() -> None:
    args = get_parser().parse_args()
    if args.long_side[0] > args.long_side[1]:
        raise UserError(f"--long_side {args.long_side[0]} {args.long_side[1]}: the smaller one comes first")
    check_root(args.voc12_root)
    device, rank, world = distributed.setup(args.device)
    with distributed.explained("lower --batch_size or --crop_size, use more GPUs, or --amp bf16"):
        train(args, device, rank, world)
    distributed.cleanup()


def train(args: argparse.Namespace, device: torch.device, rank: int, world: int) -> None:
    """Read everything, then train: each step's batch is shared by `world` processes, of which this is `rank`."""
    setup_precision(args.tf32)
    pairs = read_pairs(args.train_list)
    labels = load_labels(
        {image_id for pair in pairs for image_id in pair[:2]}, args.voc12_root, ignore_foreign=args.ignore_foreign
    )
    check_pairs(pairs, labels, args.train_list)
    max_step = len(pairs) // args.batch_size * args.max_epoches
    if max_step == 0:
        raise UserError(f"--batch_size {args.batch_size} is more than the {len(pairs)} pairs of {args.train_list}")
    if args.batch_size < world:
        raise UserError(f"--batch_size {args.batch_size} gives some of the {world} processes nothing to do; raise it")
    settings = {name: getattr(args, name) for name in MUST_MATCH}
    settings["train_list_crc32"] = zlib.crc32(repr(pairs).encode())

    torch.manual_seed(args.seed)
    net = training_form(make_net(args.network), device, args.amp, args.tf32).train()
    if args.attn_dropout is not None:
        if not hasattr(net, "cma_dropout"):
            raise UserError(f"--attn_dropout: {args.network} has no attention of EDAM's kind")
        net.cma_dropout.attention.p = args.attn_dropout
    optimizer = make_optimizer(net.get_parameter_groups(), args.lr, args.wt_dec)
    scaler = torch.amp.GradScaler(device.type, enabled=args.amp == "fp16")
    state = checkpoint.TrainingState(net, optimizer, scaler, settings)
    session = Path(args.checkpoint_dir, args.session_name)
    state_path = checkpoint.find_state(args.resume, session) if args.resume else None
    start, origin = 0, "no --weights and nothing to resume: starts from random weights"
    if state_path:
        start = state.restore(read_torch_file(state_path), state_path, max_step)
        origin = f"resumed {state_path} after step {start} of {max_step}"
    elif args.weights:
        origin = str(load_weights(net, args.weights))
    if len(set(starts := distributed.gather(start))) > 1:
        raise UserError(
            f"--resume: the processes found states after steps {sorted(set(starts))}; "
            "put --checkpoint_dir on a disk that all machines see"
        )

    monitor = None
    if rank == 0:  # one process writes
        continues = state_path is not None and state_path.parent.resolve() == session.resolve()
        monitor = Monitor(args, session, continues, start, max_step)
        checkpoint.prepare_session(session, {**vars(args), **settings, "steps": max_step, "command": sys.argv})
        monitor.say(distributed.describe(device, world))
        monitor.say(origin)
        monitor.say(f"{len(pairs)} pairs, {max_step} steps of {args.batch_size} pairs, checkpoints in {session}")

    def save_state(step: int) -> None:
        checkpoint.check_finite(net, step)
        monitor.flush()  # the curves reach as far as the state
        state.save(session / checkpoint.STATE, step)

    model: nn.Module = Autocast(net, device, args.amp)
    if world > 1:
        with warnings.catch_warnings():  # of PyTorch 2.15: its new name for broadcast_buffers is unknown to 2.11
            warnings.simplefilter("ignore", FutureWarning)
            model = DistributedDataParallel(model, broadcast_buffers=False, gradient_as_bucket_view=True)
    elif device.type == "cuda" and args.device is None and torch.cuda.device_count() > 1:
        model = nn.DataParallel(model)
    dataset = TrainPairs(pairs, labels, args.voc12_root, args.crop_size, args.seed, tuple(args.long_side))
    steps = StepBatches(start, max_step, args.batch_size, rank, world)
    source = batches(make_loader(dataset, steps, args.num_workers, device.type == "cuda"))
    first_ids = list(dict.fromkeys(image_id for pair in pairs[:8] for image_id in pair[:2]))[:4]
    watched = [(photo_path(args.voc12_root, i), np.flatnonzero(labels[i]).tolist()) for i in first_ids]
    numbers = checkpoint.checkpoint_steps(max_step)
    signals = checkpoint.catch_signals()
    with contextlib.closing(monitor) if monitor else contextlib.nullcontext():
        for step in range(start, max_step):
            problem = None
            try:
                images, targets = (None, None) if signals else next(source)
            except UserError as error:
                problem = error
            decision = distributed.highest(STOP if signals else FAIL if problem else GO_ON, device)
            if decision != GO_ON:
                if monitor and step > 0:
                    save_state(step)
                problems = [text for text in distributed.gather(problem and str(problem)) if text]
                if monitor and decision == STOP:
                    monitor.say(f"stopped by a signal after step {step} of {max_step}; --resume goes on")
                if monitor and decision == FAIL:  # if stopped, the loader's processes were ended as well
                    kept = f" (--resume goes on after step {step})" if step > 0 else ""
                    monitor.bar.close()  # its line ends
                    show(f"{problems[0]}{kept}")
                distributed.barrier()  # torchrun ends all processes as soon as one has left
                sys.exit(1 if decision == FAIL else 128 + (signals[0] if signals else signal.SIGTERM))

            images, targets = (tensor.to(device, non_blocking=True) for tensor in (images, targets))
            lr = set_learning_rate(optimizer, step, max_step, args.warmup_steps)
            distributed.seed_step(args.seed, step, rank)  # dropout depends on these alone: resuming repeats it
            optimizer.zero_grad(set_to_none=True)  # the forward pass can use the gradients' memory
            logits = model(images)  # (P, 2, 20)
            # The mean over the pairs of all processes. DistributedDataParallel averages their gradients, hence `world`.
            loss = F.binary_cross_entropy_with_logits(logits.float(), targets, reduction="sum")
            loss = loss / (args.batch_size * targets[0].numel())
            scaler.scale(loss * world).backward()
            value = float(distributed.total(loss.detach()))
            if not math.isfinite(value):
                if rank > 0:
                    sys.exit(1)  # the first process tells
                raise UserError(
                    f"the loss is {value} at step {step} ({' '.join(dataset.names(step * args.batch_size))}, ...): "
                    f"lower --lr or check the weights; what was saved in {session} is intact"
                )
            scaler.step(optimizer)
            scaler.update()

            done = step + 1
            if monitor:
                monitor.step(step, value, lr)
                if args.vis_every and (done % args.vis_every == 0 or done == max_step):
                    monitor.class_maps(step, net, watched)
                if done in numbers:
                    checkpoint.save_network(session / f"{args.session_name}_{numbers[done]:02d}.pth", net, done)
                if done in numbers or (args.save_every and done % args.save_every == 0):
                    save_state(done)
        if monitor:
            checkpoint.save_network(session / f"{args.session_name}.pth", net, max_step)
            monitor.say(f"finished: {session / args.session_name}.pth")
    distributed.barrier()


if __name__ == "__main__":
    run(main)
