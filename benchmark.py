"""Measure what this machine does with EDAM, beside the floor: the operations over the machine's own convolution rate.

    python benchmark.py                 # everything, on the GPU if there is one (about 15 minutes on two CPU cores)
    python benchmark.py --quick         # smaller pictures, fewer repetitions
Each training figure comes from a process of its own, so that its peak memory is its own.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from measuring import Timer, convolution_rate, loss_of, maps_operations, step_operations
from network import make_net
from pseudo_label.class_maps import class_maps, prepare
from pseudo_label.crf import dense_crf, with_background
from tool import distributed, flags
from tool.errors import UserError, run
from tool.files import atomic_write, check_writable
from tool.optim import make_sgd
from tool.precision import AMP_DTYPES, autocast, setup_precision, training_form
from tool.transforms import views

FULL_SCHEDULE = 132275  # pairs
TRAIN_AUG = 10582  # photos
PHOTO, CROP = (500, 375), 368
MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=flags.Help)
    add, network = parser.add_argument, "network.resnet38_EDAM_cls"
    add("--network", type=flags.module_name, default=network, metavar="MODULE", help="network to measure")
    add("--device", help="cpu, cuda or cuda:N (default: a GPU, else the CPU)")
    add("--batch_size", type=flags.count(1), help="pairs per training step (default: 1 on a CPU, 4 on a GPU)")
    photos = "photos for the whole of infer_cls.py (default: 6 on a CPU, 400 on a GPU)"
    add("--photos", type=flags.count(2), help=photos)
    add("--quick", action="store_true", help="half-size photos, crop 184, one repetition")
    add("--markdown", type=Path, metavar="FILE", help="also write the table to this file")
    add("--only", choices=("rate", "train", "maps", "crf", "infer"), nargs="+", help="measure these alone")
    add("--one_step", help=argparse.SUPPRESS)  # what a child process measures, as JSON
    return parser


def on_device(name: str | None) -> torch.device:
    """The device to measure, made the current one."""
    return distributed.setup(name)[0]


def measure_step(spec: dict) -> dict[str, float]:
    """Time and peak memory (bytes) of training steps, in this process."""
    device = on_device(spec["device"])
    setup_precision(spec["precision"] == "tf32")
    amp = spec["precision"] if spec["precision"] in AMP_DTYPES else "off"
    torch.manual_seed(0)
    net = training_form(make_net(spec["network"]), device, amp, spec["precision"] == "tf32").train()
    if not spec["attn_dropout"]:
        net.cma_dropout.attention.p = 0.0
    optimizer = make_sgd(net.get_parameter_groups(), net.group_factors, 1e-3, 5e-4)
    images = torch.randn(spec["pairs"], 2, 3, spec["crop"], spec["crop"], device=device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast(device, amp):
            loss = loss_of(net, images)
        loss.backward()
        optimizer.step()

    seconds = Timer(device, spec["repeat"])(step)
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else peak_memory()
    return {"seconds": seconds, "peak": peak}


def peak_memory() -> int:
    """Peak resident memory of this process, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_UNIT


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

        outputs = {name: root / name for name in ("out_cam", "out_cam_pred", "out_crf", "out_crf_pred")}
        options = {
            "voc12_root": root,
            "weights": root / "net.pth",
            "network": args.network,
            "device": device,
            "amp": amp,
        }
        options |= {
            "infer_list": root / "list.txt",
            "sal_path": root / "saliency",
            "theta": 0.2,
            "alpha": 1e-6,
            "beta": 0.99999,
        }
        words = [str(word) for name, value in (options | outputs).items() for word in (f"--{name}", value)]

        def infer(count: int) -> tuple[float, int]:
            """Seconds and peak memory in bytes of one run over the first photos."""
            (root / "list.txt").write_text("\n".join(ids[:count]))
            command = [sys.executable, "infer_cls.py", "--overwrite", *words]
            started = time.perf_counter()
            with open(root / "log.txt", "w+") as log:
                child = subprocess.Popen(command, stdout=log, stderr=log, cwd=Path(__file__).parent)
                _, status, usage = os.wait4(child.pid, 0)
                if status:
                    log.seek(0)
                    raise UserError(f"infer_cls.py failed: {(log.read().strip().splitlines() or ['killed'])[-1]}")
            return time.perf_counter() - started, usage.ru_maxrss * MAXRSS_UNIT

        few = max(1, photos // 4)
        (long, peak), (short, _) = infer(photos), infer(few)
        return (long - short) / (photos - few), peak


def main() -> None:
    args = get_parser().parse_args()
    if args.one_step:
        print(json.dumps(measure_step(json.loads(args.one_step))))
        return
    if args.markdown:
        check_writable(args.markdown)
    with torch.device("meta"):
        make_net(args.network)  # a mistyped name shows now
    device = on_device(args.device)
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

    def save() -> None:
        if args.markdown:
            with atomic_write(args.markdown, "w") as file:
                file.write("\n".join(lines) + "\n")

    def row(work: str, seconds: float | None, floor: float | None, peak: float | None, speed: str) -> None:
        cells = [work, *("-" if v is None else f"{v:.3g} s" for v in (seconds, floor))]
        cells.append(f"{seconds / floor:.2f}" if seconds and floor else "-")
        cells += [f"{peak / 1e9:.1f} GB" if peak else "-", speed]
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1], flush=True)
        save()

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


if __name__ == "__main__":
    run(main)
