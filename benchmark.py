"""Measure what this machine does with EDAM, DeepLab-v2 and PoolNet, beside what convolutions alone would take.

    python benchmark.py                 # everything, on the GPU if there is one (about 15 minutes on two CPU cores)
    python benchmark.py --quick         # smaller pictures, fewer repetitions
Each training figure comes from a process of its own, so that its peak memory is its own.
"""

import argparse
import platform
import tempfile
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from measuring import (
    Timer,
    bare_seconds,
    convolution_rate,
    in_child,
    maps_operations,
    measure_photo,
    measure_step,
    meta_photo,
    meta_step,
    operations,
    segmentation,
    time_script,
)
from network import make_net
from pseudo_label.class_maps import MaskNetwork, class_maps, views
from pseudo_label.crf import dense_crf, with_background
from pseudo_label.saliency_maps import saliency_logits
from tool import cli, distributed
from tool.cli import run_script
from tool.files import atomic_write, check_writable
from tool.precision import AMP_DTYPES, autocast, inference_form, setup_precision, warn_of_emulation

FULL_SCHEDULE = 132275  # pairs
TRAIN_AUG = 10582  # photos
VAL = 1449
DEEPLAB_SCHEDULE = 20000 * 10  # photos
POOLNET = "network.poolnet"


class Bench:
    """What is measured: the device, the sizes, and the convolution rates, which are measured first."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.network, self.deeplab = args.network, args.deeplab
        self.device = distributed.setup(args.device)[0]
        cuda = self.device.type == "cuda"
        self.precisions = ("fp32", "tf32", "bf16") if cuda else ("fp32", "bf16")
        self.rates: dict[str, float] = {}  # operations a second
        self.timer = Timer(self.device, 1 if args.quick else (20 if cuda else 3))
        self.size, self.crop = ((250, 188), 184) if args.quick else ((500, 375), 368)  # a photo's width and height
        self.pairs = args.batch_size or (4 if cuda else 1)  # of a training step
        self.deeplab_crop = 161 if args.quick else 321
        self.deeplab_batch = args.batch_size or (10 if cuda else 1)
        self.photos = args.photos or (400 if cuda else 6)  # for the whole of infer_cls.py

    def photo(self) -> Image.Image:
        small = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
        return Image.fromarray(small).resize(self.size, Image.Resampling.BICUBIC)

    def each_precision(self) -> Iterator[tuple[str, str]]:
        """Each precision, in force until the next one, and the value of --amp that goes with it."""
        for precision in self.precisions:
            setup_precision(precision == "tf32")
            yield precision, precision if precision in AMP_DTYPES else "off"


def row(work: str, seconds: float = 0, floor: float = 0, peak: float = 0, speed: str = "", bare: float = 0) -> str:
    """A line of the table; 0 is shown as "-".

    floor: the least seconds that the convolution rate allows; bare: what the network's own convolutions take; peak: bytes.
    """
    cells = [work, *(f"{value:.3g} s" if value else "-" for value in (seconds, floor))]
    cells += [f"{seconds / least:.2f}" if seconds and least else "-" for least in (floor, bare)]
    return f"| {' | '.join([*cells, f'{peak / 1e9:.1f} GB' if peak else '-', speed])} |"


def rate_rows(bench: Bench) -> Iterator[str]:
    """The convolution rates, which every floor rests on."""
    for precision, _ in bench.each_precision():
        rate = bench.rates[precision] = convolution_rate(bench.device, precision, bench.timer)
        yield row(f"convolution 3x3, 512 channels, {precision}", speed=f"{rate / 1e9:.0f} GFLOP/s")


def train_rows(bench: Bench) -> Iterator[str]:
    """Training steps of EDAM, with dropout on the attention weights and without."""
    pairs, shape = bench.pairs, (bench.pairs, 2, 3, bench.crop, bench.crop)
    work = operations(partial(meta_step, bench.network, shape))
    for precision, amp in bench.each_precision():
        for dropout in (True, False):
            settings = (bench.network, bench.device, amp, precision == "tf32", dropout, shape, bench.timer)
            seconds, peak = in_child(measure_step, *settings)
            hours = seconds / pairs * FULL_SCHEDULE / 3600
            speed = f"{pairs / seconds:.3g} pairs/s, full schedule {hours:.3g} h"
            name = (
                f"training step, {pairs} pair{'s' * (pairs > 1)}, {precision}{'' if dropout else ', --attn_dropout 0'}"
            )
            yield row(name, seconds, work / bench.rates[precision], peak, speed)


def maps_rows(bench: Bench) -> Iterator[str]:
    """Multi-scale class maps of a photo."""
    work, scaled = maps_operations(bench.network, bench.size), views(bench.photo())
    for precision, amp in bench.each_precision():
        net = inference_form(make_net(bench.network), bench.device, amp)

        def maps(net: MaskNetwork = net, amp: str = amp) -> torch.Tensor:
            with autocast(bench.device, amp):
                return class_maps(net, scaled, [7, 17], bench.size[::-1], bench.device).cpu()

        seconds = bench.timer(maps)
        name, floor = f"class maps of a photo, {precision}", work / bench.rates[precision]
        yield row(name, seconds, floor, speed=f"{1 / seconds:.3g} photos/s")


def crf_rows(bench: Bench) -> Iterator[str]:
    """The dense CRF of a photo with two classes."""
    scores = with_background(np.random.default_rng(0).random((2, *bench.size[::-1]), np.float32))
    photo = np.array(bench.photo())
    seconds = bench.timer(lambda: dense_crf(photo, scores))
    yield row("dense CRF of a photo, one process", seconds, speed=f"{1 / seconds:.3g} photos/s")


def infer_rows(bench: Bench) -> Iterator[str]:
    """The whole of infer_cls.py, all outputs and CRF: from a short and a long run, so that start-up is left out."""
    few, many = max(1, bench.photos // 4), bench.photos
    work = maps_operations(bench.network, bench.size)
    for precision, amp in bench.each_precision():
        if precision == "tf32":
            continue
        with tempfile.TemporaryDirectory() as folder:
            draw_photos(bench, Path(folder))
            words = ["--network", bench.network, "--device", str(bench.device), "--amp", amp]
            (long, peak), (short, _) = (time_inference(Path(folder), count, words) for count in (many, few))
        seconds = (long - short) / (many - few)
        speed = f"{1 / seconds:.3g} photos/s, train_aug {seconds * TRAIN_AUG / 3600:.3g} h"
        name = f"infer_cls.py, all outputs, CRF, saliency, {precision}"
        yield row(name, seconds, work / bench.rates[precision], peak, speed)


def deeplab_train_rows(bench: Bench) -> Iterator[str]:
    """Training iterations of DeepLab-v2, in one part, its batch norms frozen."""
    photos, shape = bench.deeplab_batch, (bench.deeplab_batch, 3, bench.deeplab_crop, bench.deeplab_crop)
    call = partial(meta_step, bench.deeplab, shape)
    work = operations(call)
    for precision, amp in bench.each_precision():
        settings = (bench.deeplab, bench.device, amp, precision == "tf32", True, shape, bench.timer)
        seconds, peak = in_child(measure_step, *settings)
        bare = bare_seconds(call, bench.device, precision, bench.timer)
        hours = seconds / photos * DEEPLAB_SCHEDULE / 3600
        name = f"DeepLab-v2 training iteration, {photos} photo{'s' * (photos > 1)}, crop {shape[-1]}, {precision}"
        speed = f"{photos / seconds:.3g} photos/s, full schedule {hours:.3g} h"
        yield row(name, seconds, work / bench.rates[precision], peak, speed, bare)


def photo_rows(bench: Bench, name: str, network: str, compute: Callable, set_: str, photos: int) -> Iterator[str]:
    """What `compute` makes of a photo, and how long a set of so many photos takes."""
    call = partial(meta_photo, network, bench.size)
    work = operations(call)
    for precision, amp in bench.each_precision():
        settings = (compute, network, bench.device, amp, precision == "tf32", bench.size, bench.timer)
        seconds, peak = in_child(measure_photo, *settings)
        bare = bare_seconds(call, bench.device, precision, bench.timer)
        speed = f"{1 / seconds:.3g} photos/s, {set_} {seconds * photos / 3600:.3g} h"
        yield row(f"{name}, {precision}", seconds, work / bench.rates[precision], peak, speed, bare)


def deeplab_photo_rows(bench: Bench) -> Iterator[str]:
    """DeepLab-v2's labels of a photo at all scales, without CRF."""
    return photo_rows(bench, "DeepLab-v2 test photo", bench.deeplab, segmentation, "val", VAL)


