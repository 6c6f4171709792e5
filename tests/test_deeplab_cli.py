"""train_deeplab.py and infer_deeplab.py through the command line: what they write, exact resume, and each fault's line."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from training import check_bad_photos, check_full_disk, check_killed, curve, cut, image_id, same_tensors

from network.segmentation_loss import multi_scale_loss
from pseudo_label.crf import DEEPLAB, dense_crf
from tests.small_deeplab import Net
from tool.optim import make_sgd
from voc12.data import LabelledPhotos
from voc12.images import load_label

IDS = [image_id(number) for number in range(1, 9)]
STEPS = 6


def flags(root: Path, *more: object) -> tuple[object, ...]:
    data = ("--voc12_root", root, "--label_dir", root / "SegmentationClass", "--train_list", "list.txt")
    network = ("--network", "tests.small_deeplab", "--crop_size", 33, "--max_iters", STEPS, "--batch_size", 4)
    return (*data, *network, "--lr", 0.01, "--num_workers", 0, "--session_name", "s", *more)


def inference(root: Path, whole: Path, *more: object) -> tuple[object, ...]:
    """Flags of infer_deeplab.py with the network of the run in the folder `whole`."""
    data = ("--voc12_root", root, "--infer_list", "list.txt", "--network", "tests.small_deeplab")
    return (*data, "--weights", whole / "checkpoints/s/s.pth", "--num_workers", 0, *more)


@pytest.fixture
def devkit(drawn, tmp_path) -> Path:
    """A devkit for a test to break, with a list beside it."""
    root = tmp_path / "VOC2012"
    for folder, suffix in (("JPEGImages", "jpg"), ("SegmentationClass", "png")):
        (root / folder).mkdir(parents=True)
        for i in IDS:
            shutil.copyfile(drawn / f"{folder}/{i}.{suffix}", root / f"{folder}/{i}.{suffix}")
    (tmp_path / "list.txt").write_text("\n".join(IDS))
    return root


@pytest.fixture(scope="module")
def whole(commands, drawn, tmp_path_factory) -> Path:
    """The folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "list.txt").write_text("\n".join(IDS))
    commands.run(folder, "train_deeplab.py", *flags(drawn, "--vis_every", 3))
    return folder


