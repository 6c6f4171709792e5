"""benchmark.py: what it counts as work, and the table it prints. Its times are not tested."""

import sys

import pytest
import torch

import benchmark
import measuring
from tool.cli import UserError


def test_operations_are_two_per_multiplication():
    conv = torch.nn.Conv2d(8, 16, 3, padding=1, bias=False, device="meta")
    x = torch.empty(2, 8, 10, 12, device="meta")
    forward = 2 * 2 * 16 * 8 * 9 * 10 * 12
    assert measuring.operations(lambda: conv(x)) == forward
    assert measuring.operations(lambda: conv(x).sum().backward()) == 2 * forward  # no gradient of x is asked for


def test_class_maps_of_a_photo_are_the_known_amount_of_work():
    work = measuring.maps_operations("network.resnet38_EDAM_cls", (500, 375))
    assert 11.3e12 < work < 11.5e12  # eight views, 11.4 TFLOP


def test_a_training_step_of_a_pair_is_the_known_amount_of_work():
    work = measuring.operations(lambda: measuring.meta_step("network.resnet38_EDAM_cls", (1, 2, 3, 368, 368)))
    assert 3.6e12 < work < 3.8e12  # forward and backward of two images, frozen layers forward only


def step_operations(network: str, batch: int, crop: int) -> int:
    return measuring.operations(lambda: measuring.meta_step(network, (batch, 3, crop, crop)))


def photo_operations(network: str, size: tuple[int, int]) -> int:
    return measuring.operations(lambda: measuring.meta_photo(network, size))


def test_deeplab_and_poolnet_are_the_known_amount_of_work():
    step = step_operations("network.deeplab_v2", 1, 321)
    assert 0.82e12 < step < 0.84e12  # forward and backward of a crop, 0.83 TFLOP
    assert step_operations("network.deeplab_v2", 2, 321) == 2 * step
    assert 0.485e12 < photo_operations("network.deeplab_v2", (500, 375)) < 0.495e12  # 0.49 TFLOP
    # 0.28 TFLOP as published: convolutions of enlarged maps, and the last two in a row, are computed by their taps.
    assert 0.165e12 < photo_operations("network.poolnet", (500, 375)) < 0.175e12


def test_the_own_convolutions_are_all_timed_each_shape_once(monkeypatch):
    """With 1 s for each call, they take as many seconds as there are convolutions; their operations are the network's."""
    timed = []

    def timer(call) -> float:
        timed.append(call)
        return 1.0

    def seconds(call) -> float:
        return measuring.bare_seconds(call, torch.device("cpu"), "fp32", timer)

    # At each of two scales: stem, four blocks of four, the ASPP's taps. The first layer's input needs no gradient.
    assert seconds(lambda: measuring.meta_photo("small_deeplab", (65, 49))) == 2 * 18
    assert 0 < len(timed) < 2 * 18
    assert all(call.args[0].is_contiguous(memory_format=torch.channels_last) for call in timed)
    timed.clear()
    assert seconds(lambda: measuring.meta_step("small_deeplab", (1, 3, 65, 65))) == 2 * 18 * 2
    assert all(call.args[0].is_contiguous() for call in timed)
    with measuring.FlopCounterMode(display=False) as counter:
        for call in timed:
            call()
    assert counter.get_total_flops() < step_operations("small_deeplab", 1, 65)


def test_the_table_is_printed_and_written(tmp_path, monkeypatch, capsys):
    out = tmp_path / "table.md"
    flags = ["--quick", "--device", "cpu", "--network", "network.resnet38_EDAM_tiny", "--only", "maps", "crf"]
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *flags, "--markdown", str(out)])
    benchmark.main()
    rows = out.read_text().splitlines()
    assert capsys.readouterr().out.splitlines() == rows
    table = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]
    assert [row[0] for row in table[2:]] == [
        "convolution 3x3, 512 channels, fp32",
        "convolution 3x3, 512 channels, bf16",
        "class maps of a photo, fp32",
        "class maps of a photo, bf16",
        "dense CRF of a photo, one process",
    ]
    assert {len(row) for row in table} == {7}
    seconds, floor, ratio = (float(cell.split()[0]) for cell in table[4][1:4])
    assert abs(seconds / floor - ratio) < 0.02 * ratio


def test_rows_of_deeplab_and_poolnet(monkeypatch, capsys):
    flags = ["--quick", "--device", "cpu", "--deeplab", "small_deeplab", "--batch_size", "2"]
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *flags, "--only", "deeplab_train", "deeplab_photo", "sal_photo"])
    monkeypatch.setattr(benchmark, "POOLNET", "small_poolnet")
    monkeypatch.setattr(benchmark, "convolution_rate", lambda *_: 1e9)
    monkeypatch.setattr(benchmark, "bare_seconds", lambda *_: 1e-3)
    benchmark.main()
    table = [[cell.strip() for cell in row.strip("|").split("|")] for row in capsys.readouterr().out.splitlines()[6:]]
    work = {
        "DeepLab-v2 training iteration, 2 photos, crop 161": step_operations("small_deeplab", 2, 161),
        "DeepLab-v2 test photo": photo_operations("small_deeplab", (250, 188)),
        "PoolNet photo": photo_operations("small_poolnet", (250, 188)),
    }
    expected = [
        (f"{name}, {precision}", f"{count / 1e9:.3g} s")
        for name, count in work.items()
        for precision in ("fp32", "bf16")
    ]
    assert [(row[0], row[2]) for row in table] == expected
    for row in table:
        assert float(row[4]) == pytest.approx(float(row[1].removesuffix(" s")) * 1000, rel=0.01)
        assert float(row[5].removesuffix(" GB")) > 0.1  # PyTorch alone
    for i, words in ((0, "full schedule"), (2, "val"), (4, "train_aug")):
        assert words in table[i][6]


def test_a_table_that_cannot_be_written_is_told_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "--device", "cpu", "--markdown", str(tmp_path / "none/table.md")])
    monkeypatch.setattr(benchmark, "convolution_rate", lambda *_: pytest.fail("measured first"))
    with pytest.raises(UserError, match=r"^cannot write .*none/table\.md: No such file or directory$"):
        benchmark.main()


def test_a_mistyped_network_leaves_an_earlier_table(tmp_path, monkeypatch):
    (tmp_path / "table.md").write_text("earlier")
    flags = ["--device", "cpu", "--network", "network.nothing", "--markdown", str(tmp_path / "table.md")]
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *flags])
    with pytest.raises(UserError, match=r"^--network network\.nothing: no such module"):
        benchmark.main()
    assert [path.name for path in tmp_path.iterdir()] == ["table.md"] and (
        tmp_path / "table.md"
    ).read_text() == "earlier"
