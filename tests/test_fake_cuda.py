"""Networks as on a GPU, without one: under FakeTensorMode a tensor made on the CPU meets those on "cuda" and fails."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from network import make_net
from network.losses import multi_scale_loss, saliency_loss
from network.poolnet import JointNet
from pseudo_label.predict import class_maps, probabilities, saliency_logits
from tool import image_ops
from tool.precision import Autocast, autocast, inference_form, setup_precision, training_form

CUDA = torch.device("cuda")
EDAM = ("network.resnet38_EDAM_cls", "network.resnet38_EDAM_tiny", "network.timm_EDAM")
DEEPLAB = tuple(f"network.deeplab_v2{name}" for name in ("", "_resnet38", "_timm", "_tiny", "_torchvision"))
POOLNET = ("network.poolnet", "network.poolnet_tiny", "joint")
PRECISIONS = pytest.mark.parametrize(("amp", "tf32"), [("off", False), ("off", True), ("bf16", False)])
NETWORKS = pytest.mark.parametrize("network", [*EDAM, *DEEPLAB, *POOLNET])


def fake_apply(module: nn.Module, convert: Callable[[torch.Tensor], torch.Tensor]) -> nn.Module:
    """Do what Module._apply does: it cannot replace the data of fake parameters."""
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            setattr(part, name, nn.Parameter(convert(parameter.detach()), parameter.requires_grad))
        for name, buffer in list(part.named_buffers(recurse=False)):
            setattr(part, name, convert(buffer))
    return module


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    """Fake tensors, autocast for a GPU, and 80 GB of free memory on it."""
    monkeypatch.setattr(nn.Module, "_apply", fake_apply)
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (80 * 2**30, 80 * 2**30))
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    with FakeTensorMode():
        yield
    image_ops._nearest.cache_clear()
    setup_precision(tf32=False)


def make(network: str) -> nn.Module:
    return JointNet() if network == "joint" else make_net(network, init_weights=False)


@PRECISIONS
@NETWORKS
def test_training_forward(network, amp, tf32):
    net = training_form(make(network), CUDA, amp, tf32).train()
    model = Autocast(net, CUDA, amp)
    if network in EDAM:
        found = [model(torch.zeros(2, 2, 3, 96, 96, device=CUDA)).float()]
    else:
        labels = torch.zeros(2, 129, 129, dtype=torch.uint8, device=CUDA)
        found = model(torch.zeros(2, 3, 129, 129, device=CUDA))
        if network in DEEPLAB:
            multi_scale_loss([logits.float() for logits in found], labels)
        else:
            found = [found]
            saliency_loss(found[0].float(), labels[:, None].float(), 2)
    assert all(logits.device.type == "cuda" for logits in found)
    check_format(net, amp, tf32)


@PRECISIONS
@NETWORKS
def test_inference(network, amp, tf32):
    net = inference_form(make(network), CUDA, amp, tf32)
    photo = torch.zeros(75, 100, 3, dtype=torch.uint8)
    with autocast(CUDA, amp):
        if network in EDAM:
            found, shape = class_maps(net, [photo, photo[:40, :50]], [3, 7], (75, 100), CUDA), (2, 75, 100)
        elif network in DEEPLAB:
            found, shape = probabilities(net, photo, CUDA, flip=True), (21, 75, 100)
        else:
            found, shape = saliency_logits(net, photo, CUDA), (75, 100)
    assert found.device.type == "cuda" and found.shape == shape and found.dtype == torch.float32
    check_format(net, amp, tf32)


def check_format(net: nn.Module, amp: str, tf32: bool) -> None:
    """Check that weights are in channels-last format with half precision or TF32 only."""
    weights = [layer.weight for layer in net.modules() if isinstance(layer, nn.Conv2d)]
    weights = [weight for weight in weights if min(weight.shape[1:]) > 1]  # of others both formats are one
    expected = amp != "off" or tf32
    assert weights and all(weight.is_contiguous(memory_format=torch.channels_last) == expected for weight in weights)


def test_tensor_made_on_the_cpu_fails():
    layer = nn.Conv2d(3, 4, 3).to(CUDA)
    layer.register_forward_hook(lambda *args: args[-1] + torch.zeros(4, 1, 1))
    with pytest.raises(RuntimeError, match="cpu"):
        layer(torch.zeros(1, 3, 8, 8, device=CUDA))
