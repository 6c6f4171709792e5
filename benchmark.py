"""Measure the speed and memory of EDAM, DeepLab-v2 and PoolNet on this machine.

    python benchmark.py                 # everything, on the GPU if there is one (about 15 minutes on two CPU cores)
    python benchmark.py --quick         # smaller photos, fewer repetitions

Each row is measured in a process of its own, so that its peak memory is its own. The floor is the time that the row's
operations would take at the rate of the most frequent convolution of EDAM's backbone.
"""

import argparse
import resource
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tool.script import run_script
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode

from network import make_net
from network.losses import multi_scale_loss
from pseudo_label.crf import dense_crf, with_background
from pseudo_label.predict import class_maps, probabilities, saliency_logits, views
from tool import cli, distributed
from tool.cli import UserError
from tool.files import atomic_write
from tool.optim import make_sgd
from tool.precision import AMP_DTYPES, autocast, inference_form, setup_precision, training_form

POOLNET = "network.poolnet"
Settings = argparse.Namespace  # the flags, and what main adds


def draw_photo(size: tuple[int, int]) -> Image.Image:
    small = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def convolution(args: Settings) -> Callable[[], object]:
    """3x3, 512 channels, on the 47x63 positions of a photo."""
    batch = 2 if args.device.type == "cpu" else 32
    layer = inference_form(torch.nn.Conv2d(512, 512, 3, padding=1), args.device, args.amp, args.tf32)
    x = layer(torch.randn(batch, 512, 47, 63).to(layer.weight))  # in the memory format that the layer prefers
    return torch.inference_mode()(lambda: [layer(x) for _ in range(4)])


def edam_loss(net: Any, images: torch.Tensor) -> torch.Tensor:
    logits = net(images).float()
    return F.binary_cross_entropy_with_logits(logits, torch.rand_like(logits).round())


def deeplab_loss(net: Any, images: torch.Tensor) -> torch.Tensor:
    labels = torch.randint(net.num_labels, (len(images), *images.shape[2:]), device=images.device)
    return multi_scale_loss([logits.float() for logits in net(images)], labels)


def training_step(args: Settings, network: str, loss: Callable, dropout: bool = True) -> Callable[[], object]:
    """Return a step on random images, against random labels. dropout: False for none on the attention weights."""
    net = training_form(make_net(getattr(args, network)), args.device, args.amp, args.tf32).train()
    if not dropout:
        net.cma_dropout.attention.p = 0.0
    optimizer = make_sgd(net.get_parameter_groups(), net.group_factors, 1e-3, 5e-4)
    images = torch.randn(*args.shapes[network], device=args.device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast(args.device, args.amp):
            value = loss(net, images)
        value.backward()
        optimizer.step()

    return step


def photo_maps(args: Settings) -> Callable[[], object]:
    net, scaled = inference_form(make_net(args.network), args.device, args.amp, args.tf32), views(draw_photo(args.size))
    return lambda: class_maps(net, scaled, [7, 17], args.size[::-1], args.device).cpu()


def photo_crf(args: Settings) -> Callable[[], object]:
    scores = with_background(np.random.default_rng(0).random((2, *args.size[::-1]), np.float32))
    photo = np.array(draw_photo(args.size))
    return lambda: dense_crf(photo, scores)


def network_photo(args: Settings, network: str, infer: Callable[..., torch.Tensor]) -> Callable[[], object]:
    net = inference_form(make_net(getattr(args, network)), args.device, args.amp, args.tf32)
    photo = torch.from_numpy(np.array(draw_photo(args.size)))
    return lambda: infer(net, photo, args.device).cpu()


Prepare = Callable[[Settings], Callable[[], object]]  # settings -> the call to measure
train_edam = partial(training_step, network="network", loss=edam_loss)
train_deeplab = partial(training_step, network="deeplab", loss=deeplab_loss)
ROWS: dict[str, tuple[str, Prepare]] = {  # key: a choice of --only; titles are formatted with settings
    "rate": ("convolution 3x3, 512 channels", convolution),
    "train": ("training step, {pairs} pairs", train_edam),
    "train_fast": ("training step, {pairs} pairs, --attn_dropout 0", partial(train_edam, dropout=False)),
    "maps": ("class maps of a photo", photo_maps),
    "crf": ("dense CRF of a photo, one process", photo_crf),
    "deeplab_train": ("DeepLab-v2 iteration, {photos} photos, crop {deeplab_crop}", train_deeplab),
    "deeplab_photo": ("DeepLab-v2 test photo", partial(network_photo, network="deeplab", infer=probabilities)),
    "sal_photo": ("PoolNet photo", partial(network_photo, network="poolnet", infer=saliency_logits)),
}


def measure(prepare: Prepare, args: Settings, precision: str) -> tuple[float, int, int]:
    """Return the median seconds of a call, its operations, and this process's peak memory in bytes."""
    distributed.setup(str(args.device))
    args.amp, args.tf32 = precision if precision in AMP_DTYPES else "off", precision == "tf32"
    setup_precision(args.tf32)
    torch.manual_seed(0)
    call = prepare(args)
    with autocast(args.device, args.amp):
        with FlopCounterMode(display=False) as counter:
            call()
        timer = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
        seconds = timer.blocked_autorange(min_run_time=args.seconds).median
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # kilobytes on Linux
    if args.device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(args.device)
    return seconds, counter.get_total_flops(), peak


def table(args: Settings, names: Collection[str]) -> Iterator[str]:
    """Yield each line of the table once measured; always the row "rate", which floors need."""
    cuda = args.device.type == "cuda"
    name = torch.cuda.get_device_name(args.device) if cuda else f"CPU, {torch.get_num_threads()} threads"
    yield f"{name}, torch {torch.__version__}, photo {'x'.join(map(str, args.size))}, crop {args.crop}"
    yield from ("", "| work | time | floor | x floor | peak memory | speed |", f"|{' --- |' * 6}")
    rates: dict[str, float] = {}  # operations per second
    pool = ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1)  # a new process for each measurement
    for title, prepare in (row for name, row in ROWS.items() if name in names or name == "rate"):
        precisions = ["fp32", "tf32", "bf16"] if cuda else ["fp32", "bf16"]
        for precision in precisions if prepare is not photo_crf else ["fp32"]:
            seconds, work, peak = pool.submit(measure, prepare, args, precision).result()
            rate = rates.setdefault(precision, work / seconds)
            floor = [f"{work / rate:.3g} s", f"{seconds * rate / work:.2f}"] if work else ["-", "-"]
            speed = f"{work / seconds / 1e9:.0f} GFLOP/s" if work else "-"
            cells = [f"{title.format(**vars(args))}, {precision}", f"{seconds:.3g} s", *floor]
            yield f"| {' | '.join([*cells, f'{peak / 1e9:.1f} GB', speed])} |"