@pytest.fixture
def one_thread():
    """As the commands have: with more, sums end in other digits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_steps_are_those_of_a_plain_loop(whole, drawn, one_thread):
    """Two micro-batches of two photos a step, each a mean over its own pixels, at the learning rates of the schedule."""
    torch.manual_seed(0)
    net = Net().train()
    optimizer = make_sgd(net.get_parameter_groups(), net.group_factors, 0.01, 5e-4)
    data = LabelledPhotos(IDS, drawn, drawn / "SegmentationClass", 33, 0, Net.input)
    losses = []
    for step in range(STEPS):
        optimizer.zero_grad()
        total = 0.0
        for part in range(2):
            items = [data[step * 4 + part * 2 + i] for i in range(2)]
            pictures, labels = (torch.stack(tensors) for tensors in zip(*items, strict=True))
            loss = multi_scale_loss(net(pictures), labels) / 2
            loss.backward()
            total += loss.item()
        losses.append(total)
        optimizer.step()
    found = curve(whole / "runs/s", "Train/Loss")
    assert [found[step] for step in range(STEPS)] == pytest.approx(losses, rel=1e-5)
    assert list(curve(whole / "runs/s", "Lr").values()) == pytest.approx([0.01] * STEPS)  # changes every ten steps
    saved = torch.load(whole / "checkpoints/s/s.pth", weights_only=True)
    for name, tensor in net.state_dict().items():
        torch.testing.assert_close(saved[name], tensor, rtol=1e-5, atol=1e-6, msg=lambda text, n=name: f"{n}: {text}")


def test_each_photo_once_an_epoch(drawn):
    data = LabelledPhotos(IDS, drawn, drawn / "SegmentationClass", 33, 0, Net.input)
    epochs = [[data.names(position) for position in range(start, start + len(IDS))] for start in (0, len(IDS))]
    assert sorted(epochs[0]) == sorted(epochs[1]) == IDS and epochs[0] != epochs[1]
    assert not torch.equal(data[0][0], data[epochs[1].index(epochs[0][0]) + len(IDS)][0])  # augmented anew


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_and_resumed(whole, commands, devkit, tmp_path, workers):
    check_killed(commands, tmp_path, "train_deeplab.py", flags(devkit, "--num_workers", workers), 1, whole)
    assert same_tensors(whole / "checkpoints/s/state.pth", tmp_path / "checkpoints/s/state.pth")
    line = commands.error(tmp_path, "train_deeplab.py", *flags(devkit, "--resume", "--no-freeze_bn"))
    assert "was written with --freeze_bn True, this run has False" in line


def rgb(path: Path) -> None:
    """In colours that are not VOC's; an RGB PNG of VOC's colours is read as what they mean."""
    Image.fromarray(np.array(Image.open(path).convert("RGB")) ^ 3).save(path)


def resize(path: Path) -> None:
    Image.open(path).resize((20, 30)).save(path)


def value_21(path: Path) -> None:
    label = load_label(path)
    label[:2] = 21
    Image.fromarray(label).save(path)


FAULTS = [
    ("JPEGImages/{}.jpg", cut, "photo .*{}.jpg cannot be read: image file is truncated"),
    ("JPEGImages/{}.jpg", Path.unlink, "photo .*{}.jpg does not exist"),
    ("SegmentationClass/{}.png", Path.unlink, "label map .*{}.png does not exist"),
    ("SegmentationClass/{}.png", resize, r"label map .*{}.png is 20x30 pixels, its photo \d+x\d+"),
    ("SegmentationClass/{}.png", rgb, "{}.png is an? RGB image"),
    ("SegmentationClass/{}.png", value_21, "label map .*{}.png holds the value 21, where 0..20 and 255 were expected"),
]


@pytest.mark.parametrize(("name", "fault", "message"), FAULTS)
def test_bad_files_are_named_before_the_first_step(name, fault, message, commands, devkit, tmp_path):
    bad = IDS[2], IDS[5]
    for i in bad:
        fault(devkit / name.format(i))
    patterns = [f"{i}: .*{message.format(i)}" for i in bad]
    check_bad_photos(commands, tmp_path, "train_deeplab.py", flags(devkit), patterns, "8 photos of list.txt")
    done = commands.run(tmp_path, "train_deeplab.py", *flags(devkit, "--skip_errors", "--max_iters", 1))
    assert "6 photos, 1 step" in done.stdout


def test_lists_with_blanks(commands, devkit, tmp_path):
    lines = [f"/JPEGImages/{i}.jpg  /SegmentationClassAug/{i}.png" for i in IDS[:4]]
    (tmp_path / "list.txt").write_text("\n\n".join(lines) + "\n \n\n")
    done = commands.run(tmp_path, "train_deeplab.py", *flags(devkit, "--max_iters", 1))
    assert "4 photos, 1 step of 4 photos" in done.stdout


def test_loss_that_is_not_finite(commands, devkit, tmp_path):
    line = commands.error(tmp_path, "train_deeplab.py", *flags(devkit, "--lr", 1e30))
    assert re.match(r"the loss is (nan|inf) at step \d \(2099_\d{6}, \.\.\.\): lower --lr", line)


def test_weights(commands, devkit, whole, tiny_weights, tmp_path):
    trained = whole / "checkpoints/s/s.pth"
    state = torch.load(trained, weights_only=True)
    bare = {name.removeprefix("base."): tensor for name, tensor in state.items() if "aspp" not in name}
    torch.save(bare | {"fc.weight": torch.zeros(91, 8, 1, 1)}, tmp_path / "bare.pth")
    for path, loaded in ((trained, len(state)), ("bare.pth", len(bare))):
        done = commands.run(tmp_path, "train_deeplab.py", *flags(devkit, "--max_iters", 1, "--weights", path))
        assert f"loaded {loaded} tensors from {path}" in done.stdout
        assert ("fc" in done.stdout) == ("aspp" in done.stdout) == (path == "bare.pth")
    line = commands.error(tmp_path, "train_deeplab.py", *flags(devkit, "--weights", tiny_weights))
    assert "tiny.pth holds" in line and "network" in line


def test_a_full_disk(commands, devkit, whole, tmp_path):
    check_full_disk(commands, tmp_path, "train_deeplab.py", flags(devkit), 30_000, whole)


def test_pictures_and_batch_norms_that_learn(whole, commands, devkit, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(whole / "runs/s")).Reload()
    assert sorted(events.Tags()["images"]) == [f"Labels/{i}" for i in IDS[:4]]
    assert [event.step for event in events.Images(f"Labels/{IDS[0]}")] == [2, 5]
    commands.run(tmp_path, "train_deeplab.py", *flags(devkit, "--no-freeze_bn", "--vis_every", 1))
    frozen, learned = (torch.load(p / "checkpoints/s/s.pth", weights_only=True) for p in (whole, tmp_path))
    norms = [name for name in frozen if "bn." in name and not name.endswith("tracked")]
    assert all(
        torch.equal(frozen[name], Net().state_dict()[name]) for name in norms if "increase.bn.weight" not in name
    )
    assert all(not torch.equal(frozen[name], learned[name]) for name in norms)


@pytest.fixture(scope="module")
def net(whole) -> Net:
    net = Net()
    net.load_state_dict(torch.load(whole / "checkpoints/s/s.pth", weights_only=True))
    return net.eval()


def test_inference(whole, net, commands, drawn, tmp_path):
    """Against a plain computation; a rerun does nothing."""
    (tmp_path / "list.txt").write_text("\n".join(IDS[:3]))
    outputs = ("--out_pred", "pred", "--out_crf_pred", "crf", "--out_prob", "prob", "--flip")
    arguments = inference(drawn, whole, *outputs)
    commands.run(tmp_path, "infer_deeplab.py", *arguments)
    for i in IDS[:3]:
        photo = np.array(Image.open(drawn / f"JPEGImages/{i}.jpg"))
        views = [net.input.normalise(torch.from_numpy(view.copy()))[None] for view in (photo, photo[:, ::-1])]
        with torch.no_grad():
            logits = [F.interpolate(net(v), photo.shape[:2], mode="bilinear", align_corners=False) for v in views]
        probability = (logits[0].softmax(1) + logits[1].softmax(1).flip(-1))[0].numpy() / 2
        np.testing.assert_allclose(np.load(tmp_path / f"prob/{i}.npy"), probability, atol=1e-3)
        assert (load_label(tmp_path / f"pred/{i}.png") == probability.argmax(0)).mean() > 0.999
        refined = dense_crf(photo, probability, DEEPLAB).argmax(0)
        assert (load_label(tmp_path / f"crf/{i}.png") == refined).mean() > 0.99
    manifest = json.loads((tmp_path / "crf/edam_manifest.json").read_text())
    assert manifest["scales"] == [0.5] and manifest["flip"] is True
    assert "3 of 3 photos finished already" in commands.run(tmp_path, "infer_deeplab.py", *arguments).stdout
    line = commands.error(tmp_path, "infer_deeplab.py", *arguments, "--scales", 2)
    assert line.startswith("pred holds files made with scales [0.5], this run has [2.0]; name another folder")


def test_inference_skips_what_is_broken(whole, commands, devkit, tmp_path):
    (devkit / f"JPEGImages/{IDS[1]}.jpg").write_bytes(b"\xff\xd8\xff cut")
    arguments = inference(devkit, whole, "--out_pred", "p")
    assert f"{IDS[1]}.jpg" in commands.error(tmp_path, "infer_deeplab.py", *arguments)
    done = commands.run(tmp_path, "infer_deeplab.py", *arguments, "--skip_errors", status=1)
    assert "7 photos labelled in p" in done.stdout and done.stderr[0].startswith(f"skipped {IDS[1]}: photo")


def test_photos_too_small_for_the_scales(whole, commands, devkit, tmp_path):
    Image.new("RGB", (1, 1)).save(devkit / f"JPEGImages/{IDS[1]}.jpg")
    arguments = inference(devkit, whole, "--out_pred", "p")
    done = commands.run(tmp_path, "infer_deeplab.py", *arguments, "--skip_errors", status=1)
    assert done.stderr[0] == f"skipped {IDS[1]}: photo {IDS[1]} is 1x1 pixels, too small for the scales"
    assert "7 photos labelled in p" in done.stdout


def test_an_output_folder_that_holds_the_photos(whole, commands, devkit, tmp_path):
    """PNGs beside the JPEGs would leave two photos of each id."""
    before = sorted((devkit / "JPEGImages").iterdir())
    line = commands.error(tmp_path, "infer_deeplab.py", *inference(devkit, whole, "--out_pred", devkit / "JPEGImages"))
    assert line == f"--out_pred {devkit / 'JPEGImages'} is the folder of the photos; name another one"
    assert sorted((devkit / "JPEGImages").iterdir()) == before


def test_networks_for_other_work(commands, devkit, whole, tiny_weights, tmp_path):
    photos = ("--voc12_root", devkit, "--infer_list", "list.txt", "--weights", tiny_weights)
    edam, deeplab = ("--network", "network.resnet38_EDAM_tiny"), ("--network", "tests.small_deeplab")
    line = commands.error(tmp_path, "infer_deeplab.py", *photos, *edam, "--out_pred", "p")
    assert "--network network.resnet38_EDAM_tiny" in line and "Net.scales" in line
    line = commands.error(tmp_path, "train_deeplab.py", *flags(devkit), *edam)
    assert "--network network.resnet38_EDAM_tiny" in line and "Net.num_labels" in line
    for i in IDS:
        (devkit / "Annotations").mkdir(exist_ok=True)
        (devkit / f"Annotations/{i}.xml").write_text("<annotation><object><name>cat</name></object></annotation>")
    line = commands.error(tmp_path, "infer_cls.py", *photos, *deeplab, "--out_cam", "p")
    assert line == f"--network tests.small_deeplab: {other} forward_cam"


def test_skipped_photos_that_were_mended_are_another_run(commands, devkit, tmp_path):
    photo = devkit / f"JPEGImages/{IDS[2]}.jpg"
    sound = photo.read_bytes()
    photo.unlink()
    arguments = flags(devkit, "--skip_errors", "--save_every", 1)
    commands.run(tmp_path, "train_deeplab.py", *arguments)
    photo.write_bytes(sound)
    line = commands.error(tmp_path, "train_deeplab.py", *arguments, "--resume")
    assert "was written with other photos skipped by --skip_errors; resume with the same settings" in line
    line = commands.error(tmp_path, "train_deeplab.py", *arguments, "--label_dir", "nowhere")
    assert line == "--label_dir nowhere: no such folder"
