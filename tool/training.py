"""Training loop shared by all scripts: flags, resuming, multi-process training, logging.

A script makes a `Task`: its network, its data, its loss. `run` trains it.
"""

import argparse
import contextlib
import math
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Dataset

from tool import checkpoint, cli, distributed
from tool.cli import UserError, counted, print_error
from tool.loading import StepBatches, batches, make_loader
from tool.monitor import Monitor
from tool.precision import Autocast, setup_precision, warn_of_emulation
from tool.ranks import is_main_process

# Flags that a resumed run must share with the interrupted one.
MUST_MATCH = ("network", "backbone", "output_stride", "batch_size", "lr", "wt_dec", "seed", "amp")
TRAIN, STOP, FAIL = 0, 1, 2  # what the ranks agree on before each step


class TrainingData(Dataset):
    """A map-style dataset over positions in the whole run: position p belongs to step p // batch_size.

    `data[position]` are tensors that depend on the seed and the position alone, so that a resumed run repeats them.
    """

    def __len__(self) -> int:
        """Return the number of positions in an epoch."""
        raise NotImplementedError

    def ids_at(self, position: int) -> Sequence[str]:
        """Return the ids of the photos at a position."""
        raise NotImplementedError


@dataclass
class Task:
    """A network, its data and its loss.

    Args:
        net: network in training mode, on the run's device.
        optimizer: its optimizer.
        data: its dataset.
        max_step: steps of the whole run.
        settings: JSON values that a resumed run must share with the interrupted one, besides MUST_MATCH.
        loss: (model, micro-batch on the device) -> this share of the step's loss; all shares, of every micro-batch and
            rank, add up to it.
        set_learning_rate: prepares the optimizer for a step and returns the learning rate to report.
        load_weights: loads a file of initial weights and returns a line to report.
        pictures: (network) -> pictures for --vis_every: (name, uint8 RGB (H, W, 3)).
        unit: plural of what batches consist of.
        photos_per_unit: photos in each.
        accumulation_steps: micro-batches per step.
    """

    net: nn.Module
    optimizer: torch.optim.Optimizer
    data: TrainingData
    max_step: int
    settings: Mapping[str, Any]
    loss: Callable[[nn.Module, Any], Tensor]
    set_learning_rate: Callable[[int], float]
    load_weights: Callable[[str], object]
    pictures: Callable[[nn.Module], Iterable[tuple[str, np.ndarray]]]
    unit: str = "photos"
    photos_per_unit: int = 1
    accumulation_steps: int = 1


def add_flags(parser: argparse.ArgumentParser, session_name: str, pictures: str) -> None:
    """Add the flags that all training scripts share. pictures: words for what --vis_every shows."""
    add, count = parser.add_argument, cli.count()
    add("--wt_dec", type=cli.number(float, 0), default=5e-4, help="weight decay")
    add("--seed", type=count, default=0, help="seed of initial weights, augmentation and dropout")
    workers = "processes per rank that read and augment photos; 0: none"
    add("--num_workers", type=count, default=min(8, distributed.cores()), help=workers)
    add("--device", help="cpu, cuda or cuda:N; default: every visible GPU, or the CPU")
    add("--amp", choices=("off", "bf16", "fp16"), default="off", help="compute in mixed precision")
    add("--tf32", action="store_true", help="let GPUs round float32 products to TF32: faster, 1e-3 relative error")
    name = "name of the run, its folder and its checkpoints"
    add("--session_name", type=cli.plain_name, default=session_name, help=name)
    folder = "write checkpoints, settings and log to DIR/SESSION_NAME"
    add("--checkpoint_dir", default="checkpoints", metavar="DIR", help=folder)
    add("--log_dir", default="runs", metavar="DIR", help="write TensorBoard events to DIR/SESSION_NAME")
    resume = "resume an interrupted run: the session's own, or that of a state.pth or a run's folder"
    add("--resume", nargs="?", const="latest", metavar="PATH", help=resume)
    save = "write the state to resume from every N steps, besides the 25 checkpoints and when stopped"
    add("--save_every", type=count, default=0, metavar="N", help=save)
    vis = f"show {pictures} of a few photos in TensorBoard every N steps; 0: never"
    add("--vis_every", type=count, default=0, metavar="N", help=vis)


