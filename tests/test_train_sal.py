"""train_sal.py through the command line: the steps of a plain loop, exact resume, initial weights, and each fault's line."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from training import check_bad_photos, check_full_disk, check_killed, curve, cut, image_id

from network.saliency_loss import saliency_loss
from tests.small_deeplab import Net as DeepLab
from tests.small_poolnet import JointNet, Net
from voc12.images import save_label
from voc12.saliency import MaskedPhotos, PairedPhotos

IDS = [image_id(number) for number in range(1, 5)]
STEPS, RENEWED = 6, 4  # three epochs of four photos, two a step; after two thirds of them a new Adam
LR = 0.003


@pytest.fixture(scope="module")
def made(drawn, tmp_path_factory) -> Path:
    """Photos of several sizes in image/, soft masks in mask/, a list of these pairs; label maps in label/, as of a devkit."""
    root = tmp_path_factory.mktemp("pairs")
    for folder in ("image", "mask", "label"):
        (root / folder).mkdir()
    (root / "JPEGImages").symlink_to("image")
    for number, i in enumerate(IDS):
        size = (130, 112 + 3 * number)
        photo, saliency, label = (
            Image.open(drawn / f"{folder}/{i}.{kind}")
            for folder, kind in (("JPEGImages", "jpg"), ("saliency", "png"), ("SegmentationClass", "png"))
        )
        photo.resize(size).save(root / f"image/{i}.jpg")
        saliency.resize(size).save(root / f"mask/{i}.png")
        save_label(root / f"label/{i}.png", np.array(label.resize(size)))
    (root / "pairs.lst").write_text("".join(f"image/{i}.jpg  mask/{i}.png\n\n" for i in IDS))
    return root


@pytest.fixture
def pairs(made, tmp_path) -> Path:
    """The same for a test to break."""
    return shutil.copytree(made, tmp_path / "pairs")


def flags(root: Path, *more: object) -> tuple[object, ...]:
    data = ("--root", root, "--train_list", root / "pairs.lst", "--network", "tests.small_poolnet")
    return (*data, "--max_epoches", 3, "--batch_size", 2, "--lr", LR, "--num_workers", 0, "--session_name", "s", *more)


@pytest.fixture(scope="module")
def whole(commands, made, tmp_path_factory) -> Path:
    """The folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    commands.run(folder, "train_sal.py", *flags(made, "--vis_every", 3))
    return folder


def test_steps_are_those_of_a_plain_loop(whole, made):
    torch.manual_seed(0)
    net = Net().train()
    data = PairedPhotos({f"image/{i}.jpg": f"mask/{i}.png" for i in IDS}, made, None, 0, Net.func.input)
    losses = []
    for step in range(STEPS):
        if step in (0, RENEWED):
            (group,) = net.get_parameter_groups()
            optimizer = torch.optim.Adam(group, lr=LR if step == 0 else LR / 10, weight_decay=5e-4)
        optimizer.zero_grad()
        total = 0.0
        for picture, mask in (data[2 * step], data[2 * step + 1]):
            loss = torch.nn.functional.binary_cross_entropy_with_logits(net(picture[None]), mask[None], reduction="sum")
            (loss / 2).backward()
            total += loss.item() / 2
        losses.append(total)
        optimizer.step()
    assert list(curve(whole / "runs/s", "Train/Loss").values()) == pytest.approx(losses, rel=1e-5)
    assert list(curve(whole / "runs/s", "Lr").values()) == pytest.approx([LR] * RENEWED + [LR / 10] * 2)
    saved = torch.load(whole / "checkpoints/s/s.pth", weights_only=True)
    assert all(torch.allclose(saved[name], tensor, atol=1e-6) for name, tensor in net.state_dict().items())


