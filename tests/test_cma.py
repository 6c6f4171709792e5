"""The batched CMA against a plain loop over classes and pairs, in float64."""

import math

import devices
import pytest
import torch
from conftest import without_dropout

from network.cma import fits_gpu, sinusoidal_encoding
from network.edam import EDAM
from network.resnet38_EDAM_cls import Net


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
    position = torch.zeros(tokens, dim, dtype=images.dtype, device=images.device)
    for p in range(tokens):
        for i in range(0, dim, 2):
            angle = p / 10000 ** (i / dim)
            position[p, i], position[p, i + 1] = math.sin(angle), math.cos(angle)
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


def make(num_classes: int = 20):
    torch.manual_seed(0)
    net = Net(num_classes, widths=(4, 4, 8, 8, 8, 16, 16), depths=(1, 1, 1, 1), dim=16, hidden=24, crop_size=32)
    return ready(net)


def ready(net):
    """Return the network in float64, without dropout, with random biases and norms."""
    for name, parameter in net.named_parameters():
        if name.endswith(("bias", "a_2", "b_2")):
            torch.nn.init.normal_(parameter, std=0.3)
    return without_dropout(net).double().train().to(devices.name)


@pytest.fixture
def net():
    return make()


@pytest.mark.parametrize(
    ("num_classes", "size"),
    [(20, (32, 32)), (20, (40, 24)), (20, (56, 64)), (1, (32, 32)), (3, (32, 32)), (37, (40, 24))],
)
def test_batched_equals_the_loop(num_classes, size):
    net = make(num_classes)
    net.embedding.position.pe = exact_encoding(64, 16)[None].to(devices.name)  # the network's own table is float32
    images = torch.randn(3, 2, 3, *size, dtype=torch.float64).to(devices.name)
    with torch.no_grad():
        logits = net(images)
        assert logits.shape == (3, 2, num_classes)
        torch.testing.assert_close(logits, loop_over_classes(net, images), rtol=0, atol=1e-9)


class Stride16(torch.nn.Module):
    """A backbone unlike ResNet38d."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.channels = width
        self.stem = torch.nn.Conv2d(3, width, 16, 16)

    def features(self, images):
        return self.stem(images)


class OtherNet(EDAM, Stride16):
    pass


def test_head_on_another_backbone():
    torch.manual_seed(0)
    net = ready(OtherNet(num_classes=7, dim=8, hidden=12, crop_size=64, width=6))
    net.embedding.position.pe = exact_encoding(64, 8)[None].to(devices.name)
    images = torch.randn(2, 2, 3, 64, 48, dtype=torch.float64).to(devices.name)
    with torch.no_grad():
        torch.testing.assert_close(net(images), loop_over_classes(net, images), rtol=0, atol=1e-9)
        assert net.forward_cam(images[0]).shape == (2, 8, 4, 3)
    groups = net.get_parameter_groups()
    assert [id(group[0]) for group in groups[:2]] == [id(net.stem.weight), id(net.stem.bias)]
    assert [len(group) for group in groups] == [1, 1, 9, 0, 1 + 7 * 16, 0]


def exact_encoding(length, dim):
    angles = torch.arange(length, dtype=torch.float64)[:, None] / 10000 ** (
        torch.arange(0, dim, 2, dtype=torch.float64) / dim
    )
    return torch.stack([angles.sin(), angles.cos()], 2).flatten(1)


def test_position_table_and_its_extension(net):
    torch.testing.assert_close(sinusoidal_encoding(300, 16).double(), exact_encoding(300, 16), rtol=0, atol=2e-5)
    tokens = torch.zeros(1, 1, 2, 46, 16, dtype=torch.float64, device=devices.name)  # the table has 16 positions
    torch.testing.assert_close(net.embedding(tokens)[..., :16, :], net.embedding(tokens[..., :16, :]), rtol=0, atol=0)


@pytest.mark.parametrize("num_classes", [3, 20, 37])
def test_gradients_of_batched_equal_the_loop(num_classes):
    net = make(num_classes)
    net.embedding.position.pe = exact_encoding(16, 16)[None].to(devices.name)
    images = torch.randn(2, 2, 3, 32, 32, dtype=torch.float64).to(devices.name)
    grads = []
    for forward in (net, lambda x: loop_over_classes(net, x)):
        net.zero_grad()
        forward(images).square().sum().backward()
        grads.append({name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name], rtol=1e-7, atol=1e-9, msg=name)


def test_recomputed_activations_have_the_same_dropout(monkeypatch):
    """Logits and gradients are the same bits whether backward keeps or recomputes activations."""
    torch.manual_seed(0)
    net = Net(widths=(4, 4, 8, 8, 8, 16, 16), depths=(1, 1, 1, 1), dim=16, hidden=24, crop_size=32).double().train()
    images = torch.randn(2, 2, 3, 32, 32, dtype=torch.float64)

    def results(seed: int) -> list[torch.Tensor]:
        net.zero_grad()
        torch.manual_seed(seed)
        logits = net(images)
        logits.square().sum().backward()
        return [logits.detach(), *(p.grad.clone() for p in net.parameters() if p.grad is not None)]

    kept = results(1)
    assert not torch.equal(kept[0], results(2)[0])
    monkeypatch.setattr("network.cma._RECOMPUTE_ABOVE", 0)
    assert all(map(torch.equal, results(1), kept))


@pytest.mark.parametrize(("free", "fits"), [(139, False), (141, True)])
def test_memory_of_a_gpu_decides_what_is_kept(monkeypatch, free, fits):
    """A million numbers of input need 240 MB, of which PyTorch holds 100 MB."""
    for name, value in (("memory_reserved", 300 * 10**6), ("memory_allocated", 200 * 10**6)):
        monkeypatch.setattr(torch.cuda, name, lambda *device, value=value: value)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free * 10**6, 80 * 10**9))
    assert fits_gpu(10**6, torch.device("cuda", 0)) == fits and not fits_gpu(10**6, torch.device("cpu"))


def test_all_classes_at_once_where_they_fit(monkeypatch, net):
    images, calls = torch.randn(2, 2, 3, 32, 32, dtype=torch.float64).to(devices.name), []

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
