"""infer_cls.py meets broken input, full disks and killed processes: one line, status 1, what was finished stays whole."""

import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from devices import content
from disks import FULL, small_disk
from PIL import Image
from training import image_id

from pseudo_label.jobs import JobPool, LabelJob

IDS = [image_id(number) for number in range(1, 6)]
BAD = IDS[2]


@pytest.fixture(scope="module")
def whole(commands, drawn, tiny_weights, tmp_path_factory) -> dict[str, bytes]:
    """The files of all five photos, without any fault."""
    folder = tmp_path_factory.mktemp("whole")
    commands.run(folder, "infer_cls.py", *flags(folder, drawn, tiny_weights))
    return contents(folder)


@pytest.fixture
def devkit(drawn, tmp_path) -> Path:
    """A copy of the devkit for a test to break."""
    root = tmp_path / "VOC2012"
    for folder, suffix in (("JPEGImages", "jpg"), ("Annotations", "xml"), ("saliency", "png")):
        (root / folder).mkdir(parents=True)
        for i in IDS:
            (root / f"{folder}/{i}.{suffix}").write_bytes((drawn / f"{folder}/{i}.{suffix}").read_bytes())
    return root


def flags(folder: Path, root: Path, weights: Path) -> tuple[object, ...]:
    (folder / "list.txt").write_text("\r\n\r\n".join([*IDS, ""]))  # blank lines and Windows line ends
    same = ("--voc12_root", root, "--weights", weights, "--network", "network.resnet38_EDAM_tiny", "--theta", 0.2)
    outputs = ("--out_cam", "cam", "--out_crf_pred", "crf", "--sal_path", root / "saliency")
    return (*same, *outputs, "--infer_list", "list.txt", "--num_workers", 0, "--crf_workers", 1)


def contents(folder: Path) -> dict[str, bytes]:
    """All files of the outputs, hidden ones included, but for the manifests."""
    paths = [path for name in ("cam", "crf") for path in (folder / name).glob("*") if path.suffix != ".json"]
    return {str(path.relative_to(folder)): content(path) for path in paths}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def resize(path: Path) -> None:
    Image.open(path).resize((20, 30)).save(path)


def colour(path: Path) -> None:
    image = Image.open(path).convert("RGB")
    image.putpixel((3, 5), (200, 100, 100))
    image.save(path)


def sixteen_bits(path: Path) -> None:
    Image.fromarray(np.array(Image.open(path)).astype(np.uint16)).save(path)


def no_object(path: Path) -> None:
    path.write_text("<annotation></annotation>")


def unknown_class(path: Path) -> None:
    path.write_text(re.sub("<name>.*?</name>", "<name>unicorn</name>", path.read_text()))


@pytest.mark.parametrize(
    ("name", "fault", "message"),
    [
        (f"JPEGImages/{BAD}.jpg", cut, f"photo .*{BAD}.jpg cannot be read: image file is truncated"),
        (f"JPEGImages/{BAD}.jpg", Path.unlink, f"photo .*{BAD}.jpg does not exist"),
        (f"Annotations/{BAD}.xml", cut, f"annotation .*{BAD}.xml is damaged: "),
        (f"Annotations/{BAD}.xml", Path.unlink, f"no label for {BAD}: .* there is no .*{BAD}.xml"),
        (f"Annotations/{BAD}.xml", no_object, f"annotation .*{BAD}.xml names no class: it has no <object>"),
        (f"Annotations/{BAD}.xml", unknown_class, f"annotation .*{BAD}.xml: unknown class name 'unicorn'"),
        (f"saliency/{BAD}.png", cut, f"saliency map .*{BAD}.png cannot be read: "),
        (f"saliency/{BAD}.png", Path.unlink, f"saliency map .*{BAD}.png does not exist"),
        (f"saliency/{BAD}.png", resize, rf"saliency map .*{BAD}.png is 20x30 pixels, its photo \d+x\d+: resize it"),
        (
            f"saliency/{BAD}.png",
            colour,
            f"{BAD}.png is a RGB image; its pixels .* grey; save saliency maps as 8-bit grey PNGs",
        ),
        (f"saliency/{BAD}.png", sixteen_bits, f"{BAD}.png is a I;16 image; save saliency maps as 8-bit grey PNGs"),
    ],
)
def test_a_broken_file(name, fault: Callable[[Path], None], message, whole, commands, devkit, tiny_weights, tmp_path):
    """It stops the run and is named; --skip_errors does all the others; mended, the same command does the rest."""
    arguments = flags(tmp_path, devkit, tiny_weights)
    sound = (devkit / name).read_bytes()
    fault(devkit / name)
    line = commands.error(tmp_path, "infer_cls.py", *arguments)
    assert re.search(message, line)
    assert contents(tmp_path).items() <= whole.items() and not any(BAD in path for path in contents(tmp_path))

    skipping = commands.run(tmp_path, "infer_cls.py", *arguments, "--skip_errors", status=1)
    assert len(skipping.stderr) == 2 and re.match(f"skipped {BAD}: .*{message}", skipping.stderr[0])
    assert skipping.stderr[1] == "infer_cls.py: error: skipped 1 photo, listed above"
    assert "4 photos labelled in cam, crf" in skipping.stdout
    assert contents(tmp_path) == {path: data for path, data in whole.items() if BAD not in path}

    (devkit / name).write_bytes(sound)
    commands.run(tmp_path, "infer_cls.py", *arguments)
    assert contents(tmp_path) == whole


