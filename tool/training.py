"""Training loop shared by all scripts: flags, resuming, multi-process training, logging."""

import argparse
import contextlib
import math
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tool import checkpoint, cli, distributed
from tool.cli import UserError, counted, print_error
from tool.loading import batches, positions
from tool.monitor import Monitor
from tool.precision import Autocast, setup_precision
from tool.processes import cores, is_main_process, on_main, shared_failure

# Flags of the scripts that a resumed run must share with the interrupted one.
MUST_MATCH: tuple[str, ...] = ("network", "backbone", "output_stride", "batch_size", "lr", "wt_dec", "seed", "amp")
MUST_MATCH += ("max_epoches", "max_iters", "warmup_steps", "iter_size", "crop_size", "long_side", "attn_dropout")
MUST_MATCH += ("freeze_backbone", "freeze_bn", "balanced_loss", "adamw")


@dataclass
class Task:
    """A network, its data and its loss.

    `data` is a map-style dataset over positions in the whole run: position p belongs to step p // batch_size, and its
    tensors depend on the seed and p alone. `data.ids_at(p)` are the ids of its photos; its length is that of an epoch.
    """

    net: nn.Module  # in training mode, on the run's device
    optimizer: torch.optim.Optimizer
    data: Any
    max_step: int  # of the whole run
    settings: Mapping[str, Any]  # JSON values that a resumed run must share, besides MUST_MATCH
    loss: Callable[[nn.Module, Any], Tensor]  # a micro-batch's share of the step's loss; all ranks' shares add up to it
    set_learning_rate: Callable[[int], float]  # prepares the optimizer for a step, returns the learning rate to report
    load_weights: Callable[[nn.Module, str], object]  # loads a file of initial weights, returns a line to report
    pictures: Callable[[nn.Module], Iterable[tuple[str, np.ndarray]]]  # for --vis_every: (name, uint8 RGB (H, W, 3))
    unit: str = "photos"  # plural of what batches consist of
    accumulation_steps: int | None = 1  # micro-batches of a step; None: each item is one


def add_flags(parser: argparse.ArgumentParser, session_name: str, pictures: str) -> None:
    """Add the flags that all training scripts share. pictures: words for what --vis_every shows."""
    add, count = parser.add_argument, cli.count()
    add("--wt_dec", type=cli.number(float, 0), default=5e-4, help="weight decay")
    add("--seed", type=count, default=0, help="seed of initial weights, augmentation and dropout")
    add("--num_workers", type=count, default=min(8, cores()), help="processes per rank that read photos; 0: none")
    add("--device", help="cpu, cuda (one GPU) or cuda:N; default: all visible GPUs (torchrun: one each) or the CPU")
    add("--amp", choices=("off", "bf16", "fp16"), default="off", help="compute in mixed precision")
    add("--tf32", action="store_true", help="let GPUs round float32 products to TF32: faster, 1e-3 relative error")
    add("--session_name", type=cli.plain_name, default=session_name, help="name of the run and its checkpoints")
    add("--checkpoint_dir", default="checkpoints", metavar="DIR", help="write checkpoints and log to DIR/SESSION_NAME")
    add("--log_dir", default="runs", metavar="DIR", help="write TensorBoard events to DIR/SESSION_NAME")
    add("--resume", nargs="?", const="latest", metavar="PATH", help="resume this session, or a state.pth or its folder")
    add("--save_every", type=count, default=0, metavar="N", help="also write the state for --resume every N steps")
    add("--vis_every", type=count, default=0, metavar="N", help=f"show {pictures} in TensorBoard every N steps")


def run(args: argparse.Namespace, make_task: Callable[[argparse.Namespace, torch.device], Task], remedy: str) -> None:
    """Train the task of `make_task(args, device)`; `remedy` helps against lack of memory. UserError: bad input or loss."""
    device, rank, world = distributed.setup(args.device)
    with shared_failure(), distributed.translate_errors(remedy):
        setup_precision(args.tf32)
        torch.manual_seed(args.seed)
        Training(args, make_task(args, device), device, rank, world).run()


