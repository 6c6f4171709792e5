"""The batched CMA against a plain loop over classes and pairs, in float64."""

import math

import devices
import pytest
import torch
from conftest import without_dropout

from network.cma import fits_gpu, sinusoidal_encoding
from network.edam import EDAM


class Patches(torch.nn.Module):
    """A backbone of stride 8."""

    channels = 6

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 6, 8, 8)

    def features(self, images):
        return self.stem(images)


class Net(EDAM, Patches):
    pass


def layer_norm(x, norm):
    mean = x.mean(-1, keepdim=True)
    std = ((x - mean).pow(2).sum(-1, keepdim=True) / (x.shape[-1] - 1)).sqrt()
    return norm.a_2 * (x - mean) / (std + 1e-6) + norm.b_2


def block_of_one_class(x, block, heads):
    """Return the output of a pre-norm transformer block on tokens (N, D)."""
    y = layer_norm(x, block.input_sublayer["norm"])
    query, key, value = (y @ layer.weight.T + layer.bias for layer in block.attention["linear_layers"])
    width = x.shape[1] // heads
    outputs = []
    for head in range(heads):
        q, k, v = (t[:, head * width : (head + 1) * width] for t in (query, key, value))
        scores = q @ k.T / math.sqrt(width)
        weights = scores.exp() / scores.exp().sum(1, keepdim=True)
        outputs.append(weights @ v)
    out = block.attention["output_linear"]
    x = x + torch.cat(outputs, 1) @ out.weight.T + out.bias
    y = layer_norm(x, block.output_sublayer["norm"])
    first, second = block.feed_forward["w_1"], block.feed_forward["w_2"]
    y = y @ first.weight.T + first.bias
    y = 0.5 * y * (1 + torch.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)))
    return x + y @ second.weight.T + second.bias


def loop_over_classes(net, images):
    """Return logits (P, 2, C) of pairs (P, 2, 3, H, W), written from the formula."""
    pairs = len(images)
    features = net.features(images.flatten(0, 1))
    scores = net.mask_layer(features)
    masks = (scores / scores.pow(2).sum(1, keepdim=True).sqrt()).abs()
    reduced = net.d_d(features)
    dim, tokens = reduced.shape[1], reduced.shape[2] * reduced.shape[3]
    position = exact_encoding(tokens, dim)
    logits = torch.zeros(pairs, 2, net.num_classes, dtype=images.dtype, device=images.device)
    for c in range(net.num_classes):
        for pair in range(pairs):
            rows = []
            for image in range(2):
                masked = reduced[2 * pair + image] * masks[2 * pair + image, c]  # (D, h, w)
                rows.append(masked.flatten(1).T + position + net.embedding.segment.weight[image])
            attended = block_of_one_class(torch.cat(rows), net.trans_list[c][0], 2)
            for image in range(2):
                mean = attended[image * tokens : (image + 1) * tokens].mean(0)
                logits[pair, image, c] = mean @ net.fc_list[c].weight.flatten()
    return logits


def exact_encoding(length, dim):
    frequencies = 10000 ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    angles = torch.arange(length, dtype=torch.float64)[:, None] * frequencies
    return torch.stack([angles.sin(), angles.cos()], 2).flatten(1).to(devices.name)


def ready(net):
    """Return the network in float64, without dropout, with random biases and norms and an exact table of 64 positions."""
    for name, parameter in net.named_parameters():
        if name.endswith(("bias", "a_2", "b_2")):
            torch.nn.init.normal_(parameter, std=0.3)
    net = without_dropout(net).double().train().to(devices.name)
    net.embedding.position.pe = exact_encoding(64, net.d_d.out_channels)[None]
    return net


def make(num_classes: int = 20):
    torch.manual_seed(0)
    return Net(num_classes, dim=16, hidden=24, crop_size=32)


def draw(pairs: int, *size: int) -> torch.Tensor:
    return torch.randn(pairs, 2, 3, *size, dtype=torch.float64).to(devices.name)


def results(forward, net, images):
    """Return the logits, and the gradients of the sum of their squares."""
    net.zero_grad()
    logits = forward(images)
    logits.square().sum().backward()
    return logits.detach(), {name: p.grad for name, p in net.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("num_classes", "size"),
    [(20, (32, 32)), (20, (40, 24)), (20, (56, 64)), (1, (32, 32)), (3, (32, 32)), (37, (40, 24))],
)
def test_batched_equals_the_loop(num_classes, size):
    net = ready(make(num_classes))
    images = draw(3, *size)
    logits, grads = results(net, net, images)
    assert logits.shape == (3, 2, num_classes)
    expected, expected_grads = results(lambda x: loop_over_classes(net, x), net, images)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(grads, expected_grads, rtol=1e-7, atol=1e-9)
    assert net.forward_cam(images[0]).shape == (2, num_classes + 1, size[0] // 8, size[1] // 8)


def test_parameter_groups():
    net = make()
    groups = net.get_parameter_groups()
    assert [id(group[0]) for group in groups[:2]] == [id(net.stem.weight), id(net.stem.bias)]
    assert [len(group) for group in groups] == [1, 1, 22, 0, 1 + 20 * 16, 0]


def test_position_table_and_its_extension():
    exact = exact_encoding(300, 16).cpu()
    torch.testing.assert_close(sinusoidal_encoding(300, 16).double(), exact, rtol=0, atol=2e-5)
    embed, tokens = make().embedding.eval(), torch.zeros(1, 1, 2, 46, 16)  # the table has 16 positions
    torch.testing.assert_close(embed(tokens)[..., :16, :], embed(tokens[..., :16, :]), rtol=0, atol=0)


def test_recomputed_activations_have_the_same_dropout(monkeypatch):
    """Logits and gradients are the same bits whether backward keeps or recomputes activations."""
    net, images = make().double().train(), draw(2, 32, 32).cpu()

    def seeded(seed: int) -> list[torch.Tensor]:
        torch.manual_seed(seed)
        logits, grads = results(net, net, images)
        return [logits, *grads.values()]

    kept = seeded(1)
    assert not torch.equal(kept[0], seeded(2)[0])
    monkeypatch.setattr("network.cma._RECOMPUTE_ABOVE", 0)
    assert all(map(torch.equal, seeded(1), kept))


@pytest.mark.parametrize(("free", "fits"), [(139, False), (141, True)])
def test_memory_of_a_gpu_decides_what_is_kept(monkeypatch, free, fits):
    """A million numbers of input need 240 MB, of which PyTorch holds 100 MB."""
    for name, value in (("memory_reserved", 300 * 10**6), ("memory_allocated", 200 * 10**6)):
        monkeypatch.setattr(torch.cuda, name, lambda *device, value=value: value)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free * 10**6, 80 * 10**9))
    assert fits_gpu(10**6, torch.device("cuda", 0)) == fits and not fits_gpu(10**6, torch.device("cpu"))


def test_all_classes_at_once_where_they_fit(monkeypatch):
    net, images, calls = ready(make()), draw(2, 32, 32), []

    def class_logits(reduced, masks, classes, keep):
        calls.append((len(classes), keep))
        return type(net).class_logits(net, reduced, masks, classes, keep)

    monkeypatch.setattr(net, "class_logits", class_logits)
    logits = []
    for fits in (False, True):
        monkeypatch.setattr("network.edam.fits_gpu", lambda numbers, device, fits=fits: fits)
        logits.append(net(images))
    assert calls == [(5, False)] * 4 + [(20, True)]
    torch.testing.assert_close(*logits, rtol=0, atol=1e-12)