def test_unknown_and_escaping_ids(whole, commands, devkit, tiny_weights, tmp_path):
    arguments = flags(tmp_path, devkit, tiny_weights)
    (tmp_path / "list.txt").write_text("\n".join([*IDS, "2099_999999"]))
    assert "no label for 2099_999999: " in commands.error(tmp_path, "infer_cls.py", *arguments)
    assert contents(tmp_path) == {}  # found out before anything is computed
    (tmp_path / "list.txt").write_text("\n".join([*IDS, f"../../{IDS[0]}"]))
    line = commands.error(tmp_path, "infer_cls.py", *arguments, "--skip_errors")
    assert line.startswith(f"list.txt, line 6: '../../{IDS[0]}' is neither")
    (tmp_path / "list.txt").write_text("\r\n\r\n")
    assert commands.error(tmp_path, "infer_cls.py", *arguments).startswith("list list.txt is empty; ")


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (np.ones(21, np.float32), rf"voc12/cls_labels.npy, {BAD}: label of shape \(21,\), where \(20,\) was expected"),
        (np.zeros(20, np.float32), f"voc12/cls_labels.npy, {BAD}: a row of zeros names no class"),
        (np.full(20, 0.5, np.float32), f"voc12/cls_labels.npy, {BAD}: a label holds zeros and ones only"),
    ],
)
def test_wrong_labels(label, message, whole, commands, devkit, tiny_weights, tmp_path):
    (tmp_path / "voc12").mkdir()
    np.save(tmp_path / "voc12/cls_labels.npy", {BAD: label}, allow_pickle=True)
    arguments = flags(tmp_path, devkit, tiny_weights)
    assert re.match(message, commands.error(tmp_path, "infer_cls.py", *arguments)) and contents(tmp_path) == {}
    commands.run(tmp_path, "infer_cls.py", *arguments, "--skip_errors", status=1)
    assert contents(tmp_path) == {path: data for path, data in whole.items() if BAD not in path}


