"""Measure the speed and memory of EDAM, DeepLab-v2 and PoolNet on this machine.

    python benchmark.py                 # everything, on the GPU if there is one (about 15 minutes on two CPU cores)
    python benchmark.py --quick         # smaller photos, fewer repetitions

Each row is measured in a process of its own, so that its peak memory is its own. The floor is the time that the row's
operations would take at the rate of the most frequent convolution of EDAM's backbone.
"""

import argparse
import platform
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode

from network import make_net
from network.losses import multi_scale_loss
from pseudo_label.class_maps import class_maps, views
from pseudo_label.crf import dense_crf, with_background
from pseudo_label.saliency_maps import saliency_logits
from pseudo_label.segmentation import probabilities
from tool import cli, distributed
from tool.cli import UserError, run_script
from tool.files import atomic_write, check_writable
from tool.memory import MAXRSS_UNIT
from tool.optim import make_sgd
from tool.precision import AMP_DTYPES, autocast, inference_form, setup_precision, training_form, warn_of_emulation

POOLNET = "network.poolnet"
Settings = argparse.Namespace  # the flags, and what get_settings adds


def draw_photo(size: tuple[int, int]) -> Image.Image:
    small = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def convolution(args: Settings, amp: str) -> Callable[[], object]:
    """3x3, 512 channels, on the 47x63 positions of a photo."""
    batch = 2 if args.device.type == "cpu" else 32
    kind: dict[str, Any] = {"device": args.device, "dtype": AMP_DTYPES.get(amp, torch.float32)}
    x = torch.randn(batch, 512, 47, 63, **kind).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(512, 512, 3, 3, **kind).contiguous(memory_format=torch.channels_last)
    return torch.inference_mode()(lambda: [F.conv2d(x, weight, padding=1) for _ in range(4)])


def edam_step(args: Settings, amp: str, dropout: bool = True) -> Callable[[], object]:
    net = training_form(make_net(args.network), args.device, amp, False).train()
    if not dropout:
        net.cma_dropout.attention.p = 0.0

    def loss(images: torch.Tensor) -> torch.Tensor:
        logits = net(images).float()
        return F.binary_cross_entropy_with_logits(logits, torch.randint(2, logits.shape, device=logits.device).float())

    return training_step(net, loss, args.device, amp, (args.pairs, 2, 3, args.crop, args.crop))


def deeplab_step(args: Settings, amp: str) -> Callable[[], object]:
    net = training_form(make_net(args.deeplab), args.device, amp, False).train()

    def loss(images: torch.Tensor) -> torch.Tensor:
        labels = torch.randint(net.num_labels, (len(images), *images.shape[2:]), device=images.device)
        return multi_scale_loss([logits.float() for logits in net(images)], labels)

    shape = (args.deeplab_photos, 3, args.deeplab_crop, args.deeplab_crop)
    return training_step(net, loss, args.device, amp, shape)


