"""Attention against the formula in float64: exact without dropout, and with the dropout's mask given."""

import math

import pytest
import torch
from devices import limit

from network.attention import attention

TOKENS = 151  # the last block is smaller


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr("network.attention.BLOCK", 2**15)


def formula(q, k, v, mask):
    return (torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), -1) * mask) @ v


def dropout_mask(q, k, p, seed):
    """Return 0 or 1 / (1 - p) for each weight: what `attention` gives for v = identity, over the weights."""
    torch.manual_seed(seed)
    identity = torch.eye(k.shape[2], dtype=k.dtype).expand(*k.shape[:2], -1, -1)
    kept = attention(q, k, identity, p) != 0
    return kept.double() / (1 - round(p * 2**16) / 2**16)


def compare(q, k, v, upstream, p=0.0, mask=1.0, seed=3):
    """Yield output and gradients of attention, each with that of the formula in float64."""
    results = []
    for function, dtype in ((lambda *x: attention(*x, p), q.dtype), (lambda *x: formula(*x, mask), torch.float64)):
        torch.manual_seed(seed)
        inputs = [x.to(dtype, copy=True).requires_grad_() for x in (q, k, v)]
        out = function(*inputs)
        assert out.dtype == dtype
        results.append([out, *torch.autograd.grad(out, inputs, upstream.to(dtype))])
    return zip(*results, strict=True)


def test_exact_without_dropout(device):
    torch.manual_seed(0)
    for found, expected in compare(*torch.randn(4, 2, 3, TOKENS, 16).to(device)):
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=limit(1e-6))


@pytest.mark.parametrize("factor", [1, 1e3])  # scores up to 1e7, whose exponentials are infinite
@pytest.mark.parametrize("p", [0.3, 1.0])
def test_exact_with_a_given_mask(factor, p):
    torch.manual_seed(2)
    q, k, v, upstream = torch.randn(4, 1, 2, TOKENS, 4, dtype=torch.float64)
    q, k = q * factor, k * factor
    for found, expected in compare(q, k, v, upstream, p, dropout_mask(q, k, p, seed=3) if p < 1 else 0.0):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_dropout_decisions():
    torch.manual_seed(1)
    tokens = 300
    q, k = torch.randn(2, 2, 3, tokens, 8, dtype=torch.float64)
    kept = dropout_mask(q, k, 0.1, seed=5) != 0
    assert kept.double().mean().item() == pytest.approx(0.9, abs=2e-3)  # 540000 decisions
    assert torch.equal(kept, dropout_mask(q, k, 0.1, seed=5) != 0)
    assert not torch.equal(kept, dropout_mask(q, k, 0.1, seed=6) != 0)
    rows = kept.double().mean(-1).flatten()
    assert rows.std().item() == pytest.approx(math.sqrt(0.09 / tokens), rel=0.1)  # they are independent
    assert len({row.tobytes() for row in kept.flatten(0, 2).numpy()}) == len(rows)


@pytest.mark.parametrize(("dtype", "p"), [(torch.bfloat16, 0.0), (torch.bfloat16, 0.3), (torch.float16, 0.3)])
def test_half_precision(dtype, p):
    torch.manual_seed(4)
    q, k, v, upstream = torch.randn(4, 1, 1, 1000, 16).to(dtype)
    mask = dropout_mask(q, k, p, seed=3) if p else 1.0
    with torch.autocast("cpu", torch.bfloat16):
        for found, expected in compare(q, k, v, upstream, p, mask):
            assert found.dtype == dtype
            assert ((found.double() - expected).norm() / expected.norm()).item() < 1e-2
