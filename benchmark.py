"""Measure what this machine does with EDAM, beside the floor: the operations over the machine's own convolution rate.

    python benchmark.py                 # everything, on the GPU if there is one (about 15 minutes on two CPU cores)
    python benchmark.py --quick         # smaller pictures, fewer repetitions
Each training figure comes from a process of its own, so that its peak memory is its own.
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from network import make_net
from tool.crf import dense_crf, with_background
from tool.errors import UserError, run
from tool.inference import class_maps, prepare
from tool.optim import make_optimizer
from tool.precision import AMP_DTYPES, autocast, setup_precision, training_form
from tool.transforms import SCALES, views

FULL_SCHEDULE = 132275  # pairs
TRAIN_AUG = 10582  # photos
PHOTO, CROP = (500, 375), 368


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "--network",
        default="network.resnet38_EDAM_cls",
        metavar="MODULE",
        help="network to measure (default: %(default)s)",
    )
    add("--device", help="cpu, cuda or cuda:N (default: a GPU, else the CPU)")
    add("--batch_size", type=int, help="pairs per training step (default: 1 on a CPU, 4 on a GPU)")
    add("--photos", type=int, help="photos for the whole of infer_cls.py (default: 6 on a CPU, 400 on a GPU)")
    add("--quick", action="store_true", help="half-size photos, crop 184, one repetition")
    add("--markdown", type=Path, metavar="FILE", help="also write the table to this file")
    add("--only", choices=("rate", "train", "maps", "crf", "infer"), nargs="+", help="measure these alone")
    add("--one_step", help=argparse.SUPPRESS)  # what a child process measures, as JSON
    return parser


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
    """Operations of a training step, forward and backward, attention included."""
    with torch.device("meta"):
        net = make_net(network).train()
        return operations(lambda: loss_of(net, torch.empty(pairs, 2, 3, crop, crop)).backward())


def maps_operations(network: str, size: tuple[int, int]) -> int:
    """Operations of the class maps of a photo of (width, height): every scale and its mirror image."""
    with torch.device("meta"):
        net = make_net(network).eval()
        sizes = [(round(size[1] * scale), round(size[0] * scale)) for scale in SCALES]
        return operations(lambda: [net.forward_cam(torch.empty(2, 3, *s)) for s in sizes])


def measure_step(spec: dict) -> dict[str, float]:
    """Time and peak memory (bytes) of training steps, in this process."""
    device = torch.device(spec["device"])
    setup_precision(spec["precision"] == "tf32")
    amp = spec["precision"] if spec["precision"] in AMP_DTYPES else "off"
    torch.manual_seed(0)
    net = training_form(make_net(spec["network"]), device, amp, spec["precision"] == "tf32").train()
    if not spec["attn_dropout"]:
        net.cma_dropout.attention.p = 0.0
    optimizer = make_optimizer(net.get_parameter_groups(), 1e-3, 5e-4)
    images = torch.randn(spec["pairs"], 2, 3, spec["crop"], spec["crop"], device=device)

    def step() -> None:
        with autocast(device, amp):
            loss = loss_of(net, images)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    seconds = Timer(device, spec["repeat"])(step)
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else peak_memory()
    return {"seconds": seconds, "peak": peak}


def peak_memory() -> int:
    """Peak resident memory of this process, bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def in_child(spec: dict) -> dict[str, float]:
    """`measure_step` in a process of its own."""
    command = [sys.executable, __file__, "--one_step", json.dumps(spec)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"the training step failed: {(done.stderr.strip().splitlines() or ['killed'])[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def whole_inference(
    args: argparse.Namespace, device: torch.device, amp: str, size: tuple[int, int], photos: int
) -> tuple[float, float]:
    """Seconds a photo that infer_cls.py takes, all outputs and CRF: from a short and a long run, so that start-up is left out.

    Returns the seconds a photo, and the peak memory of the long run's main process in bytes.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in ("JPEGImages", "Annotations", "saliency"):
            (root / name).mkdir()
        rng = np.random.default_rng(0)
        ids = [f"{i:06d}" for i in range(photos)]
        for image_id in ids:
            small = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
            small.resize(size, Image.Resampling.BICUBIC).save(root / "JPEGImages" / f"{image_id}.jpg")
            small.convert("L").resize(size).save(root / "saliency" / f"{image_id}.png")
            objects = "".join(f"<object><name>{name}</name></object>" for name in ("cat", "sofa"))
            (root / "Annotations" / f"{image_id}.xml").write_text(f"<annotation>{objects}</annotation>")
        torch.manual_seed(0)
        torch.save(make_net(args.network).state_dict(), root / "net.pth")

        def infer(count: int) -> float:
            (root / "list.txt").write_text("\n".join(ids[:count]))
            command = [sys.executable, "infer_cls.py", "--voc12_root", folder, "--weights", root / "net.pth"]
            command += [
                "--network",
                args.network,
                "--infer_list",
                root / "list.txt",
                "--device",
                str(device),
                "--amp",
                amp,
            ]
            command += [
                "--sal_path",
                root / "saliency",
                "--theta",
                "0.2",
                "--alpha",
                "1e-6",
                "--beta",
                "0.99999",
                "--overwrite",
            ]
            for output in ("out_cam", "out_cam_pred", "out_crf", "out_crf_pred"):
                command += [f"--{output}", root / output]
            started = time.perf_counter()
            done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=Path(__file__).parent)
            if done.returncode:
                raise UserError(f"infer_cls.py failed: {(done.stderr.strip().splitlines() or ['killed'])[-1]}")
            return time.perf_counter() - started

        few = max(1, photos // 4)
        return (infer(photos) - infer(few)) / (photos - few), resource.getrusage(
            resource.RUSAGE_CHILDREN
        ).ru_maxrss * 1024


def main() -> None:
    args = get_parser().parse_args()
    if args.one_step:
        print(json.dumps(measure_step(json.loads(args.one_step))))
        return
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    cuda = device.type == "cuda"
    pairs = args.batch_size or (4 if cuda else 1)
    size, crop = ((250, 188), 184) if args.quick else (PHOTO, CROP)
    timer = Timer(device, 1 if args.quick else (20 if cuda else 3))
    wanted = args.only or ["rate", "train", "maps", "crf", "infer"]
    precisions = ("fp32", "tf32", "bf16") if cuda else ("fp32", "bf16")

    name = (
        torch.cuda.get_device_name(device)
        if cuda
        else f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
    )
    lines = [f"{name}, torch {torch.__version__}, photo {size[0]}x{size[1]}, crop {crop}", ""]
    lines += ["| work | time | floor | x floor | peak memory | speed |", "| --- | --- | --- | --- | --- | --- |"]

    def row(work: str, seconds: float | None, floor: float | None, peak: float | None, speed: str) -> None:
        cells = [work, *("-" if v is None else f"{v:.3g} s" for v in (seconds, floor))]
        cells.append(f"{seconds / floor:.2f}" if seconds and floor else "-")
        cells += [f"{peak / 1e9:.1f} GB" if peak else "-", speed]
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1], flush=True)

    print("\n".join(lines), flush=True)
    rates = {}
    for precision in precisions:
        setup_precision(precision == "tf32")
        rates[precision] = convolution_rate(device, precision, timer)
        row(f"convolution 3x3, 512 channels, {precision}", None, None, None, f"{rates[precision] / 1e9:.0f} GFLOP/s")

    if "train" in wanted:
        work = step_operations(args.network, crop, pairs)
        for precision in precisions:
            for dropout in (True, False):
                spec = {
                    "device": str(device),
                    "network": args.network,
                    "crop": crop,
                    "pairs": pairs,
                    "repeat": timer.repeat,
                }
                step = in_child({**spec, "precision": precision, "attn_dropout": dropout})
                hours = step["seconds"] / pairs * FULL_SCHEDULE / 3600
                row(
                    f"training step, {pairs} pair{'s' * (pairs > 1)}, {precision}{'' if dropout else ', --attn_dropout 0'}",
                    step["seconds"],
                    work / rates[precision],
                    step["peak"],
                    f"{pairs / step['seconds']:.3g} pairs/s, full schedule {hours:.3g} h",
                )

    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
    if "maps" in wanted:
        work, scaled = maps_operations(args.network, size), views(photo)
        for precision in precisions:
            setup_precision(precision == "tf32")
            amp = precision if precision in AMP_DTYPES else "off"
            net = prepare(make_net(args.network), device, amp)

            def maps(net: nn.Module = net, amp: str = amp) -> np.ndarray:
                with autocast(device, amp):
                    return class_maps(net, scaled, [7, 17], size[::-1], device).cpu().numpy()

            seconds = timer(maps)
            row(
                f"class maps of a photo, {precision}",
                seconds,
                work / rates[precision],
                None,
                f"{1 / seconds:.3g} photos/s",
            )

    if "crf" in wanted:
        scores = with_background(rng.random((2, *size[::-1]), np.float32))
        seconds = timer(lambda: dense_crf(np.array(photo), scores))
        row("dense CRF of a photo, one process", seconds, None, None, f"{1 / seconds:.3g} photos/s")

    if "infer" in wanted:
        photos = args.photos or (400 if cuda else 6)
        for precision in (p for p in precisions if p != "tf32"):
            amp = precision if precision in AMP_DTYPES else "off"
            seconds, peak = whole_inference(args, device, amp, size, photos)
            floor = maps_operations(args.network, size) / rates[precision]
            speed = f"{1 / seconds:.3g} photos/s, train_aug {seconds * TRAIN_AUG / 3600:.3g} h"
            row(f"infer_cls.py, all outputs, CRF, saliency, {precision}", seconds, floor, peak, speed)

    if args.markdown:
        args.markdown.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    run(main)
