"""The miniatures of DeepLab-v2 and PoolNet: the classes of the published networks, with batch norms that learn."""

import pytest
import torch
from torch import Tensor, nn

from network import deeplab_v2_tiny, poolnet_tiny
from network.saliency_loss import saliency_loss
from network.segmentation_loss import multi_scale_loss


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
    torch.manual_seed(0)
    net = network().train()
    before = {name: tensor.clone() for name, tensor in net.named_buffers() if "running" in name}
    loss_of(net).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in net.parameters())
    assert all(not torch.equal(tensor, net.get_buffer(name)) for name, tensor in before.items())
    grouped = [parameter for group in net.get_parameter_groups() for parameter in group]
    assert len(grouped) == len(list(net.parameters())) and len(net.group_factors) == len(net.get_parameter_groups())


@NETWORKS
def test_folded_batch_norms_compute_the_same(network, loss_of):
    torch.manual_seed(0)
    net = network().train()
    with torch.inference_mode():
        net(photos())  # statistics that are not those of the start
        before = net.eval()(photos())
        net.fold_batch_norms()
        after = net(photos())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in net.modules())
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)


def test_sizes():
    with torch.inference_mode():
        assert deeplab_v2_tiny.Net().eval()(photos(1)).shape == (1, 21, 25, 33)
        net = poolnet_tiny.Net().eval()
        assert net.smallest_side == 55
        assert net(photos(1, 55, 70)).shape == (1, 1, 55, 70)
        with pytest.raises(RuntimeError, match="too small"):
            net(photos(1, 54, 70))