@pytest.mark.parametrize("more", [(), ("--skip_errors",), ("--crf_workers", 0)])
def test_a_full_disk(more, whole, commands, devkit, tiny_weights, tmp_path):
    """Stops the run even with --skip_errors, since no other photo would fare better; with room, the rest is done."""
    arguments = flags(tmp_path, devkit, tiny_weights)
    needed = sum(len(data) for path, data in whole.items() if path.startswith("cam/"))
    with small_disk(tmp_path / "cam", needed // 2) as limits:
        line = commands.error(tmp_path, "infer_cls.py", *arguments, *more, limits=limits)
        found = contents(tmp_path)
    assert re.match(rf"cannot write cam/2099_\d+\.npy: {FULL}$", line)
    assert found.items() < whole.items()  # no half of a file, under any name
    commands.run(tmp_path, "infer_cls.py", *arguments)
    assert contents(tmp_path) == whole


def test_unwritable_outputs(commands, devkit, tiny_weights, tmp_path):
    arguments = flags(tmp_path, devkit, tiny_weights)
    (tmp_path / "file").write_text("")
    line = commands.error(tmp_path, "infer_cls.py", *arguments, "--out_cam_pred", "file/out")
    assert line == "cannot create the folder file/out: Not a directory"
    line = commands.error(tmp_path, "infer_cls.py", *arguments, "--out_cam_pred", "file")
    assert line == "cannot use file: Not a directory"
    line = commands.error(tmp_path, "infer_cls.py", *arguments, "--out_crf", "./cam")
    assert line == "two outputs in one folder would mix; give --out_cam, --out_crf, --out_crf_pred one each"


def test_somebody_elses_files_are_never_replaced(commands, devkit, tiny_weights, tmp_path):
    """A folder of saliency maps or photos given as an output by mistake, even with --overwrite."""
    arguments = flags(tmp_path, devkit, tiny_weights)
    shutil.copytree(devkit / "saliency", devkit / "others")
    folders = {
        "saliency": f"--out_cam_pred {devkit / 'saliency'} is the folder of the saliency maps; name another one",
        "others": f"{devkit / 'others'} holds files of which no edam_manifest.json says what made them; name another folder",
    }
    for name, message in folders.items():
        before = {path: path.read_bytes() for path in (devkit / name).iterdir()}
        line = commands.error(tmp_path, "infer_cls.py", *arguments, "--out_cam_pred", devkit / name, "--overwrite")
        assert line == message
        assert {path: path.read_bytes() for path in (devkit / name).iterdir()} == before


@pytest.mark.parametrize(
    ("victim", "message"),
    [
        (
            0,
            "a process that writes results .CRF. was killed at one of .* lower --crf_workers and run .* .--skip_errors .*",
        ),
        (-1, "a process that reads photos was killed .* lower --num_workers, or 0 for none .--skip_errors .*"),
    ],
)
def test_a_killed_worker(victim, message, whole, commands, drawn, tiny_weights, tmp_path):
    arguments = flags(tmp_path, drawn, tiny_weights)
    (tmp_path / "list.txt").write_text("\n".join(image_id(number) for number in range(1, 41)))
    command = commands.start(tmp_path, "infer_cls.py", *arguments, "--num_workers", 1)
    assert command.until(lambda: len(list((tmp_path / "crf").glob("[!.]*.png"))) >= 1)
    workers = sorted(command.children())
    assert len(workers) == 2  # the CRF's is started first
    os.kill(workers[victim], signal.SIGKILL)
    assert command.wait() == 1
    assert len(command.stderr) == 1 and re.match(f"infer_cls.py: error: {message}$", command.stderr[0])
    assert 0 < len(list((tmp_path / "crf").glob("*.png"))) < 40
    found = {path: data for path, data in contents(tmp_path).items() if not Path(path).name.startswith(".")}
    (tmp_path / "list.txt").write_text("\n".join(IDS))
    commands.run(tmp_path, "infer_cls.py", *arguments)
    assert contents(tmp_path).items() >= {**whole, **found}.items()
    assert not list(tmp_path.glob("c*/.*"))


def test_failures_come_in_the_order_of_the_photos():
    pool = JobPool(LabelJob(), workers=4)
    ids = [image_id(number) for number in range(8)]
    try:
        for i in ids:
            size = (2000, 2000) if i == ids[0] else (2, 3)  # the first one ends last
            pool.submit(i, np.zeros((*size, 3), np.uint8), [0], np.full((1, *size), np.nan, np.float32))
        pool.wait()
    finally:
        pool.close()
    assert [i for i, _ in pool.failures] == ids


def test_weights_that_are_none(commands, devkit, tiny_weights, tmp_path):
    arguments = flags(tmp_path, devkit, tiny_weights)
    saved = torch.load(tiny_weights, weights_only=True)

    def line(path: object, *more: object) -> str:
        return commands.error(tmp_path, "infer_cls.py", *arguments, "--weights", path, *more)

    assert line("nowhere.pth") == "weights nowhere.pth does not exist"
    (tmp_path / "cut.pth").write_bytes(tiny_weights.read_bytes()[:100_000])
    assert line("cut.pth") == "cannot load the PyTorch file cut.pth: it is truncated"
    torch.save({"layer1.weight": torch.zeros(2), "layer4.weight": torch.zeros(2)}, tmp_path / "other.pth")
    assert "other.pth holds an ordinary ResNet" in line("other.pth")
    other = line(tiny_weights, "--network", "tests.small_net")
    assert "tiny.pth holds an EDAM network" in other
    assert other.endswith("; is --network the one that it was trained with?")
    torch.save(saved | {"bn7.weight": torch.full_like(saved["bn7.weight"], torch.nan)}, tmp_path / "nan.pth")
    assert "nan.pth: bn7.weight holds values that are not finite" in line("nan.pth")
    torch.save({name: t * 1e30 if "conv" in name else t for name, t in saved.items()}, tmp_path / "huge.pth")
    assert f"the class maps of {IDS[0]} are not finite; compute in float32" in line("huge.pth")
    assert contents(tmp_path) == {}
