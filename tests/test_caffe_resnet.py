"""The ResNet of DeepLab-v2 and PoolNet: frozen batch norms against PyTorch's own."""

import torch
from torch import Tensor, nn

from network.deeplab_v2 import Net

OPTIONS = {"depths": (1, 2, 1, 1), "widths": (8, 16, 16, 24, 16), "rates": (1, 2)}


def drawn(net: Net) -> Net:
    """Return the network with every tensor drawn at random, in float64; variances positive."""
    torch.manual_seed(0)
    for name, tensor in net.double().state_dict().items():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 2) if name.endswith("var") else tensor.normal_(std=0.2)
    return net


def gradients(net: Net) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Return the logits of a photo, and the gradient of every convolution's parameters."""
    torch.manual_seed(1)
    logits = net(torch.randn(2, 3, 49, 65, dtype=torch.float64))
    sum((map_ * torch.randn_like(map_)).sum() for map_ in logits).backward()
    convs = ((name, module) for name, module in net.named_modules() if isinstance(module, nn.Conv2d))
    return logits, {f"{name}.{key}": p.grad for name, module in convs for key, p in module.named_parameters()}


def test_frozen_norms_compute_by_their_stored_statistics():
    net, plain = drawn(Net(**OPTIONS).train()), drawn(Net(**OPTIONS, norm=nn.BatchNorm2d).train())
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    for module in plain.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    (logits, grads), (expected_logits, expected) = gradients(net), gradients(plain)
    torch.testing.assert_close(logits, expected_logits, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(grads, expected, rtol=1e-9, atol=1e-9)
    assert all(gradient.abs().max() > 0 for gradient in grads.values()) and len(grads) == 24
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)
    assert len(norms) == 20 and all(p.grad is None for norm in norms for p in norm.parameters())
    with torch.no_grad():
        logits = net.eval()(picture := torch.randn(1, 3, 49, 65, dtype=torch.float64))
        net.fold_batch_norms()
        torch.testing.assert_close(net(picture), logits, rtol=1e-9, atol=1e-9)


def test_bfloat16_gradients_are_float32():
    net = Net(**OPTIONS).train()
    with torch.autocast("cpu", torch.bfloat16):
        logits = net(torch.randn(1, 3, 49, 65))
    sum(map_.float().sum() for map_ in logits).backward()
    assert all(p.grad.dtype == torch.float32 for p in net.parameters() if p.requires_grad)
