"""How to measure time and memory, how much work a network is, and how fast this machine convolves: what benchmark.py stands on."""

import multiprocessing
import os
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from network import make_net
from network.segmentation_loss import multi_scale_loss
from pseudo_label.class_maps import SCALES
from pseudo_label.segmentation import probabilities
from tool import distributed
from tool.cli import UserError
from tool.memory import MAXRSS_UNIT
from tool.optim import make_sgd
from tool.precision import AMP_DTYPES, autocast, inference_form, setup_precision, training_form

_T = TypeVar("_T")


class Timer:
    """Median wall time of calls, the device's work included; the first call only warms up."""

    def __init__(self, device: torch.device, repeat: int) -> None:
        self.device, self.repeat = device, repeat

    def __call__(self, call: Callable[[], object]) -> float:
        times = []
        for _ in range(self.repeat + 1):
            started = time.perf_counter()
            call()
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - started)
        return float(np.median(times[1:]))


def in_child(function: Callable[..., _T], *args: object) -> _T:
    """Call a function in a process of its own, so that its peak memory is its own."""
    try:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            return pool.submit(function, *args).result()
    except BrokenProcessPool as error:
        raise UserError("a process that measures was killed; memory may be full") from error


def time_script(script: str, words: list[str], folder: Path) -> tuple[float, int]:
    """Seconds and peak resident memory (bytes) of a script of ours that runs in a folder. UserError: it failed."""
    started = time.perf_counter()
    with open(folder / "log.txt", "w+") as log:
        command = [sys.executable, str(Path(__file__).with_name(script)), *words]
        child = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
        _, status, usage = os.wait4(child.pid, 0)
        if status:
            log.seek(0)
            raise UserError(f"{script} failed: {(log.read().strip().splitlines() or ['killed'])[-1]}")
    return time.perf_counter() - started, usage.ru_maxrss * MAXRSS_UNIT


def convolution_rate(device: torch.device, precision: str, timer: Timer) -> float:
    """Operations per second of the backbone's most frequent convolution: 3x3, 512 channels, on a photo's 47x63 positions."""
    batch = 2 if device.type == "cpu" else 32
    dtype = AMP_DTYPES.get(precision, torch.float32)
    x = torch.randn(batch, 512, 47, 63, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(512, 512, 3, 3, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
    times = 4 if device.type == "cpu" else 20

    def convolve() -> None:
        for _ in range(times):
            F.conv2d(x, weight, padding=1)

    with torch.inference_mode():
        return times * 2 * batch * 512 * 512 * 9 * 47 * 63 / timer(convolve)


def operations(call: Callable[[], object]) -> int:
    """Operations of what `call` computes on meta tensors."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


class Convolutions(TorchDispatchMode):
    """Counts the convolutions within it, forward and backward, by what they are called with: shapes in place of tensors."""

    kinds = (torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default)

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[tuple[Callable[..., object], tuple]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        if func in self.kinds:
            shapes = (x.shape if isinstance(x, torch.Tensor) else tuple(x) if isinstance(x, list) else x for x in args)
            self.counts[func, tuple(shapes)] += 1
        return func(*args, **(kwargs or {}))


def bare_seconds(call: Callable[[], object], device: torch.device, precision: str, timer: Timer) -> float:
    """Seconds of the convolutions alone that `call` computes on meta tensors: each shape is timed by itself, on random numbers.

    Tensors are channels last but for training on CPUs, as in `inference_form` and `training_form`.
    """
    with Convolutions() as found:
        call()
    backward = any(kind is Convolutions.kinds[1] for kind, _ in found.counts)
    dtype = AMP_DTYPES.get(precision, torch.float32)

    def argument(x: Any) -> Any:
        if not isinstance(x, torch.Size):
            return x
        values = torch.randn(x, device=device, dtype=dtype)
        plain = len(x) != 4 or (backward and device.type == "cpu")
        return values if plain else values.contiguous(memory_format=torch.channels_last)

    with torch.inference_mode():
        return sum(count * timer(partial(kind, *map(argument, given))) for (kind, given), count in found.counts.items())


def loss_of(net: Any, images: torch.Tensor) -> torch.Tensor:
    """A training loss against random labels: EDAM's of pairs (P, 2, 3, H, W), or DeepLab-v2's of pictures (N, 3, H, W)."""
    if images.ndim == 4:
        labels = torch.randint(net.num_labels, (len(images), *images.shape[2:]), device=images.device)
        return multi_scale_loss([logits.float() for logits in net(images)], labels)
    logits = net(images).float()
    return F.binary_cross_entropy_with_logits(logits, torch.randint(2, logits.shape, device=logits.device).float())


def measure_step(
    network: str, device: torch.device, amp: str, tf32: bool, dropout: bool, shape: Sequence[int], timer: Timer
) -> tuple[float, int]:
    """Seconds of a training step on images of a shape that `loss_of` takes, and this process's peak memory in bytes.

    dropout: on EDAM's attention weights.
    """
    distributed.setup(str(device))
    setup_precision(tf32)
    torch.manual_seed(0)
    net = training_form(make_net(network), device, amp, tf32).train()
    if not dropout:
        net.cma_dropout.attention.p = 0.0
    optimizer = make_sgd(net.get_parameter_groups(), net.group_factors, 1e-3, 5e-4)
    images = torch.randn(*shape, device=device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast(device, amp):
            loss = loss_of(net, images)
        loss.backward()
        optimizer.step()

    return timer(step), peak_memory(device)


def segmentation(net: nn.Module, photo: torch.Tensor, device: torch.device) -> torch.Tensor:
    """DeepLab-v2's labels of a photo, as infer_deeplab.py computes them, without CRF."""
    return probabilities(net, photo, device).max(0).indices


def measure_photo(
    compute: Callable[..., torch.Tensor],
    network: str,
    device: torch.device,
    amp: str,
    tf32: bool,
    size: tuple[int, int],
    timer: Timer,
) -> tuple[float, int]:
    """Seconds of `compute(net, photo, device)` for a photo of (width, height), and this process's peak memory in bytes."""
    distributed.setup(str(device))
    setup_precision(tf32)
    net = inference_form(make_net(network), device, amp)
    photo = torch.randint(256, (size[1], size[0], 3), dtype=torch.uint8)

    def output() -> torch.Tensor:
        with autocast(device, amp):
            return compute(net, photo, device).cpu()

    return timer(output), peak_memory(device)


def peak_memory(device: torch.device) -> int:
    """Of this process, in bytes: on the GPU that it uses, or resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_UNIT


def meta_step(network: str, shape: Sequence[int]) -> None:
    """Compute a training step, without values, on images of a shape that `loss_of` takes: forward and backward.

    Attention and what backward computes again (0.8 % of EDAM's step) are included.
    """
    with torch.device("meta"):
        loss_of(make_net(network).train(), torch.empty(*shape)).backward()


def meta_photo(network: str, size: tuple[int, int]) -> None:
    """Compute, without values, the output of DeepLab-v2 (all scales) or PoolNet for a photo of (width, height)."""
    with torch.device("meta"):
        make_net(network).eval().requires_grad_(False)(torch.empty(1, 3, size[1], size[0]))


def maps_operations(network: str, size: tuple[int, int]) -> int:
    """Operations of the class maps of a photo of (width, height): every scale and its mirror image."""
    with torch.device("meta"):
        net = make_net(network).eval()
        sizes = [(round(size[1] * scale), round(size[0] * scale)) for scale in SCALES]
        return operations(lambda: [net.forward_cam(torch.empty(2, 3, *s)) for s in sizes])