def sal_photo_rows(bench: Bench) -> Iterator[str]:
    """PoolNet's saliency map of a photo."""
    return photo_rows(bench, "PoolNet photo", POOLNET, saliency_logits, "train_aug", TRAIN_AUG)


def draw_photos(bench: Bench, root: Path) -> None:
    """Photos of two classes, saliency maps and random weights for infer_cls.py."""
    for name in ("JPEGImages", "Annotations", "saliency"):
        (root / name).mkdir()
    photo, objects = bench.photo(), "<object><name>cat</name></object><object><name>sofa</name></object>"
    for i in range(bench.photos):
        photo.save(root / f"JPEGImages/{i:06d}.jpg")
        photo.convert("L").save(root / f"saliency/{i:06d}.png")
        (root / f"Annotations/{i:06d}.xml").write_text(f"<annotation>{objects}</annotation>")
    torch.manual_seed(0)
    torch.save(make_net(bench.network).state_dict(), root / "net.pth")


def time_inference(root: Path, photos: int, words: list[str]) -> tuple[float, int]:
    """Seconds, and peak memory of the main process in bytes, of infer_cls.py over the first photos of `draw_photos`."""
    (root / "list.txt").write_text("\n".join(f"{i:06d}" for i in range(photos)))
    inputs = "--voc12_root . --weights net.pth --infer_list list.txt --sal_path saliency"
    outputs = "--out_cam cam --out_cam_pred cam_pred --out_crf crf --out_crf_pred crf_pred"
    words = [*f"{inputs} {outputs} --theta 0.2 --alpha 1e-6 --beta 0.99999 --overwrite".split(), *words]
    return time_script("infer_cls.py", words, root)


