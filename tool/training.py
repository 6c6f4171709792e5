"""Training loop shared by all scripts: flags, resuming, multi-process training, logging.

A script makes a `Task`: its network, its data, its loss. `run` trains it: items of the data become micro-batches in
`Training._next`, gradients in `_backward`, and updates of the weights in `_train_step`.
"""

import argparse
import contextlib
import math
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
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
from tool.precision import Autocast, setup_precision, warn_of_emulation
from tool.processes import cores, is_main_process, on_main, shared_failure

# Flags of the scripts that a resumed run must share with the interrupted one.
MUST_MATCH: tuple[str, ...] = ("network", "backbone", "output_stride", "batch_size", "lr", "wt_dec", "seed", "amp")
MUST_MATCH += ("max_epoches", "max_iters", "warmup_steps", "iter_size", "crop_size", "long_side", "attn_dropout")
MUST_MATCH += ("freeze_backbone", "freeze_bn", "balanced_loss", "adamw")


@dataclass
class Task:
    """A network, its data and its loss.

    `data` is a map-style dataset over positions in the whole run: position p belongs to step p // batch_size. Tensors at a
    position depend on the seed and the position alone, so that a resumed run repeats them. `data.ids_at(position)` are the
    ids of its photos, and its length is that of an epoch.
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
    workers = "processes per rank that read and augment photos; 0: none"
    add("--num_workers", type=count, default=min(8, cores()), help=workers)
    device = "cpu, cuda (one GPU) or cuda:N; default: all visible GPUs (torchrun: one per process) or the CPU"
    add("--device", help=device)
    add("--amp", choices=("off", "bf16", "fp16"), default="off", help="compute in mixed precision")
    add("--tf32", action="store_true", help="let GPUs round float32 products to TF32: faster, 1e-3 relative error")
    name = "name of the run, its folder and its checkpoints"
    add("--session_name", type=cli.plain_name, default=session_name, help=name)
    folder = "write checkpoints, settings and log to DIR/SESSION_NAME"
    add("--checkpoint_dir", default="checkpoints", metavar="DIR", help=folder)
    add("--log_dir", default="runs", metavar="DIR", help="write TensorBoard events to DIR/SESSION_NAME")
    resume = "resume this session or, with PATH, the run of that state.pth or folder"
    add("--resume", nargs="?", const="latest", metavar="PATH", help=resume)
    save = "also write the state to resume from every N steps; always: at the 25 checkpoints and when stopped"
    add("--save_every", type=count, default=0, metavar="N", help=save)
    vis = f"show {pictures} of a few photos in TensorBoard every N steps; 0: never"
    add("--vis_every", type=count, default=0, metavar="N", help=vis)


def run(args: argparse.Namespace, make_task: Callable[[argparse.Namespace, torch.device], Task], remedy: str) -> None:
    """Train the task of `make_task(args, device)`. UserError: bad input, or a loss that is not finite.

    remedy: what to do against lack of memory.
    """
    if args.batch_size % (iter_size := getattr(args, "iter_size", 1)):
        raise UserError(f"--batch_size {args.batch_size}: not a multiple of --iter_size {iter_size}. Change one.")
    device, rank, world = distributed.setup(args.device)
    with shared_failure(), distributed.translate_errors(remedy):
        setup_precision(args.tf32)
        if is_main_process():
            warn_of_emulation(device, args.amp)
        torch.manual_seed(args.seed)
        Training(args, make_task(args, device), device, rank, world).run()
    distributed.cleanup()


class Training:
    """A run, whose batches are shared by `world` processes, of which this is `rank`. args: all flags of its script."""

    def __init__(self, args: argparse.Namespace, task: Task, device: torch.device, rank: int, world: int) -> None:
        self.args, self.task, self.device, self.rank, self.world = args, task, device, rank, world
        if task.accumulation_steps is None and args.batch_size % world:
            raise UserError(f"--batch_size {args.batch_size}: not a multiple of {world} processes. Change one.")
        self.accumulation_steps = task.accumulation_steps or args.batch_size // world
        if args.batch_size < world * self.accumulation_steps:
            needed = f"{world} processes x {self.accumulation_steps} micro-batches (--iter_size)"
            raise UserError(f"--batch_size {args.batch_size}: too small for {needed}. Raise it.")
        batch_norms = [module for module in task.net.modules() if isinstance(module, nn.BatchNorm2d)]
        self.norms = [norm for norm in batch_norms if norm.training]  # these learn
        # SyncBatchNorm is there on GPUs alone.
        shareable = device.type != "cpu" and all(type(norm) is nn.BatchNorm2d for norm in self.norms)
        if world > 1 and self.norms and not shareable:
            problem = "its batch norms learn, and need all photos of a step in one process"
            raise UserError(f"--network {args.network}: {problem}. Start it without torchrun.")
        settings = {name: getattr(args, name) for name in MUST_MATCH if hasattr(args, name)} | dict(task.settings)
        if names := getattr(task.net, "class_names", ()):
            settings["classes"] = list(names)
        self.skipped = 0  # updates, whose gradients overflowed in float16
        self.problem: str | None = None  # with the next step's photos
        self.scaler = torch.amp.GradScaler(device.type, enabled=args.amp == "fp16")
        self.state = checkpoint.TrainingState(settings, network=task.net, optimizer=task.optimizer, scaler=self.scaler)
        self.session = Path(args.checkpoint_dir, args.session_name)
        on_main(lambda: checkpoint.lock_session(self.session))  # before the state in it is read
        state_path = checkpoint.find_state(args.resume, self.session) if args.resume else None
        self.start, origin = self._initialise(state_path, frozen=len(batch_norms) > len(self.norms))
        self.monitor: Monitor | None = None  # the main process alone writes files
        if is_main_process():
            resumes = state_path is not None and state_path.parent.resolve() == self.session.resolve()
            photos = len(task.data.ids_at(0))  # at each position
            self.monitor = Monitor(args, self.session, resumes, self.start, task.max_step, photos)
            written = {**vars(args), **settings, "steps": task.max_step, "command": sys.argv}
            checkpoint.prepare_session(self.session, written)
            self.monitor.say(distributed.describe(device, world))
            self.monitor.say(origin)
            steps = f"{counted(task.max_step, 'steps')} of {counted(args.batch_size, task.unit)}"
            self.monitor.say(f"{counted(len(task.data), task.unit)}, {steps}, checkpoints in {self.session}")

    def run(self) -> None:
        """Train all steps that are left."""
        task, args = self.task, self.args
        model, count = self._parallel_model(), self.accumulation_steps
        size, stop = args.batch_size // count, task.max_step * count
        micro_batches = positions(self.start * count, stop, size, self.rank, self.world)
        source = batches(task.data, micro_batches, args.num_workers, self.device.type == "cuda")
        self.signals = checkpoint.catch_signals()
        with contextlib.closing(self.monitor) if self.monitor else contextlib.nullcontext():
            batch = self._next(source, self.start)
            self._end_if_agreed(self._all_reduce(torch.zeros((), device=self.device)).tolist()[1:], self.start)
            for step in range(self.start, task.max_step):
                lr = task.set_learning_rate(step)
                value, batch, flags = self._train_step(model, step, batch, source)
                if self.monitor:
                    self._report(self.monitor, step, value, lr)
                self._end_if_agreed(flags, step + 1)
            if self.monitor:
                path = self.session / f"{args.session_name}.pth"
                checkpoint.save_network(path, task.net, task.max_step)
                self.monitor.say(f"finished: {path}")
        distributed.barrier()

    def _train_step(
        self, model: nn.Module, step: int, batch: list[Any], source: Iterator[Any]
    ) -> tuple[float, list[Any], list[float]]:
        """Return the loss, the next step's micro-batches and the flags of `_all_reduce`.

        In float16, repeat the step with smaller scales of the loss until its gradients do not overflow.
        """
        following: list[Any] | None = None
        while True:
            loss = self._backward(model, step, batch)
            if following is None:
                following = self._next(source, step + 1)  # a GPU computes meanwhile
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

    def _backward(self, model: nn.Module, step: int, batch: list[Any]) -> Tensor:
        """Compute the gradients of a step; return this rank's share of its loss."""
        distributed.seed_step(self.args.seed, step, self.rank)  # a resumed run repeats its dropout
        self.task.optimizer.zero_grad(set_to_none=True)  # the forward pass can use the gradients' memory
        loss = torch.zeros((), device=self.device)
        for number, micro_batch in enumerate(batch, 1):
            exchanging: contextlib.AbstractContextManager = contextlib.nullcontext()
            if isinstance(model, DistributedDataParallel) and number < len(batch):
                exchanging = model.no_sync()  # ranks exchange gradients in the last micro-batch
            with exchanging:
                share = self.task.loss(model, [tensor.to(self.device, non_blocking=True) for tensor in micro_batch])
                # DistributedDataParallel averages gradients over the ranks, hence `world`.
                self.scaler.scale(share * self.world).backward()
            loss += share.detach()
        return loss

    def _all_reduce(self, loss: Tensor) -> Tensor:
        """Return sums over the ranks: the loss, ranks that got a signal, ranks that cannot read their next photos."""
        flags = loss.new_tensor([bool(self.signals), self.problem is not None])
        return distributed.all_reduce_sum(torch.cat([loss[None], flags]))

    def _initialise(self, state_path: Path | None, frozen: bool) -> tuple[int, str]:
        """Load the state or the initial weights; return the first step and a line to report."""
        start, origin = 0, "random initial weights: no --weights, nothing to resume"
        if state_path:
            start = self.state.restore(state_path)
            origin = f"resumed {state_path} after step {start} of {self.task.max_step}"
        elif self.args.weights:
            origin = str(self.task.load_weights(self.task.net, self.args.weights))
        elif frozen:
            origin += ". With frozen batch norms they may diverge: give --weights."
        if len(starts := set(distributed.gather(start))) > 1:
            remedy = "Put --checkpoint_dir on a disk that all machines share."
            raise UserError(f"--resume: the ranks found states after steps {sorted(starts)}. {remedy}")
        return start, origin

    def _parallel_model(self) -> nn.Module:
        """Return the network in its precision, for this device, all GPUs, or a process group."""
        if self.world > 1:
            distributed.share_batch_norms(self.task.net, self.norms)
        model: nn.Module = Autocast(self.task.net, self.device, self.args.amp)
        if self.world > 1:
            with warnings.catch_warnings():  # PyTorch 2.15 renames broadcast_buffers, 2.11 lacks the new name
                warnings.simplefilter("ignore", FutureWarning)
                return DistributedDataParallel(model, broadcast_buffers=False, gradient_as_bucket_view=True)
        if not distributed.uses_all_gpus(self.args.device):
            return model
        if self.norms and self.monitor:
            self.monitor.say("one GPU: batch norms that learn need the whole batch. For several GPUs use torchrun.")
        return model if self.norms else nn.DataParallel(model)

    def _next(self, source: Iterator[Any], step: int) -> list[Any]:
        """Return the micro-batches of a step; keep the problem if its photos cannot be read."""
        try:
            if not self.signals and step < self.task.max_step:
                return [next(source) for _ in range(self.accumulation_steps)]
        except UserError as error:
            self.problem = str(error)
        return []

    def _end_if_agreed(self, flags: list[float], step: int) -> None:
        """End all ranks after `step` finished steps if the flags of `_all_reduce` say so and some steps are left."""
        if not any(flags) or step == self.task.max_step:
            return
        if self.monitor and step > 0:
            self._save_state(step)
        # A signal to the whole process group ends the processes that read photos, too.
        problem = None if flags[0] else next(filter(None, distributed.gather(self.problem)), None)
        if self.monitor and problem is None:
            self.monitor.say(f"stopped by a signal after step {step} of {self.task.max_step}. Rerun with --resume.")
        elif self.monitor:
            saved = f" (--resume continues after step {step})" if step > 0 else ""
            self.monitor.bar.close()  # its line ends
            print_error(f"{problem}{saved}")
        distributed.barrier()  # torchrun ends all processes as soon as one has left
        sys.exit(1 if problem else 128 + (self.signals[0] if self.signals else signal.SIGTERM))

    def _report(self, monitor: Monitor, step: int, value: float, lr: float) -> None:
        """Show a finished step; write pictures, checkpoint and state when they are due."""
        args, task, done = self.args, self.task, step + 1
        fp16 = f", scale {self.scaler.get_scale():g}, {counted(self.skipped, 'updates')} skipped"
        monitor.step(step, value, lr, fp16 if self.scaler.is_enabled() else "")
        if args.vis_every and (done % args.vis_every == 0 or done == task.max_step):
            monitor.pictures(step, task.pictures(task.net))
        number = checkpoint.checkpoint_steps(task.max_step).get(done)
        if number:
            checkpoint.save_network(self.session / f"{args.session_name}_{number:02d}.pth", task.net, done)
        if number or (args.save_every and done % args.save_every == 0):
            self._save_state(done)

    def _save_state(self, step: int) -> None:
        checkpoint.check_finite(self.task.net, step)
        if self.monitor:
            self.monitor.flush()  # curves reach as far as the state
        self.state.save(self.session / checkpoint.STATE, step)
