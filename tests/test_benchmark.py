"""benchmark.py: what it counts as work, and the table it prints. Its times are not tested."""

import sys

import pytest
import torch

import benchmark
import measuring
from tool.errors import UserError


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
    work = measuring.step_operations("network.resnet38_EDAM_cls", (1, 2, 3, 368, 368))
    assert 3.6e12 < work < 3.8e12  # forward and backward of two images, frozen layers forward only


def test_deeplab_is_the_known_amount_of_work():
    step = measuring.step_operations("network.deeplab_v2", (1, 3, 321, 321))
    assert 0.82e12 < step < 0.84e12  # forward and backward of a crop, 0.83 TFLOP
    assert measuring.step_operations("network.deeplab_v2", (2, 3, 321, 321)) == 2 * step
    assert 0.485e12 < measuring.photo_operations("network.deeplab_v2", (500, 375)) < 0.495e12  # 0.49 TFLOP


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
    assert {len(row) for row in table} == {6}
    seconds, floor, ratio = (float(cell.split()[0]) for cell in table[4][1:4])
    assert abs(seconds / floor - ratio) < 0.02 * ratio


def test_deeplabs_rows(monkeypatch, capsys):
    flags = ["--quick", "--device", "cpu", "--deeplab", "small_deeplab", "--only", "deeplab_train", "deeplab_photo"]
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *flags, "--batch_size", "2"])
    monkeypatch.setattr(benchmark, "convolution_rate", lambda *_: 1e9)
    benchmark.main()
    table = [[cell.strip() for cell in row.strip("|").split("|")] for row in capsys.readouterr().out.splitlines()[6:]]
    assert [row[0] for row in table] == [
        "DeepLab-v2 training iteration, 2 photos, crop 161, fp32",
        "DeepLab-v2 training iteration, 2 photos, crop 161, bf16",
        "DeepLab-v2 test photo, fp32",
        "DeepLab-v2 test photo, bf16",
    ]
    floors = [f"{measuring.step_operations('small_deeplab', (2, 3, 161, 161)) / 1e9:.3g} s"] * 2
    floors += [f"{measuring.photo_operations('small_deeplab', (250, 188)) / 1e9:.3g} s"] * 2
    assert [row[2] for row in table] == floors
    assert all(float(row[4].removesuffix(" GB")) > 0.1 for row in table)  # PyTorch alone
    assert "full schedule" in table[0][5] and "val" in table[2][5]


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
