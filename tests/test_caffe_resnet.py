"""The ResNet of DeepLab-v2 and PoolNet: convolutions that do the work of frozen batch norms while it is trained."""

import small_deeplab
import torch
from torch import Tensor, nn

from network.deeplab_v2 import Net

OPTIONS = {"depths": (1, 2, 1, 1), "widths": (8, 16, 16, 24, 16), "rates": (1, 2)}


def drawn(net: Net) -> Net:
    """Every tensor drawn at random, in float64; variances positive."""
    torch.manual_seed(0)
    for name, tensor in net.double().state_dict().items():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 2) if name.endswith("var") else tensor.normal_(std=0.2)
    return net


def gradients(net: Net) -> tuple[list[Tensor], dict[str, Tensor]]:
    """The logits of a picture, and the gradient of every convolution's parameters."""
    torch.manual_seed(1)
    logits = net(torch.randn(2, 3, 49, 65, dtype=torch.float64))
    sum((map_ * torch.randn_like(map_)).sum() for map_ in logits).backward()
    convs = ((name, module) for name, module in net.named_modules() if isinstance(module, nn.Conv2d))
    return logits, {f"{name}.{key}": p.grad for name, module in convs for key, p in module.named_parameters()}


def test_frozen_norms_are_computed_by_the_convolutions():
    net, plain = drawn(Net(**OPTIONS).train()), drawn(Net(**OPTIONS, norm=nn.BatchNorm2d).train())
    for module in plain.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()  # PyTorch's own, by the stored statistics
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    (logits, grads), (expected_logits, expected) = gradients(net), gradients(plain)
    assert len(net.base.folded()) == 20 and not plain.base.folded()
    torch.testing.assert_close(logits, expected_logits, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(grads, expected, rtol=1e-9, atol=1e-9)
    assert all(gradient.abs().max() > 0 for gradient in grads.values()) and len(grads) == 24
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)
    assert all(
        p.grad is None for module in net.modules() if isinstance(module, nn.BatchNorm2d) for p in module.parameters()
    )


def test_weights_are_scaled_once_for_all_sizes(monkeypatch):
    net, calls = small_deeplab.Net(), []
    folded = net.base.folded
    monkeypatch.setattr(net.base, "folded", lambda: calls.append(0) or folded())
    assert len(net(torch.zeros(1, 3, 49, 65))) == 3
    assert len(calls) == 1


def test_autocast_is_met_with_weights_of_its_type():
    net = small_deeplab.Net()
    with torch.autocast("cpu", torch.bfloat16):
        assert {weight.dtype for weight, _ in net.base.folded().values()} == {torch.bfloat16}
        logits = net(torch.randn(1, 3, 49, 65))
    sum(map_.float().sum() for map_ in logits).backward()
    assert all(p.grad.dtype == torch.float32 for p in net.parameters() if p.requires_grad)
    assert {weight.dtype for weight, _ in net.base.folded().values()} == {torch.float32}
