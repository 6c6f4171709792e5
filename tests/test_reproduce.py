"""reproduce.py: the whole chain on drawn photos with tiny networks, its report, and what it says of missing inputs."""

import re
import shlex
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

import reproduce
from demo.draw import make_devkit
from experiment import runner
from experiment.chain import ROWS, make_steps
from experiment.results import read_score
from network import make_net
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
    """The devkit, the tiny networks, and the weights named."""
    words = ["--voc12_root", str(inputs / "VOC2012"), "--network", "network.resnet38_EDAM_tiny"]
    words += ["--poolnet_network", "network.poolnet_tiny", "--deeplab_network", "network.deeplab_v2_tiny"]
    return [*words, *(word for name in names for word in (f"--{name}", str(inputs / f"{name}.pth")))]


def main(monkeypatch, *words: object) -> None:
    monkeypatch.setattr("sys.argv", ["reproduce.py", *map(str, words)])
    reproduce.main()


@pytest.fixture
def in_forks(monkeypatch, commands, tmp_path) -> list[str]:
    """Steps are forks that have imported everything, not processes of their own; the commands that were run."""
    ran = []

    def call(command: str, environment: dict) -> tuple[int, int]:
        program, *words = shlex.split(command)
        ran.append(words[0])
        if program == "python":
            return commands.start(tmp_path, *words).wait(), 1_000_000
        return subprocess.run(command, shell=True, check=False).returncode, 0

    monkeypatch.setattr(runner, "call", call)
    return ran