def test_photos_and_masks(made):
    """Each photo once an epoch, mirrored together with its mask, which is not binarised; crops are padded with what is unknown."""
    data = PairedPhotos({f"image/{i}.jpg": f"mask/{i}.png" for i in IDS}, made, None, 0, Net.func.input)
    assert sorted(map(data.names, range(4))) == sorted(map(data.names, range(4, 8))) == sorted(data.ids)
    mirrored = 0
    for position in range(24):
        i = Path(data.names(position)).stem
        photo, mask = (np.array(Image.open(made / name)) for name in (f"image/{i}.jpg", f"mask/{i}.png"))
        picture, target = data[position]
        if not np.array_equal(target[0].numpy(), mask / np.float32(255)):
            mirrored, photo, mask = mirrored + 1, photo[:, ::-1], mask[:, ::-1]
        assert np.array_equal(target[0].numpy(), mask / np.float32(255))
        expected = photo[:, :, ::-1].astype(np.float32) - np.float32((104.00699, 116.66877, 122.67892))
        np.testing.assert_allclose(picture.permute(1, 2, 0), expected, atol=1e-4)
    assert 4 < mirrored < 20
    labels = MaskedPhotos(IDS, made, made / "label", 140, 0, Net.func.input)
    for i in IDS:
        label = np.array(Image.open(made / f"label/{i}.png"))
        mask = labels.load_masked(i)[1]
        assert (mask == np.select([label == 255, label > 0], [-1, 1], 0)).all() and (mask < 0).any()
    for position in range(4):
        picture, target = labels[position]
        assert picture.shape == (3, 140, 140) and target.shape == (1, 140, 140)
        height = Image.open(made / f"image/{labels.names(position)}.jpg").height
        assert (target[0, height:] == -1).all() and (picture[:, height:] == 0).all()
        assert (target[0, :height] >= 0).any()


def test_what_is_unknown_does_not_count():
    logits, masks = torch.randn(2, 1, 5, 4), torch.rand(2, 1, 5, 4)
    masks[:, :, 2] = -1
    known = torch.cat([logits[:, :, :2], logits[:, :, 3:]], 2), torch.cat([masks[:, :, :2], masks[:, :, 3:]], 2)
    assert saliency_loss(logits, masks).item() == pytest.approx(saliency_loss(*known).item(), rel=1e-6)


@pytest.mark.parametrize("after", [1, RENEWED])
def test_killed_and_resumed(whole, commands, made, tmp_path, after):
    check_killed(commands, tmp_path, "train_sal.py", flags(made), after, whole)
    line = commands.error(tmp_path, "train_sal.py", *flags(made, "--resume", "--crop_size", 112))
    assert "was written with --crop_size None, this run has 112" in line


def test_crops_of_a_devkit_are_computed_together(commands, made, tmp_path):
    (tmp_path / "list.txt").write_text("\n".join(IDS))
    data = ("--voc12_root", made, "--mask_dir", made / "label", "--train_list", "list.txt", "--crop_size", 112)
    more = ("--batch_size", 4, "--max_epoches", 1, "--amp", "bf16")
    losses = []
    for parts in (1, 2):
        arguments = (*data, *flags(made, *more)[4:], "--iter_size", parts, "--session_name", f"s{parts}")
        commands.run(tmp_path, "train_sal.py", *arguments)
        losses.append(curve(tmp_path / f"runs/s{parts}", "Train/Loss")[0])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def resize(path: Path) -> None:
    Image.open(path).resize((120, 130)).save(path)


def shrink(path: Path) -> None:
    for each in (path, path.parents[1] / f"mask/{path.stem}.png"):
        Image.open(each).resize((110, 120)).save(each)


FAULTS = [
    ("image/{}.jpg", Path.unlink, "photo .*{}.jpg does not exist"),
    ("image/{}.jpg", cut, "photo .*{}.jpg cannot be read: image file is truncated"),
    ("image/{}.jpg", lambda path: path.write_bytes(b"\xff\xd8\xff"), "photo .*{}.jpg is not a whole JPEG or PNG file"),
    ("image/{}.jpg", shrink, "photo image/{}.jpg is 110x120 pixels, and the network needs 111 a side: enlarge it"),
    ("mask/{}.png", Path.unlink, "mask .*{}.png does not exist"),
    ("mask/{}.png", resize, r"mask .*{}.png is 120x130 pixels, its photo 130x1\d\d"),
    ("mask/{}.png", lambda path: Image.open(path).convert("1").save(path), "mask .*{}.png has one bit a pixel: save"),
    (
        "mask/{}.png",
        lambda path: Image.open(path).point(lambda value: value > 99).save(path),
        "mask .*{}.png holds 0 and 1 only, where 0..255 was expected: multiply the masks by 255",
    ),
]


@pytest.mark.parametrize(("name", "fault", "message"), FAULTS)
def test_bad_files_are_named_before_the_first_step(name, fault, message, commands, pairs, tmp_path):
    bad = IDS[1], IDS[3]
    for i in bad:
        fault(pairs / name.format(i))
    patterns = [f"image/{i}.jpg: .*{message.format(i)}" for i in bad]
    check_bad_photos(commands, tmp_path, "train_sal.py", flags(pairs), patterns, f"4 photos of {pairs}/pairs.lst")
    if fault is not cut:
        return
    done = commands.run(tmp_path, "train_sal.py", *flags(pairs, "--skip_errors", "--max_epoches", 1))
    assert "2 photos, 1 step of 2 photos" in done.stdout