class Training:
    """A run, whose batches are shared by `world` processes, of which this is `rank`. args: all flags of its script.

    Items become micro-batches in `_next`, gradients in `_backward`, and updates of the weights in `_train_step`.
    """

    def __init__(self, args: argparse.Namespace, task: Task, device: torch.device, rank: int, world: int) -> None:
        self.args, self.task, self.device, self.rank, self.world = args, task, device, rank, world
        self.accumulation_steps = task.accumulation_steps or args.batch_size // world
        self.micro_batch = args.batch_size // task.accumulation_steps if task.accumulation_steps else world
        if self.micro_batch * self.accumulation_steps != args.batch_size or self.micro_batch < world:
            shares = f"{world} processes with --iter_size {task.accumulation_steps or 1}"
            raise UserError(f"--batch_size {args.batch_size}: cannot be divided among {shares}. Change it.")
        if task.max_step == 0:
            raise UserError(f"--batch_size {args.batch_size}: larger than the number of {task.unit}. Lower it.")
        batch_norms = [module for module in task.net.modules() if isinstance(module, nn.BatchNorm2d)]
        self.norms = [norm for norm in batch_norms if norm.training]  # these learn
        # SyncBatchNorm supports GPUs only.
        shareable = device.type != "cpu" and all(type(norm) is nn.BatchNorm2d for norm in self.norms)
        if world > 1 and self.norms and not shareable:
            problem = "its batch norms learn, and need all photos of a step in one process"
            raise UserError(f"--network {args.network}: {problem}. Start it without torchrun.")
        self.settings = {name: getattr(args, name) for name in MUST_MATCH if hasattr(args, name)} | dict(task.settings)
        if names := getattr(task.net, "class_names", ()):
            self.settings["classes"] = list(names)
        self.skipped = 0  # updates, whose gradients overflowed in float16
        self.problem: str | None = None  # with the next step's photos
        self.scaler = torch.amp.GradScaler(device.type, enabled=args.amp == "fp16")
        self.parts = {"network": task.net, "optimizer": task.optimizer, "scaler": self.scaler}  # of the state
        self.session = Path(args.checkpoint_dir, args.session_name)
        on_main(lambda: checkpoint.lock_session(self.session))  # before the state in it is read
        state_path = on_main(lambda: checkpoint.find_state(args.resume, self.session)) if args.resume else None
        self.start, origin = 0, "random initial weights: no --weights, nothing to resume"
        if state_path:
            self.start = checkpoint.restore_state(state_path, self.settings, self.parts)
            unread = f", without reading --weights {args.weights}" if args.weights else ""
            origin = f"resumed {state_path} after step {self.start} of {task.max_step}{unread}"
        elif args.weights:
            origin = str(task.load_weights(task.net, args.weights))
        elif len(batch_norms) > len(self.norms):
            origin += ". With frozen batch norms they may diverge: give --weights."
        # The main process alone writes files.
        self.monitor = self._make_monitor(state_path, origin) if is_main_process() else None

    def _make_monitor(self, state_path: Path | None, origin: str) -> Monitor:
        """Prepare the run's folder and return its monitor, which has reported what will be trained."""
        args, task = self.args, self.task
        resumes = state_path is not None and state_path.parent.resolve() == self.session.resolve()
        events_dir = Path(args.log_dir, args.session_name)
        written = {**vars(args), **self.settings, "steps": task.max_step, "command": sys.argv}
        backup = checkpoint.prepare_session(self.session, events_dir, resumes, written)
        photos = len(task.data.ids_at(0)) * args.batch_size
        monitor = Monitor(self.session / "train.log", events_dir, self.start, task.max_step, photos)
        if backup:
            monitor.say(f"{self.session}: an earlier run is kept as {backup}. To resume it, use --resume {backup}.")
        monitor.say(distributed.describe(self.device, self.world))
        monitor.say(origin)
        if (getattr(args, "warmup_steps", None) or 0) > task.max_step:
            monitor.say(f"--warmup_steps {args.warmup_steps}: more than all steps, so --lr is never reached. Lower it.")
        steps = f"{counted(task.max_step, 'steps')} of {counted(args.batch_size, task.unit)}"
        monitor.say(f"{counted(len(task.data), task.unit)}, {steps}, checkpoints in {self.session}")
        return monitor

    def run(self) -> None:
        """Train all steps that are left."""
        task, args = self.task, self.args
        model, count = self._parallel_model(), self.accumulation_steps
        stop = task.max_step * count
        micro_batches = positions(self.start * count, stop, self.micro_batch, self.rank, self.world)
        self.source = batches(task.data, micro_batches, args.num_workers, self.device.type == "cuda")
        self.signals = checkpoint.catch_signals()
        with contextlib.closing(self.monitor) if self.monitor else contextlib.nullcontext():
            batch = self._next(self.start)
            self._end_if_agreed(self._all_reduce(torch.zeros((), device=self.device)).tolist()[1:], self.start)
            for step in range(self.start, task.max_step):
                lr = task.set_learning_rate(step)
                value, batch, flags = self._train_step(model, step, batch)
                if self.monitor:
                    self._report(self.monitor, step, value, lr)
                self._end_if_agreed(flags, step + 1)
            if self.monitor:
                path = self.session / f"{args.session_name}.pth"
                checkpoint.save_network(path, task.net)
                self.monitor.say(f"finished: {path}")
        distributed.cleanup()

    def _train_step(self, model: nn.Module, step: int, batch: list[Any]) -> tuple[float, list[Any], list[float]]:
        """Return the loss, the next step's micro-batches and the flags of `_all_reduce`.

        In float16, repeat the step with smaller scales of the loss until its gradients do not overflow.
        """
        following: list[Any] | None = None
        while True:
            loss = self._backward(model, step, batch)
            if following is None:
                following = self._next(step + 1)  # a GPU computes meanwhile
            outcome = self._all_reduce(loss)
            scale = self.scaler.get_scale()
            self.scaler.step(self.task.optimizer)
            self.scaler.update()
            value, *flags = outcome.tolist()  # the host waits for the GPU here alone
            if not math.isfinite(value):
                ids = " ".join(self.task.data.ids_at(step * self.args.batch_size))
                remedy = f"Lower --lr or check the weights; checkpoints in {self.session} are intact."
                raise UserError(f"the loss is {value} at step {step} ({ids}, ...). {remedy}")
            if self.scaler.get_scale() >= scale:
                return value, following, flags
            self.skipped += 1
            if scale < 1:
                raise UserError(f"--amp fp16: the gradients of step {step} overflow at any scale. Use --amp bf16.")

    def _backward(self, model: Any, step: int, batch: list[Any]) -> Tensor:
        """Compute the gradients of a step; return this rank's share of its loss."""
        distributed.seed_step(self.args.seed, step, self.rank)  # a resumed run repeats its dropout
        self.task.optimizer.zero_grad(set_to_none=True)  # the forward pass can use the gradients' memory
        loss = torch.zeros((), device=self.device)
        for number, micro_batch in enumerate(batch, 1):
            is_last = number == len(batch) or not isinstance(model, DistributedDataParallel)
            with contextlib.nullcontext() if is_last else model.no_sync():  # ranks exchange gradients in the last one
                share = self.task.loss(model, [tensor.to(self.device, non_blocking=True) for tensor in micro_batch])
                # DistributedDataParallel averages gradients over the ranks, hence `world`.
                self.scaler.scale(share * self.world).backward()
            loss += share.detach()
        return loss

    def _all_reduce(self, loss: Tensor) -> Tensor:
        """Return sums over the ranks: the loss, ranks that got a signal, ranks that cannot read their next photos."""
        flags = loss.new_tensor([bool(self.signals), self.problem is not None])
        return distributed.all_reduce_sum(torch.cat([loss[None], flags]))

    def _parallel_model(self) -> nn.Module:
        """Return the network in its precision, for this device, all GPUs, or a process group."""
        if self.world > 1:
            distributed.share_batch_norms(self.task.net, self.norms)
        model: nn.Module = Autocast(self.task.net, self.device, self.args.amp)
        if self.world > 1:
            with warnings.catch_warnings():  # PyTorch 2.15 renames broadcast_buffers, 2.11 lacks the new name
                warnings.simplefilter("ignore", FutureWarning)
                return DistributedDataParallel(model, broadcast_buffers=False, gradient_as_bucket_view=True)
        if self.args.device or "WORLD_SIZE" in os.environ or torch.cuda.device_count() < 2:
            return model
        if self.norms and self.monitor:
            self.monitor.say("one GPU: batch norms that learn need the whole batch. For several GPUs use torchrun.")
        return model if self.norms else nn.DataParallel(model)

    def _next(self, step: int) -> list[Any]:
        """Return the micro-batches of a step; keep the problem if its photos cannot be read."""
        try:
            if not self.signals and step < self.task.max_step:
                return [next(self.source) for _ in range(self.accumulation_steps)]
        except UserError as error:
            self.problem = str(error)
        return []

    def _end_if_agreed(self, flags: list[float], step: int) -> None:
        """End all ranks after `step` finished steps if the flags of `_all_reduce` say so and some steps are left."""
        if not any(flags) or step == self.task.max_step:
            return
        if self.monitor and step > 0:
            self._save(self.monitor, step)
        # A signal to the whole process group ends the processes that read photos, too.
        problem = None if flags[0] else next(filter(None, distributed.gather(self.problem)), None)
        if self.monitor and problem is None:
            self.monitor.say(f"stopped by a signal after step {step} of {self.task.max_step}. Rerun with --resume.")
        elif self.monitor:
            self.monitor.bar.close()  # its line ends
            print_error(f"{problem} (--resume continues after step {step})")
        distributed.cleanup()  # torchrun ends all processes as soon as one has left
        sys.exit(1 if problem else 128 + (self.signals[0] if self.signals else signal.SIGTERM))

    def _report(self, monitor: Monitor, step: int, value: float, lr: float) -> None:
        """Show a finished step; write pictures, checkpoint and state when they are due."""
        args, task, done = self.args, self.task, step + 1
        fp16 = f", scale {self.scaler.get_scale():g}, {counted(self.skipped, 'updates')} skipped"
        monitor.step(step, value, lr, fp16 if self.scaler.is_enabled() else "")
        if args.vis_every and (done % args.vis_every == 0 or done == task.max_step):
            monitor.pictures(step, task.pictures(task.net))
        if done in checkpoint.checkpoint_steps(task.max_step) or (args.save_every and done % args.save_every == 0):
            self._save(monitor, done)

    def _save(self, monitor: Monitor, step: int) -> None:
        """Write the state after `step` finished steps, and the checkpoint if it is due."""
        checkpoint.check_finite(self.task.net, step)
        monitor.flush()  # curves reach as far as the state
        if number := checkpoint.checkpoint_steps(self.task.max_step).get(step):
            checkpoint.save_network(self.session / f"{self.args.session_name}_{number:02d}.pth", self.task.net)
        checkpoint.save_state(self.session / checkpoint.STATE, step, self.settings, self.parts)