class Page(HTMLParser):
    """What a page refers to, and the cells of its first table."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href", "data", "action")]

    def handle_data(self, data):
        self.text.append(data)


def test_the_whole_chain(inputs, in_forks, monkeypatch, tmp_path, capsys):
    (tmp_path / "voc12").mkdir()  # in the folder one works in
    (tmp_path / "voc12/cls_labels.npy").write_bytes(b"of other photos")
    words = (*flags(inputs, *NETWORKS), "--out", tmp_path / "run", "--try")
    main(monkeypatch, *words)
    made = tmp_path / "run" / "try"
    scores = {row.name: read_score(made, row.name) for row in ROWS}
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[3] for line in table[2:9]] == [f"{scores[row.name]['miou']:.2f}" for row in ROWS]
    assert [score["images"] for score in scores.values()] == [3] * 5 + [2] * 2

    results = (made / "results.md").read_text()
    assert "its scores mean nothing" in results and all(f"\n| {label} | " in results for label in LABELS)
    page = Page((made / "report.html").read_text())
    assert page.addresses and all(address.startswith("data:") for address in page.addresses)
    assert page.tags.count("svg") == 4 and page.tags.count("img") == 3 * 7 + 2 * 4 and "script" not in page.tags
    assert {f"{score['miou']:.2f}" for score in scores.values()} <= set(page.text)

    in_forks.clear()
    main(monkeypatch, *words)  # nothing is left to do
    assert in_forks == []
    assert (made / "results.md").read_text() == results
    main(monkeypatch, *words, "--only", "val")
    assert in_forks == ["infer_deeplab.py"]

    # Other initial weights: the training that is there is not theirs.
    shutil.copy(inputs / "deeplab_weights.pth", tmp_path / "others.pth")
    with pytest.raises(
        reproduce.UserError, match=r"step segmentation was begun in .*try with other flags, .*give another"
    ):
        main(monkeypatch, *words[:-3], "--deeplab_weights", tmp_path / "others.pth", *words[-3:])
    assert in_forks == ["infer_deeplab.py"]


def test_what_is_at_hand_saves_steps(inputs, tmp_path, monkeypatch, capsys):
    shutil.copy(inputs / "weights.pth", tmp_path / "trained.pth")
    words = (*flags(inputs), "--edam_weights", tmp_path / "trained.pth", "--sal_path", inputs / "VOC2012" / "saliency")
    main(monkeypatch, *words, "--out", tmp_path / "run", "--dry_run")
    out = capsys.readouterr().out
    assert "train_EDAM_cls.py" not in out and "infer_sal.py" not in out and "train_deeplab.py" not in out
    assert f"--sal_path {inputs / 'VOC2012' / 'saliency'}" in out and "DeepLab-v2's rows are left out" in out
    assert not (tmp_path / "run").exists()


def test_without_sbd_fewer_photos_are_trained_on_and_a_wrong_folder_of_it_is_named(
    inputs, tmp_path, monkeypatch, capsys
):
    words = (*flags(inputs, "weights"), "--out", tmp_path / "run", "--dry_run")
    main(monkeypatch, *words)
    assert (
        "SegmentationClassAug is missing: EDAM is trained on the 4 photos of train, not on the 10582"
        in capsys.readouterr().out
    )
    with pytest.raises(reproduce.UserError, match="1 of the inputs"):
        main(monkeypatch, *words, "--sbd_root", tmp_path / "none")
    assert f"problem: --sbd_root {tmp_path / 'none'} holds no .mat files" in capsys.readouterr().err


def test_a_try_needs_no_weights(inputs, tmp_path, monkeypatch, capsys):
    words = (*flags(inputs), "--out", tmp_path / "run", "--dry_run")
    with pytest.raises(reproduce.UserError):
        main(monkeypatch, *words)
    assert "problem: --weights is missing: ImageNet weights of ResNet-38" in capsys.readouterr().err
    main(monkeypatch, *words, "--try")


def test_without_saliency_deeplab_is_trained_on_the_labels_of_the_crf(inputs, tmp_path):
    args = reproduce.get_parser().parse_args([*flags(inputs, "weights", "deeplab_weights"), "--out", str(tmp_path)])
    plan = reproduce.make_plan(args)
    named = {step.name: step.command for step in make_steps(plan)}
    assert f"--label_dir {tmp_path}/crf " in named["segmentation"]
    assert f"--infer_list {tmp_path}/lists/train_aug.txt --out_crf_pred {tmp_path}/crf" in named["labels"]
    assert [row.name for row in plan.rows] == ["masks", "crf", "deeplab", "deeplab_crf"]


@pytest.mark.parametrize(("gpus", "expected"), [(2, [2] * 6), (8, [8, 4, 8, 8, 5, 8])])
def test_several_gpus_are_used_through_torchrun(inputs, tmp_path, monkeypatch, gpus, expected):
    """A training's batch (EDAM: 4 pairs; DeepLab-v2: 10 photos in two parts) gives work to no more processes."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    words = [*flags(inputs, *NETWORKS), "--amp", "bf16", "--out", str(tmp_path)]
    steps = make_steps(reproduce.make_plan(reproduce.get_parser().parse_args(words)))
    shared = [step.command for step in steps if step.command.startswith("torchrun --standalone --nproc_per_node ")]
    assert [int(command.split()[3]) for command in shared] == expected
    assert [command.split()[4] for command in shared] == [
        *("infer_sal.py", "train_EDAM_cls.py", "infer_cls.py", "infer_cls.py", "train_deeplab.py", "infer_deeplab.py")
    ]
    assert all("--amp bf16" in command for command in shared)