def test_an_error_lists_the_first_ten(commands, pairs, tmp_path):
    (pairs / "pairs.lst").write_text("".join(f"image/{n}.jpg mask/{n}.png\n" for n in range(13)))
    command = commands.run(tmp_path, "train_sal.py", *flags(pairs), status=1)
    end = f"13 of the 13 photos of {pairs}/pairs.lst can't be trained on, the first 10 listed above"
    assert len(command.stderr) == 11 and command.stderr[-1] == f"train_sal.py: error: {end}"


def test_flags_that_do_not_fit(commands, pairs, tmp_path):
    def line(*arguments: object) -> str:
        return commands.error(tmp_path, "train_sal.py", *arguments)

    assert line(*flags(pairs)[4:]).startswith("give the photos: either --root with a --train_list of pairs, or --voc12")
    assert line("--root", pairs, *flags(pairs)[4:]).startswith("--root goes with --train_list, whose lines are `image")
    assert line("--voc12_root", pairs, *flags(pairs)[4:]).startswith("--mask_dir None: no such folder; with --voc12")
    assert line(*flags(pairs, "--crop_size", 110)) == "--crop_size 110: tests.small_poolnet needs 111 or more"
    (pairs / "pairs.lst").write_text("image/a.jpg\n")
    assert (
        line(*flags(pairs)) == f"{pairs}/pairs.lst, line 1: 'image/a.jpg' is no pair `image mask`, divided by a blank"
    )
    devkit = ("--voc12_root", pairs, "--mask_dir", pairs / "mask", "--train_list", "list.txt", *flags(pairs)[4:])
    (tmp_path / "list.txt").write_text(IDS[0])
    Image.fromarray(np.full((112, 130), 255, np.uint8)).save(pairs / f"mask/{IDS[0]}.png")
    command = commands.run(tmp_path, "train_sal.py", *devkit, status=1)
    assert "holds 0 and 255 only, background and void: masks of 0..255 are read where no" in command.stderr[0]


def test_weights(commands, pairs, tmp_path):
    """Of the backbone alone; of a plain PoolNet and of a joint one, whose edge branch stays; not of DeepLab."""
    torch.manual_seed(1)
    for name, net in (("plain", Net()), ("joint", JointNet()), ("deeplab", DeepLab())):
        torch.save(net.state_dict(), tmp_path / f"{name}.pth")
    plain, joint = (torch.load(tmp_path / f"{name}.pth", weights_only=True) for name in ("plain", "joint"))
    inside = {name.removeprefix("base.resnet."): t for name, t in plain.items() if ".resnet." in name}
    torch.save(inside | {"fc.weight": torch.zeros(3, 8)}, tmp_path / "resnet50_caffe.pth")
    for name, loaded in (("resnet50_caffe", len(inside)), ("plain", len(plain)), ("joint", len(joint))):
        arguments = flags(pairs, "--weights", f"{name}.pth", "--max_epoches", 1, "--session_name", name)
        done = commands.run(tmp_path, "train_sal.py", *arguments)
        assert f"loaded {loaded} tensors from {name}.pth" in done.stdout
    trained = torch.load(tmp_path / "checkpoints/joint/joint.pth", weights_only=True)
    assert list(trained) == list(joint)
    still = {name for name in joint if torch.equal(trained[name], joint[name])}
    edges = {name for name in joint if name.startswith(("block.", "fuse."))}
    assert edges <= still and not any(name.startswith(("edgeinfo.", "score.", "deep_pool.")) for name in still)
    line = commands.error(tmp_path, "train_sal.py", *flags(pairs, "--weights", "deeplab.pth"))
    assert line.startswith("deeplab.pth: ")


def test_a_full_disk(commands, made, whole, tmp_path):
    check_full_disk(commands, tmp_path, "train_sal.py", flags(made), 60_000, whole)


def test_pictures(whole):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(whole / "runs/s")).Reload()
    assert sorted(events.Tags()["images"]) == [f"Saliency/image/{i}.jpg" for i in IDS]
    picture = events.Images(f"Saliency/image/{IDS[0]}.jpg")[0]
    assert (picture.width, picture.height, picture.step) == (3 * 130, 112, 2)
