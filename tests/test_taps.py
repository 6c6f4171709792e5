"""Convolutions computed by their taps against the convolutions themselves, in float64: values and gradients."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from network.taps import convolve_enlarged, sum_of_convolutions, two_convolutions


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def assert_same(computed: Tensor, expected: Tensor, inputs: list[Tensor]) -> None:
    """Compare values, and the gradients of a random weighted sum of them."""
    torch.testing.assert_close(computed, expected, rtol=1e-10, atol=1e-10)
    weights = torch.randn_like(expected)
    gradients = [torch.autograd.grad((y * weights).sum(), inputs) for y in (computed, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-10)
    assert all(gradient.abs().max() > 0 for gradient in gradients[0])


def test_sum_of_dilated_convolutions():
    torch.manual_seed(0)
    convs = [nn.Conv2d(5, 3, 3, padding=d, dilation=d).double() for d in (1, 2, 6)]  # 6: beyond the borders
    x = drawn(2, 5, 7, 9)
    parameters = [p for conv in convs for p in conv.parameters()]
    assert_same(sum_of_convolutions(x, convs), sum(conv(x) for conv in convs), [x, *parameters])
    assert sum_of_convolutions(x.bfloat16(), [conv.bfloat16() for conv in convs]).dtype == torch.float32


@pytest.mark.parametrize("side", [1, 3])
def test_two_convolutions(side):
    torch.manual_seed(0)
    first, weight, x = nn.Conv2d(4, 6, 3, padding=1, bias=False).double(), drawn(1, 6, side, side), drawn(2, 4, 5, 8)
    expected = F.conv2d(first(x), weight, padding=side // 2)
    assert_same(two_convolutions(x, first, weight), expected, [x, first.weight, weight])


@pytest.mark.parametrize("size", [(4, 5), (7, 9), (13, 31), (4, 21)])
def test_convolution_of_an_enlarged_map(size):
    torch.manual_seed(0)
    x, weight = drawn(2, 6, 4, 5), drawn(3, 6, 3, 3)
    enlarged = F.interpolate(x, size, mode="bilinear", align_corners=True)
    assert_same(convolve_enlarged(x, weight, size), F.conv2d(enlarged, weight, padding=1), [x, weight])
