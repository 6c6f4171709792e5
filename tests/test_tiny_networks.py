"""The miniatures of DeepLab-v2 and PoolNet: the classes of the published networks."""

import pytest
import torch
from torch import Tensor, nn

from network import deeplab_v2_tiny, poolnet_tiny
from network.frozen_norm import FrozenBatchNorm2d
from network.losses import multi_scale_loss, saliency_loss


def photos(count: int = 2, height: int = 96, width: int = 128) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(0)) * 60


def deeplab_loss(net: nn.Module) -> Tensor:
    labels = torch.arange(2 * 96 * 128).reshape(2, 96, 128) // 600 % 21
    return multi_scale_loss(net(photos()), labels)


def poolnet_loss(net: nn.Module) -> Tensor:
    return saliency_loss(net(photos()), (torch.arange(2 * 96 * 128).reshape(2, 1, 96, 128) // 600 % 2).float())


NETWORKS = pytest.mark.parametrize(
    ("network", "loss_of"),
    [(deeplab_v2_tiny.Net, deeplab_loss), (poolnet_tiny.Net, poolnet_loss)],
    ids=["deeplab", "poolnet"],
)


@NETWORKS
def test_everything_is_trained(network, loss_of):
    """DeepLab's batch norms are the exception: they stay as in its initial weights."""
    torch.manual_seed(0)
    net = network().train()
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    frozen = {id(p) for norm in norms for p in norm.parameters() if isinstance(norm, FrozenBatchNorm2d)}
    assert bool(frozen) == (network is deeplab_v2_tiny.Net)
    before = {name: tensor.clone() for name, tensor in net.named_buffers() if "running" in name}
    loss_of(net).backward()
    trained = [parameter for parameter in net.parameters() if id(parameter) not in frozen]
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in trained)
    assert all(torch.equal(tensor, net.get_buffer(name)) == bool(frozen) for name, tensor in before.items())
    grouped = {id(parameter) for group in net.get_parameter_groups() for parameter in group}
    assert grouped == {id(parameter) for parameter in trained}
    assert len(net.group_factors) == len(net.get_parameter_groups())


def test_sizes():
    with torch.inference_mode():
        assert deeplab_v2_tiny.Net().eval()(photos(1)).shape == (1, 21, 12, 16)
        net = poolnet_tiny.Net().eval()
        assert net.smallest_side == 55
        assert net(photos(1, 55, 70)).shape == (1, 1, 55, 70)
        with pytest.raises(RuntimeError, match="too small"):
            net(photos(1, 54, 70))