# What `--only` names, in the table's order. A new kind of row is a function and a line here.
ROWS = {
    "rate": rate_rows,
    "train": train_rows,
    "maps": maps_rows,
    "crf": crf_rows,
    "infer": infer_rows,
    "deeplab_train": deeplab_train_rows,
    "deeplab_photo": deeplab_photo_rows,
    "sal_photo": sal_photo_rows,
}


def get_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(__doc__)
    add, network = parser.add_argument, "network.resnet38_EDAM_cls"
    add("--network", type=cli.module_name, default=network, metavar="MODULE", help="EDAM network to measure")
    add(
        "--deeplab",
        type=cli.module_name,
        default="network.deeplab_v2",
        metavar="MODULE",
        help="DeepLab-v2 to measure",
    )
    add("--device", help="cpu, cuda or cuda:N (default: a GPU, else the CPU)")
    batch = "pairs, of DeepLab-v2 photos, per training step (default: 1 on a CPU; on a GPU 4 pairs, 10 photos)"
    add("--batch_size", type=cli.count(1), help=batch)
    add("--photos", type=cli.count(2), help="photos for all of infer_cls.py (default: 6 on a CPU, 400 on a GPU)")
    add("--quick", action="store_true", help="half-size photos and crops, one repetition")
    add("--markdown", type=Path, metavar="FILE", help="also write the table to this file")
    add("--only", choices=tuple(ROWS), nargs="+", help="measure these alone")
    return parser


def table(bench: Bench, kinds: Collection[str]) -> Iterator[str]:
    """The table's lines, each as soon as it is measured. The rates are always measured: the floors need them."""
    name = f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
    if bench.device.type == "cuda":
        name = torch.cuda.get_device_name(bench.device)
    yield f"{name}, torch {torch.__version__}, photo {'x'.join(map(str, bench.size))}, crop {bench.crop}"
    yield from ("", "| work | time | floor | x floor | x own convolutions | peak memory | speed |", f"|{' --- |' * 7}")
    for kind, rows in ROWS.items():
        if kind in kinds or kind == "rate":
            yield from rows(bench)


def main() -> None:
    args = get_parser().parse_args()
    if args.markdown:
        check_writable(args.markdown)
    with torch.device("meta"):
        make_net(args.network), make_net(args.deeplab)  # a mistyped name shows now
    lines: list[str] = []
    with distributed.translate_errors("lower --batch_size, or --quick"):
        bench = Bench(args)
        warn_of_emulation(bench.device, "bf16")
        for line in table(bench, args.only or ROWS):
            print(line, flush=True)
            lines += line, "\n"
            if args.markdown:
                with atomic_write(args.markdown, "w") as file:
                    file.writelines(lines)


if __name__ == "__main__":
    run_script(main)
