"""The machinery of every training script: its common flags, and a run that resumes, is shared by processes, and is watched.

A script makes a `Task`: its network, its data, its loss. `run` trains it.
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
from tool.weight_file import read_torch_file

MUST_MATCH = (
    "network",
    "backbone",
    "output_stride",
    "batch_size",
    "lr",
    "wt_dec",
    "seed",
    "amp",
)  # flags that a resumed run has to share
GO_ON, STOP, FAIL = 0, 1, 2  # what the processes agree on before each step


class TrainingData(Dataset):
    """A map-style dataset over positions in the whole run: position p belongs to step p // batch_size."""

    def __getitem__(self, position: int) -> Any:
        """What one position holds, the same whenever it is asked for; UserError where it can't be read."""
        raise NotImplementedError

    def __len__(self) -> int:
        """Positions in one epoch."""
        raise NotImplementedError

    def names(self, position: int) -> str:
        """The photos of a position, for messages."""
        raise NotImplementedError


@dataclass
class Task:
    """What one script trains.

    net, optimizer: on the device of the run, the network in training mode.
    max_step: steps of the whole run.
    settings: what a resumed run has to share besides the flags of MUST_MATCH, JSON values.
    loss: (model, micro-batch on the device) -> this process's share of the step's loss: the shares add up to the loss over all
        micro-batches and processes.
    set_learning_rate: prepares the optimiser for a step and returns the learning rate to report.
    load_weights: loads a file of initial weights and returns the line to report.
    pictures: (network) -> (name, uint8 RGB (H, W, 3)) of each picture for --vis_every.
    unit: what the data and batches are counted in. photos: in one of these.
    parts: micro-batches of a step.
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
    photos: int = 1
    parts: int = 1


def add_flags(parser: argparse.ArgumentParser, session_name: str, pictures: str) -> None:
    """Add the flags that all training scripts share. pictures: what --vis_every shows."""
    add, count = parser.add_argument, cli.count()
    add("--wt_dec", type=cli.number(float, 0), default=5e-4, help="weight decay")
    add("--seed", type=count, default=0, help="of initial weights, augmentation and dropout")
    workers = "processes that read and augment photos, per training process; 0: none"
    add("--num_workers", type=count, default=min(8, distributed.cores()), help=workers)
    add("--device", help="cpu, cuda or cuda:N; otherwise every visible GPU, or the CPU")
    add("--amp", choices=("off", "bf16", "fp16"), default="off", help="compute in mixed precision")
    add("--tf32", action="store_true", help="let GPUs round float32 products to TF32: faster, 1e-3 relative error")
    name = "name of the run, of its folder and checkpoints"
    add("--session_name", type=cli.plain_name, default=session_name, help=name)
    folder = "a run's checkpoints, settings and log go to DIR/SESSION_NAME"
    add("--checkpoint_dir", default="checkpoints", metavar="DIR", help=folder)
    add("--log_dir", default="runs", metavar="DIR", help="TensorBoard events go to DIR/SESSION_NAME")
    resume = "go on with an interrupted run: the session's own, or a state.pth or a run's folder"
    add("--resume", nargs="?", const="latest", metavar="PATH", help=resume)
    save = "write the state to resume from every N steps, not only at the 25 checkpoints and when stopped"
    add("--save_every", type=count, default=0, metavar="N", help=save)
    vis = f"every N steps show {pictures} of a few photos in TensorBoard; 0: never"
    add("--vis_every", type=count, default=0, metavar="N", help=vis)


def run(args: argparse.Namespace, make_task: Callable[[argparse.Namespace, torch.device], Task], remedy: str) -> None:
    """Train what `make_task(args, device)` makes. remedy: against lack of memory. UserError: bad input, a loss that is not finite."""
    device, rank, world = distributed.setup(args.device)
    with distributed.translate_errors(remedy):
        setup_precision(args.tf32)
        if rank == 0:
            warn_of_emulation(device, args.amp)
        torch.manual_seed(args.seed)
        Training(args, make_task(args, device), device, rank, world).run()
    distributed.cleanup()


class Training:
    """One run: each step's batch is shared by `world` processes, of which this is `rank`.

    args: the flags of `add_flags` with network, weights, batch_size, lr.
    """

    def __init__(self, args: argparse.Namespace, task: Task, device: torch.device, rank: int, world: int) -> None:
        self.args, self.task, self.device, self.rank, self.world = args, task, device, rank, world
        self.micro_batches = task.parts
        if args.batch_size < world * self.micro_batches:
            parts = f" x {self.micro_batches} parts (--iter_size)" if self.micro_batches > 1 else ""
            raise UserError(f"--batch_size {args.batch_size} is less than {world} processes{parts}; raise it")
        settings = {name: getattr(args, name) for name in MUST_MATCH if hasattr(args, name)} | dict(task.settings)
        if names := getattr(task.net, "class_names", ()):
            settings["classes"] = list(names)
        self.scaler = torch.amp.GradScaler(device.type, enabled=args.amp == "fp16")
        self.state = checkpoint.TrainingState(task.net, task.optimizer, self.scaler, settings)
        self.session = Path(args.checkpoint_dir, args.session_name)
        state_path = checkpoint.find_state(args.resume, self.session) if args.resume else None
        self.start, origin = self._initialise(state_path)
        self.numbers = checkpoint.checkpoint_steps(task.max_step)
        self.monitor: Monitor | None = None
        if rank == 0:  # one process writes
            continues = state_path is not None and state_path.parent.resolve() == self.session.resolve()
            self.monitor = Monitor(args, self.session, continues, self.start, task.max_step, task.photos)
            written = {**vars(args), **settings, "steps": task.max_step, "command": sys.argv}
            checkpoint.prepare_session(self.session, written)
            self.monitor.say(distributed.describe(device, world))
            self.monitor.say(origin)
            steps = f"{counted(task.max_step, 'steps')} of {counted(args.batch_size, task.unit)}"
            self.monitor.say(f"{counted(len(task.data), task.unit)}, {steps}, checkpoints in {self.session}")

    def run(self) -> None:
        """All steps that are left."""
        task, args = self.task, self.args
        model, source = self._parallel_model(), self._batches()
        self.signals = checkpoint.catch_signals()
        with contextlib.closing(self.monitor) if self.monitor else contextlib.nullcontext():
            for step in range(self.start, task.max_step):
                batch = self._next(source, step)
                lr = task.set_learning_rate(step)
                distributed.seed_step(args.seed, step, self.rank)  # dropout depends on these alone: resuming repeats it
                task.optimizer.zero_grad(set_to_none=True)  # the forward pass can use the gradients' memory
                loss = torch.zeros((), device=self.device)
                for number, micro_batch in enumerate(batch, 1):
                    with distributed.accumulating(model, until=number == len(batch)):
                        share = task.loss(model, [tensor.to(self.device, non_blocking=True) for tensor in micro_batch])
                        # DistributedDataParallel averages the processes' gradients, hence `world`.
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
                checkpoint.save_network(self.session / f"{args.session_name}.pth", task.net, task.max_step)
                self.monitor.say(f"finished: {self.session / args.session_name}.pth")
        distributed.barrier()

    def _initialise(self, state_path: Path | None) -> tuple[int, str]:
        """Load the state to resume from or the initial weights; the first step, and what to say about it."""
        start, origin = 0, "no --weights and nothing to resume: starts from random weights"
        if state_path:
            start = self.state.restore(read_torch_file(state_path), state_path, self.task.max_step)
            origin = f"resumed {state_path} after step {start} of {self.task.max_step}"
        elif self.args.weights:
            origin = str(self.task.load_weights(self.args.weights))
        if len(set(starts := distributed.gather(start))) > 1:
            raise UserError(
                f"--resume: the processes found states after steps {sorted(set(starts))}; "
                "put --checkpoint_dir on a disk that all machines see"
            )
        return start, origin

    def _parallel_model(self) -> nn.Module:
        """The network as the training calls it: in its precision, on one device, on all GPUs, or beside other processes."""
        model: nn.Module = Autocast(self.task.net, self.device, self.args.amp)
        if self.world > 1:
            with warnings.catch_warnings():  # of PyTorch 2.15: its new name for broadcast_buffers is unknown to 2.11
                warnings.simplefilter("ignore", FutureWarning)
                return DistributedDataParallel(model, broadcast_buffers=False, gradient_as_bucket_view=True)
        if self.device.type == "cuda" and self.args.device is None and torch.cuda.device_count() > 1:
            return nn.DataParallel(model)
        return model

    def _batches(self) -> Iterator[Any]:
        """This process's micro-batches of all steps that are left."""
        micro, size = self.micro_batches, self.args.batch_size // self.micro_batches
        steps = StepBatches(self.start * micro, self.task.max_step * micro, size, self.rank, self.world)
        return batches(make_loader(self.task.data, steps, self.args.num_workers, self.device.type == "cuda"))

    def _next(self, source: Iterator[Any], step: int) -> list[Any]:
        """The micro-batches of a step. Ends the run, in all processes, if one was stopped or could not read its photos."""
        problem, batch = None, []
        try:
            if not self.signals:
                batch = [next(source) for _ in range(self.micro_batches)]
        except UserError as error:
            problem = str(error)
        decision = distributed.all_reduce_max(STOP if self.signals else FAIL if problem else GO_ON, self.device)
        if decision != GO_ON:
            self._end(decision, problem, step)
        return batch

    def _end(self, decision: int, problem: str | None, step: int) -> NoReturn:
        if self.monitor and step > 0:
            self._save_state(step)
        problems = [text for text in distributed.gather(problem) if text]
        if self.monitor and decision == STOP:
            self.monitor.say(f"stopped by a signal after step {step} of {self.task.max_step}; --resume goes on")
        if self.monitor and decision == FAIL:  # if stopped, the loader's processes were ended as well
            kept = f" (--resume goes on after step {step})" if step > 0 else ""
            self.monitor.bar.close()  # its line ends
            print_error(f"{problems[0]}{kept}")
        distributed.barrier()  # torchrun ends all processes as soon as one has left
        sys.exit(1 if decision == FAIL else 128 + (self.signals[0] if self.signals else signal.SIGTERM))

    def _diverged(self, value: float, step: int) -> NoReturn:
        if self.rank > 0:
            sys.exit(1)  # the first process reports it
        raise UserError(
            f"the loss is {value} at step {step} ({self.task.data.names(step * self.args.batch_size)}, ...): "
            f"lower --lr or check the weights; what was saved in {self.session} is intact"
        )

    def _report(self, monitor: Monitor, step: int, value: float, lr: float) -> None:
        """Show a finished step; write pictures, checkpoint and state where they are due."""
        args, task, numbers, done = self.args, self.task, self.numbers, step + 1
        monitor.step(step, value, lr)
        if args.vis_every and (done % args.vis_every == 0 or done == task.max_step):
            monitor.pictures(step, task.pictures(task.net))
        if done in numbers:
            checkpoint.save_network(self.session / f"{args.session_name}_{numbers[done]:02d}.pth", task.net, done)
        if done in numbers or (args.save_every and done % args.save_every == 0):
            self._save_state(done)

    def _save_state(self, step: int) -> None:
        checkpoint.check_finite(self.task.net, step)
        if self.monitor:
            self.monitor.flush()  # the curves reach as far as the state
        self.state.save(self.session / checkpoint.STATE, step)