def test_all_that_is_missing_is_named_at_once(inputs, tmp_path, monkeypatch, capsys):
    words = ["--voc12_root", str(tmp_path / "VOC2012"), "--edam_weights", str(inputs / "poolnet_weights.pth")]
    words += [*flags(inputs)[2:], "--sal_path", str(tmp_path), "--deeplab_weights", str(tmp_path / "none.pth")]
    shutil.copytree(inputs / "VOC2012", tmp_path / "VOC2012")
    photo = sorted((tmp_path / "VOC2012" / "JPEGImages").iterdir())[0]
    photo.unlink()
    with pytest.raises(reproduce.UserError, match="4 of the inputs cannot be used, listed above"):
        main(monkeypatch, *words, "--dry_run", "--out", tmp_path / "run")
    problems = capsys.readouterr().err.splitlines()
    expected = (
        f"photo {photo}",
        f"--sal_path: {tmp_path} holds no saliency map",
        "--edam_weights: ",
        "--deeplab_weights: ",
    )
    assert len(problems) == 4
    for problem, part in zip(problems, expected, strict=True):
        assert problem.startswith("problem: ") and part in problem
    assert "deeplabv1_resnet101-coco.pth, made by convert.py" in problems[3]
    with pytest.raises(reproduce.UserError):  # nor does a real run begin
        main(monkeypatch, *words, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_missing_photo_is_named_once_and_a_missing_devkit_hides_nothing_else(inputs, tmp_path, monkeypatch, capsys):
    """A photo is no fault of the saliency maps, whose own are named beside it."""
    root, weights = tmp_path / "VOC2012", ("--edam_weights", inputs / "weights.pth")
    shutil.copytree(inputs / "VOC2012", root)
    photo, other = ((root / "ImageSets/Segmentation/train.txt").read_text().split()[n] for n in (0, 1))
    words = ("--voc12_root", root, *flags(inputs)[2:], *weights, "--sal_path", root / "saliency", "--dry_run")
    (root / f"JPEGImages/{photo}.jpg").unlink()
    (root / f"saliency/{other}.png").unlink()
    (root / "ImageSets/Segmentation/val.txt").unlink()
    with pytest.raises(reproduce.UserError, match="3 of the inputs"):
        main(monkeypatch, *words)
    assert [line.partition(" does not exist")[0] for line in capsys.readouterr().err.splitlines()] == [
        f"problem: list {root}/ImageSets/Segmentation/val.txt",
        f"problem: photo {root}/JPEGImages/{photo}.jpg",
        f"problem: --sal_path: saliency map {root}/saliency/{other}.png",
    ]
    with pytest.raises(reproduce.UserError, match="3 of the inputs"):
        main(monkeypatch, *words, "--voc12_root", "none", "--sal_path", "no", "--sbd_root", tmp_path)
    problems = capsys.readouterr().err
    assert all(part in problems for part in ("--sbd_root", "--voc12_root", "--sal_path: "))


def test_another_dataset_than_voc_is_refused(inputs, tmp_path, monkeypatch, capsys):
    shutil.copytree(inputs / "VOC2012", tmp_path / "VOC2012")
    (tmp_path / "VOC2012/classes.txt").write_text("cat\n")
    words = ("--voc12_root", tmp_path / "VOC2012", *flags(inputs)[2:], "--edam_weights", inputs / "weights.pth")
    with pytest.raises(reproduce.UserError, match="1 of the inputs"):
        main(monkeypatch, *words, "--dry_run", "--out", tmp_path / "run")
    assert "classes.txt names other classes than VOC's, whose experiment this is" in capsys.readouterr().err


def test_the_laptops_preset(inputs, tmp_path, monkeypatch, capsys):
    words = ("--laptop", "--voc12_root", inputs / "VOC2012", "--sal_path", tmp_path / "SALIENCY")
    (tmp_path / "SALIENCY").mkdir()
    for image in (inputs / "VOC2012" / "saliency").iterdir():
        shutil.copy(image, tmp_path / "SALIENCY")
    main(monkeypatch, *words, "--out", tmp_path / "run", "--dry_run")
    out = capsys.readouterr().out
    steps = dict(re.findall(r"\n# (\w+): .*\n(.*)", out))
    assert "--per_class 25 --epochs 12 --seed 0" in steps["lists"] and "labels" not in steps
    assert "train_EDAM_cls.py" in steps["training"] and "--network network.timm_EDAM" in steps["training"]
    assert "--weights imagenet " in steps["training"] and "--freeze_backbone" in steps["training"]
    assert f"--out_plain_pred {tmp_path}/run/crf --out_crf_pred" in steps["maps"] and "--theta 0.4" in steps["maps"]
    assert "--freeze_backbone" in steps["segmentation"]
    assert "--network network.deeplab_v2_timm" in steps["segmentation"] and "weeks on a CPU" not in out
    assert "as published" not in out  # neither SBD nor the full schedule are missed

    next((tmp_path / "SALIENCY").iterdir()).unlink()  # perhaps not of the first photos of its class
    main(monkeypatch, *words, "--out", tmp_path / "run", "--dry_run", "--try")
    out = capsys.readouterr().out
    assert "maps of the first photos of each class are needed; they are looked at when they are fused" in out
    steps = dict(re.findall(r"\n# (\w+): .*\n(.*)", out))
    preset = "--freeze_backbone --lr 0.002 --warmup_steps 20 --batch_size 4 --crop_size 384 --long_side 256 384 --batch_size 1 "
    assert f"{preset}--train_list {tmp_path}/run/try/lists/few_pairs.txt " in steps["training"]
