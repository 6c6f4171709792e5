"""EDAM and DeepLab-v2 on a backbone of timm: its architecture, what is trained, and the commands."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from training import flags, write_pairs

from network import deeplab_v2_timm, timm_EDAM
from network.frozen_norm import unfreeze_batch_norms
from network.weights import _package_file, load_weights
from tool.image_ops import Normalization
from voc12.images import load_label, load_photo

LITE2 = "tf_efficientnet_lite2"
FILE = _package_file(LITE2)
# Tan and Le, 2019, table 1, without squeeze and excitation: blocks of each stage, and the stride of its first one.
DEPTHS = {"tf_efficientnet_lite0": (1, 2, 2, 3, 3, 4, 1), LITE2: (1, 3, 3, 4, 4, 5, 1)}
STRIDES = (1, 2, 2, 2, 1, 2, 1)
GIVEN = {backbone: torch.load(_package_file(backbone), weights_only=True) for backbone in DEPTHS}
FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
OTHERS = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def numbered_blocks(backbone: str) -> list[tuple[int, tuple[int, int]]]:
    """Return (number in the file, (stage, number in it)) of each block."""
    stages = enumerate(DEPTHS[backbone])
    return list(enumerate((stage, i) for stage, depth in stages for i in range(depth)))


@pytest.fixture(scope="module")
def loaded():
    torch.manual_seed(0)
    net = timm_EDAM.Net()
    report = load_weights(net, "imagenet")
    assert (report.path, report.loaded, report.unexpected) == (str(FILE), 384, ["_fc.weight", "_fc.bias"])
    return net.train()


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
    for number, (stage, i) in numbered_blocks(backbone):
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


def test_batch_norms_are_not_trained(loaded):
    before = {name: tensor.clone() for name, tensor in loaded.state_dict().items()}
    loaded(torch.rand(1, 2, 3, 64, 64)).square().sum().backward()
    trained = {name: parameter for name, parameter in loaded.named_parameters() if parameter.requires_grad}
    assert all(
        parameter.grad.abs().max() > 0 for name, parameter in trained.items() if "linear_layers.1.bias" not in name
    )
    norms = [name for name, module in loaded.named_modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert len(norms) == 64 and not any(name.startswith(tuple(f"{n}." for n in norms)) for name in trained)
    assert all(torch.equal(tensor, before[name]) for name, tensor in loaded.state_dict().items())
    names = {id(parameter): name for name, parameter in loaded.named_parameters()}
    groups = [[names[id(parameter)] for parameter in group] for group in loaded.get_parameter_groups()]
    assert [len(group) for group in groups] == [64, 0, 22, 0, 321, 0]
    assert all(name.startswith(f"{LITE2}.") for name in groups[0])
    assert sorted(name for group in groups for name in group) == sorted(trained)
    assert loaded.embedding.segment.weight.shape == (5, 64)
    assert loaded.trans_list[0][0].feed_forward["w_1"].weight.shape == (256, 64)


def test_commands_of_edam(drawn, tmp_path, commands):
    """Train, resume and label; another backbone or stride is an error."""
    write_pairs(tmp_path / "pairs.txt", 2)
    words = [word for word in flags(drawn) if word not in ("--network", "tests.small_net")]
    network = ("--network", "network.timm_EDAM")
    train = ("train_EDAM_cls.py", *words, *network, "--weights", "imagenet", "--session_name", "t")
    commands.run(tmp_path, *train)
    state = tmp_path / "checkpoints/t/state.pth"
    other = commands.error(tmp_path, *train, "--backbone", "resnet18", "--resume", state)
    assert "--backbone" in other and "resnet18" in other
    trained = tmp_path / "checkpoints/t/t.pth"
    commands.run(tmp_path, *train[:-1], "head", "--freeze_backbone")
    head, whole = (torch.load(tmp_path / f"checkpoints/{name}/{name}.pth", weights_only=True) for name in ("head", "t"))
    head, whole = (saved.get("model", saved) for saved in (head, whole))
    conv, mask = f"{LITE2}.conv_head.weight", "mask_layer.weight"
    assert not torch.equal(head[mask], torch.zeros_like(head[mask])) and not torch.equal(head[conv], whole[conv])
    assert torch.equal(head[conv], GIVEN[LITE2]["_conv_head.weight"])
    (tmp_path / "list.txt").write_text("2099_000001\n2099_000002\n")
    infer = ("infer_cls.py", *network, "--weights", trained, "--voc12_root", drawn)
    infer += ("--infer_list", "list.txt", "--out_cam", "CAM", "--num_workers", 0, "--crf_workers", 0)
    run = commands.run(tmp_path, *infer)
    assert f"loaded 728 tensors from {trained}" in run.stdout
    maps = np.load(tmp_path / "CAM/2099_000001.npy", allow_pickle=True).item()
    assert all(value.max() == pytest.approx(1) for value in maps.values())
    assert "--backbone" in commands.error(tmp_path, *infer, "--backbone", "resnet18", "--overwrite")
    assert "output_stride" in commands.error(tmp_path, *infer, "--output_stride", 8)


def test_deeplab_on_the_same_backbone():
    torch.manual_seed(0)
    net = deeplab_v2_timm.Net(output_stride=8, scales=(0.5,))
    report = load_weights(net, "imagenet")
    assert report.loaded == 384 and {name.rpartition(".")[0] for name in report.missing} == {
        f"base.aspp.c{i}" for i in range(4)
    }
    assert [conv.dilation[0] for conv in net.base.aspp.children()] == [6, 12, 18, 24]
    assert [conv.dilation[0] for conv in deeplab_v2_timm.Net().base.aspp.children()] == [3, 6, 9, 12]
    assert net.input == timm_EDAM.Net().input
    x = torch.rand(1, 3, 64, 48)
    whole, half, highest = net.train()(x)
    assert (whole.shape, half.shape) == ((1, 21, 8, 6), (1, 21, 4, 3))
    with torch.inference_mode():
        torch.testing.assert_close(net.eval()(x), highest)
        torch.testing.assert_close(
            sum(conv(reference(x, 8)) for conv in net.base.aspp.children()), whole, rtol=0, atol=1e-4
        )
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


def test_commands_of_deeplab(drawn, tmp_path, commands):
    (tmp_path / "list.txt").write_text("2099_000001\n2099_000002\n")
    network = ("--voc12_root", drawn, "--network", "network.deeplab_v2_timm", "--num_workers", 0)
    train = ("--label_dir", drawn / "SegmentationClass", "--train_list", "list.txt", "--weights", "imagenet")
    steps = ("--max_iters", 2, "--batch_size", 2, "--iter_size", 1, "--crop_size", 65)
    commands.run(tmp_path, "train_deeplab.py", *network, *train, *steps, "--freeze_backbone")
    trained = torch.load(tmp_path / "checkpoints/DeepLabV2/DeepLabV2.pth", weights_only=True)
    assert torch.equal(trained[f"base.{LITE2}.conv_head.weight"], GIVEN[LITE2]["_conv_head.weight"])
    assert trained["base.aspp.c0.bias"].abs().max() > 0  # it starts at 0
    weights = ("--weights", "checkpoints/DeepLabV2/DeepLabV2.pth", "--infer_list", "list.txt")
    commands.run(tmp_path, "infer_deeplab.py", *network, *weights, "--out_pred", "PRED", "--crf_workers", 0)
    assert load_label(tmp_path / "PRED/2099_000002.png").max() <= 20


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