def training_step(
    net: Any, loss: Callable, device: torch.device, amp: str, shape: tuple[int, ...]
) -> Callable[[], object]:
    """Return a step against random labels, on random images of `shape`."""
    optimizer = make_sgd(net.get_parameter_groups(), net.group_factors, 1e-3, 5e-4)
    images = torch.randn(*shape, device=device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast(device, amp):
            value = loss(images)
        value.backward()
        optimizer.step()

    return step


def photo_maps(args: Settings, amp: str) -> Callable[[], object]:
    net, scaled = inference_form(make_net(args.network), args.device, amp), views(draw_photo(args.size))
    return lambda: class_maps(net, scaled, [7, 17], args.size[::-1], args.device).cpu()


def photo_crf(args: Settings, amp: str) -> Callable[[], object]:
    scores = with_background(np.random.default_rng(0).random((2, *args.size[::-1]), np.float32))
    photo = np.array(draw_photo(args.size))
    return lambda: dense_crf(photo, scores)


def deeplab_photo(args: Settings, amp: str) -> Callable[[], object]:
    net = inference_form(make_net(args.deeplab), args.device, amp)
    photo = torch.from_numpy(np.array(draw_photo(args.size)))
    return lambda: probabilities(net, photo, args.device).max(0).indices.cpu()


def saliency_photo(args: Settings, amp: str) -> Callable[[], object]:
    net = inference_form(make_net(args.poolnet), args.device, amp)
    photo = torch.from_numpy(np.array(draw_photo(args.size)))
    return lambda: saliency_logits(net, photo, args.device).cpu()


def infer_sal(args: Settings, amp: str) -> Callable[[], object]:
    """infer_sal.py over photos of many sizes, its start included."""
    folder = tempfile.TemporaryDirectory()
    root = Path(folder.name)
    (root / "photos").mkdir()
    for index in range(args.photos):
        size = [side - 5 * index % 100 for side in args.size]
        draw_photo((size[0], size[1])).save(root / f"photos/{index:03d}.jpg")
    torch.save(make_net(args.poolnet).state_dict(), root / "net.pth")
    words = ["--network", args.poolnet, "--device", str(args.device), "--amp", amp, "--overwrite"]
    words += ["--weights", "net.pth", "--img_root", "photos", "--out_sal", "saliency"]
    command = [sys.executable, str(Path(__file__).with_name("infer_sal.py")), *words]

    def run() -> None:
        done = subprocess.run(command, cwd=folder.name, capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"infer_sal.py: failed: {done.stderr[-300:]}")

    return run


class Row(NamedTuple):
    """A line of the table."""

    title: str  # a format of the settings
    prepare: Callable[[Settings, str], Callable[[], object]]  # (settings, amp) -> the call to measure
    counted: str = ""  # name of the setting that counts the photos or pairs of a call; empty for one


ROWS = {  # names of --only, in the table's order; a new row is a function and a line here
    "rate": [Row("convolution 3x3, 512 channels", convolution)],
    "train": [
        Row("training step, {pairs} pairs", edam_step, "pairs"),
        Row("training step, {pairs} pairs, --attn_dropout 0", partial(edam_step, dropout=False), "pairs"),
    ],
    "maps": [Row("class maps of a photo", photo_maps)],
    "crf": [Row("dense CRF of a photo, one process", photo_crf)],
    "deeplab_train": [
        Row("DeepLab-v2 iteration, {deeplab_photos} photos, crop {deeplab_crop}", deeplab_step, "deeplab_photos"),
    ],
    "deeplab_photo": [Row("DeepLab-v2 test photo", deeplab_photo)],
    "sal_photo": [Row("PoolNet photo", saliency_photo)],
    "infer_sal": [Row("infer_sal.py, {photos} photos", infer_sal, "photos")],
}


def measure(row: Row, args: Settings, precision: str) -> tuple[float, int, int]:
    """Return the median seconds of a call, its operations, and this process's peak memory in bytes."""
    distributed.setup(str(args.device))
    setup_precision(precision == "tf32")
    torch.manual_seed(0)
    amp = precision if precision in AMP_DTYPES else "off"
    call = row.prepare(args, amp)
    with autocast(args.device, amp):
        with FlopCounterMode(display=False) as counter:
            call()
        timer = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
        seconds = timer.blocked_autorange(min_run_time=args.seconds).median
    if args.device.type == "cuda":
        return seconds, counter.get_total_flops(), torch.cuda.max_memory_allocated(args.device)
    usage = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return seconds, counter.get_total_flops(), max(usage) * MAXRSS_UNIT


def run_alone(row: Row, args: Settings, precision: str) -> tuple[float, int, int]:
    """Return what `measure` does, called in a new process."""
    try:
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            return pool.submit(measure, row, args, precision).result()
    except BrokenProcessPool as error:
        raise UserError(f"{row.title}: the process was killed; memory may be full") from error


def table(args: Settings, names: Collection[str]) -> Iterator[str]:
    """Yield the table's lines, each once it is measured; the rates always, as the floors need them."""
    cuda = args.device.type == "cuda"
    cpu = f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
    name = torch.cuda.get_device_name(args.device) if cuda else cpu
    yield f"{name}, torch {torch.__version__}, photo {'x'.join(map(str, args.size))}, crop {args.crop}"
    yield from ("", "| work | time | floor | x floor | peak memory | speed |", f"|{' --- |' * 6}")
    rates: dict[str, float] = {}  # operations per second
    rows = [row for kind, rows in ROWS.items() if kind in names or kind == "rate" for row in rows]
    for row in rows:
        precisions = ["fp32", "tf32", "bf16"] if cuda else ["fp32", "bf16"]
        for precision in precisions if row.prepare is not photo_crf else ["fp32"]:
            seconds, work, peak = run_alone(row, args, precision)
            rate = rates.setdefault(precision, work / seconds)
            count = getattr(args, row.counted) if row.counted else 1
            unit = "pairs" if row.counted == "pairs" else "photos"
            speed = f"{rate / 1e9:.0f} GFLOP/s" if row.prepare is convolution else f"{count / seconds:.3g} {unit}/s"
            floor = [f"{work / rate:.3g} s", f"{seconds * rate / work:.2f}"] if work else ["-", "-"]
            cells = [f"{row.title.format(**vars(args))}, {precision}", f"{seconds:.3g} s", *floor]
            yield f"| {' | '.join([*cells, f'{peak / 1e9:.1f} GB', speed])} |"


def get_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(__doc__)
    add, network, deeplab = parser.add_argument, "network.resnet38_EDAM_cls", "network.deeplab_v2"
    add("--network", type=cli.module_name, default=network, metavar="MODULE", help="EDAM network to measure")
    add("--deeplab", type=cli.module_name, default=deeplab, metavar="MODULE", help="DeepLab-v2 to measure")
    add("--device", help="cpu, cuda or cuda:N (default: a GPU, else the CPU)")
    batch = "pairs, of DeepLab-v2 photos, per training step (default: 1 on a CPU; on a GPU 4 pairs, 10 photos)"
    add("--batch_size", type=cli.count(1), help=batch)
    add("--photos", type=cli.count(1), default=20, help="photos for all of infer_sal.py")
    add("--quick", action="store_true", help="half-size photos and crops, one repetition")
    add("--markdown", type=Path, metavar="FILE", help="also write the table to this file")
    add("--only", choices=tuple(ROWS), nargs="+", help="measure these rows only")
    return parser


def add_settings(args: Settings) -> None:
    """Add networks, sizes and counts to the flags; raise UserError for a mistyped network."""
    args.poolnet = POOLNET
    with torch.device("meta"):
        make_net(args.network), make_net(args.deeplab)
    args.device = distributed.setup(args.device)[0]
    args.pairs, args.deeplab_photos = (4, 10) if args.device.type == "cuda" else (1, 1)
    if args.batch_size:
        args.pairs = args.deeplab_photos = args.batch_size
    args.size, args.crop, args.deeplab_crop = ((250, 188), 184, 161) if args.quick else ((500, 375), 368, 321)
    args.seconds = 0.1 if args.quick else 30  # for which a measurement is repeated


def main() -> None:
    args = get_parser().parse_args()
    if args.markdown:
        check_writable(args.markdown)
    add_settings(args)
    warn_of_emulation(args.device, "bf16")
    lines: list[str] = []
    with distributed.translate_errors("lower --batch_size, or --quick"):
        for line in table(args, args.only or ROWS):
            print(line, flush=True)
            lines += line, "\n"
            if args.markdown:
                with atomic_write(args.markdown, "w") as file:
                    file.writelines(lines)


if __name__ == "__main__":
    run_script(main)
