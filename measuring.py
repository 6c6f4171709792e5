"""How much work EDAM is, and how fast this machine convolves: what benchmark.py sets times beside."""

import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from network import make_net
from tool.precision import AMP_DTYPES
from tool.transforms import SCALES


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


def convolution_rate(device: torch.device, amp: str, timer: Timer) -> float:
    """Operations per second of the backbone's most frequent convolution: 3x3, 512 channels, on a photo's 47x63 positions."""
    batch = 2 if device.type == "cpu" else 32
    dtype = AMP_DTYPES.get(amp, torch.float32)
    layout = {"device": device, "dtype": dtype}
    x = torch.randn(batch, 512, 47, 63, **layout).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(512, 512, 3, 3, **layout).contiguous(memory_format=torch.channels_last)
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


def loss_of(net: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """A training loss of pairs (P, 2, 3, H, W) against random labels."""
    logits = net(images).float()
    return F.binary_cross_entropy_with_logits(logits, torch.randint(2, logits.shape, device=logits.device).float())


def step_operations(network: str, crop: int, pairs: int) -> int:
    """Operations of a training step, forward and backward, attention and what backward computes again (0.8 %) included."""
    with torch.device("meta"):
        net = make_net(network).train()
        return operations(lambda: loss_of(net, torch.empty(pairs, 2, 3, crop, crop)).backward())


def maps_operations(network: str, size: tuple[int, int]) -> int:
    """Operations of the class maps of a photo of (width, height): every scale and its mirror image."""
    with torch.device("meta"):
        net = make_net(network).eval()
        sizes = [(round(size[1] * scale), round(size[0] * scale)) for scale in SCALES]
        return operations(lambda: [net.forward_cam(torch.empty(2, 3, *s)) for s in sizes])