def run(args: argparse.Namespace, make_task: Callable[[argparse.Namespace, torch.device], Task], remedy: str) -> None:
    """Train the task of `make_task(args, device)`. UserError: bad input, or a loss that is not finite.

    remedy: what to do against lack of memory.
    """
    device, rank, world = distributed.setup(args.device)
    with distributed.translate_errors(remedy):
        setup_precision(args.tf32)
        if is_main_process():
            warn_of_emulation(device, args.amp)
        torch.manual_seed(args.seed)
        Training(args, make_task(args, device), device, rank, world).run()
    distributed.cleanup()


class Training:
    """A run, whose batches are shared by `world` processes, of which this is `rank`.

    args: flags of `add_flags`, with network, weights, batch_size, lr.
    """

    def __init__(self, args: argparse.Namespace, task: Task, device: torch.device, rank: int, world: int) -> None:
        self.args, self.task, self.device, self.rank, self.world = args, task, device, rank, world
        if args.batch_size < world * task.accumulation_steps:
            needed = f"{world} processes x {task.accumulation_steps} micro-batches (--iter_size)"
            raise UserError(f"--batch_size {args.batch_size}: too small for {needed}. Raise it.")
        settings = {name: getattr(args, name) for name in MUST_MATCH if hasattr(args, name)} | dict(task.settings)
        if names := getattr(task.net, "class_names", ()):
            settings["classes"] = list(names)
        self.scaler = torch.amp.GradScaler(device.type, enabled=args.amp == "fp16")
        self.state = checkpoint.TrainingState(task.net, task.optimizer, self.scaler, settings)
        self.session = Path(args.checkpoint_dir, args.session_name)
        state_path = checkpoint.find_state(args.resume, self.session) if args.resume else None
        self.start, origin = self._initialise(state_path)
        self.checkpoint_numbers = checkpoint.checkpoint_steps(task.max_step)
        self.monitor: Monitor | None = None  # the main process alone writes files
        if is_main_process():
            resumes = state_path is not None and state_path.parent.resolve() == self.session.resolve()
            self.monitor = Monitor(args, self.session, resumes, self.start, task.max_step, task.photos_per_unit)
            written = {**vars(args), **settings, "steps": task.max_step, "command": sys.argv}
            checkpoint.prepare_session(self.session, written)
            self.monitor.say(distributed.describe(device, world))
            self.monitor.say(origin)
            steps = f"{counted(task.max_step, 'steps')} of {counted(args.batch_size, task.unit)}"
            self.monitor.say(f"{counted(len(task.data), task.unit)}, {steps}, checkpoints in {self.session}")

    def run(self) -> None:
        """Train all steps that are left."""
        task, args = self.task, self.args
        model, source = self._parallel_model(), self._batches()
        self.signals = checkpoint.catch_signals()
        with contextlib.closing(self.monitor) if self.monitor else contextlib.nullcontext():
            for step in range(self.start, task.max_step):
                batch = self._next(source, step)
                lr = task.set_learning_rate(step)
                distributed.seed_step(args.seed, step, self.rank)  # a resumed run repeats its dropout
                task.optimizer.zero_grad(set_to_none=True)  # the forward pass can use the gradients' memory
                loss = torch.zeros((), device=self.device)
                for number, micro_batch in enumerate(batch, 1):
                    with distributed.accumulating(model, until=number == len(batch)):
                        share = task.loss(model, [tensor.to(self.device, non_blocking=True) for tensor in micro_batch])
                        # DistributedDataParallel averages gradients over the ranks, hence `world`.
                        self.scaler.scale(share * self.world).backward()
                    loss += share.detach()
                value = float(distributed.all_reduce_sum(loss))
                if not math.isfinite(value):
                    self._diverged(value, step)
                self.scaler.step(task.optimizer)
                self.scaler.update()
                if self.monitor:
                    self._report(self.monitor, step, value, lr)
            if self.monitor:
                path = self.session / f"{args.session_name}.pth"
                checkpoint.save_network(path, task.net, task.max_step)
                self.monitor.say(f"finished: {path}")
        distributed.barrier()

    def _initialise(self, state_path: Path | None) -> tuple[int, str]:
        """Load the state or the initial weights; return the first step and a line to report."""
        start, origin = 0, "random initial weights: no --weights, nothing to resume"
        if state_path:
            start = self.state.restore(state_path, self.task.max_step)
            origin = f"resumed {state_path} after step {start} of {self.task.max_step}"
        elif self.args.weights:
            origin = str(self.task.load_weights(self.args.weights))
        if len(starts := set(distributed.gather(start))) > 1:
            raise UserError(
                f"--resume: the ranks found states after steps {sorted(starts)}. "
                "Put --checkpoint_dir on a disk that all machines share."
            )
        return start, origin

    def _parallel_model(self) -> nn.Module:
        """Return the network in its precision, for this device, all GPUs, or a process group."""
        model: nn.Module = Autocast(self.task.net, self.device, self.args.amp)
        if self.world > 1:
            with warnings.catch_warnings():  # PyTorch 2.15 renames broadcast_buffers, 2.11 lacks the new name
                warnings.simplefilter("ignore", FutureWarning)
                return DistributedDataParallel(model, broadcast_buffers=False, gradient_as_bucket_view=True)
        if self.device.type == "cuda" and self.args.device is None and torch.cuda.device_count() > 1:
            return nn.DataParallel(model)
        return model

    def _batches(self) -> Iterator[Any]:
        """Return this rank's micro-batches of all steps that are left."""
        count, size = self.task.accumulation_steps, self.args.batch_size // self.task.accumulation_steps
        steps = StepBatches(self.start * count, self.task.max_step * count, size, self.rank, self.world)
        return batches(make_loader(self.task.data, steps, self.args.num_workers, self.device.type == "cuda"))

    def _next(self, source: Iterator[Any], step: int) -> list[Any]:
        """Return the step's micro-batches; end all ranks if one got a signal or could not read its photos."""
        problem, batch = None, []
        try:
            if not self.signals:
                batch = [next(source) for _ in range(self.task.accumulation_steps)]
        except UserError as error:
            problem = str(error)
        decision = distributed.all_reduce_max(STOP if self.signals else FAIL if problem else TRAIN, self.device)
        if decision != TRAIN:
            self._end(decision, problem, step)
        return batch

    def _end(self, decision: int, problem: str | None, step: int) -> NoReturn:
        if self.monitor and step > 0:
            self._save_state(step)
        problems = [text for text in distributed.gather(problem) if text]
        if self.monitor and decision == STOP:
            self.monitor.say(f"stopped by a signal after step {step} of {self.task.max_step}. Rerun with --resume.")
        if self.monitor and decision == FAIL:
            saved = f" (--resume continues after step {step})" if step > 0 else ""
            self.monitor.bar.close()  # its line ends
            print_error(f"{problems[0]}{saved}")
        distributed.barrier()  # torchrun ends all processes as soon as one has left
        sys.exit(1 if decision == FAIL else 128 + (self.signals[0] if self.signals else signal.SIGTERM))

    def _diverged(self, value: float, step: int) -> NoReturn:
        if not is_main_process():
            sys.exit(1)  # the main process reports it
        ids = " ".join(self.task.data.ids_at(step * self.args.batch_size))
        raise UserError(
            f"the loss is {value} at step {step} ({ids}, ...). "
            f"Lower --lr or check the weights; checkpoints in {self.session} are intact."
        )

    def _report(self, monitor: Monitor, step: int, value: float, lr: float) -> None:
        """Show a finished step; write pictures, checkpoint and state when they are due."""
        args, task, done = self.args, self.task, step + 1
        monitor.step(step, value, lr)
        if args.vis_every and (done % args.vis_every == 0 or done == task.max_step):
            monitor.pictures(step, task.pictures(task.net))
        number = self.checkpoint_numbers.get(done)
        if number:
            checkpoint.save_network(self.session / f"{args.session_name}_{number:02d}.pth", task.net, done)
        if number or (args.save_every and done % args.save_every == 0):
            self._save_state(done)

    def _save_state(self, step: int) -> None:
        checkpoint.check_finite(self.task.net, step)
        if self.monitor:
            self.monitor.flush()  # curves reach as far as the state
        self.state.save(self.session / checkpoint.STATE, step)