def get_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(__doc__)
    add, network, deeplab = parser.add_argument, "network.resnet38_EDAM_cls", "network.deeplab_v2"
    add("--network", default=network, metavar="MODULE", help="EDAM network to measure")
    add("--deeplab", default=deeplab, metavar="MODULE", help="DeepLab-v2 to measure")
    add("--device", help="cpu, cuda or cuda:N (default: a GPU, else the CPU)")
    add("--batch_size", type=cli.count(1), help="pairs or photos a training step (default: 1; on a GPU 4 and 10)")
    add("--quick", action="store_true", help="half-size photos and crops, one repetition")
    add("--markdown", type=Path, metavar="FILE", help="also write the table to this file")
    add("--only", choices=tuple(ROWS), nargs="+", help="measure these rows only")
    return parser


def main() -> None:
    args = get_parser().parse_args()
    with torch.device("meta"):  # a mistyped network, or one of another kind, is an error before anything is measured
        make_net(args.network, needs=("forward_cam",))
        make_net(args.deeplab, needs=("scales",))
    args.device = distributed.setup(args.device)[0]
    args.poolnet = POOLNET
    pairs, photos = (4, 10) if args.device.type == "cuda" else (1, 1)
    args.pairs, args.photos = args.batch_size or pairs, args.batch_size or photos
    args.size, args.crop, args.deeplab_crop = ((250, 188), 184, 161) if args.quick else ((500, 375), 368, 321)
    args.shapes = {"network": (args.pairs, 2, 3, args.crop, args.crop)}
    args.shapes["deeplab"] = (args.photos, 3, args.deeplab_crop, args.deeplab_crop)
    args.seconds = 0.1 if args.quick else 30  # for which a measurement is repeated
    text = ""
    try:
        with distributed.translate_errors("lower --batch_size, or --quick"):
            for line in table(args, args.only or ROWS):
                print(line, flush=True)
                text += f"{line}\n"
                if args.markdown:
                    with atomic_write(args.markdown, "w") as file:
                        file.write(text)
    except BrokenProcessPool as error:
        raise UserError("a measuring process was killed; memory may be full. Use --quick or --only.") from error


if __name__ == "__main__":
    run_script(main)
