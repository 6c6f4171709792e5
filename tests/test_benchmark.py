"""benchmark.py: the operations it counts and the table it prints. Its times are not tested."""

import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import benchmark
from network import make_net
from pseudo_label.predict import SCALES
from tool.cli import UserError


def operations(call) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def test_known_operations_of_the_networks():
    """Class maps of a photo: 11.4 TFLOP at four scales, mirrored; DeepLab-v2's labels 0.49, PoolNet's map at most 0.29."""
    sizes = [(round(375 * scale), round(500 * scale)) for scale in SCALES]
    with torch.device("meta"):
        edam = make_net("network.resnet38_EDAM_cls").eval()
        assert 11.3e12 < operations(lambda: [edam.forward_cam(torch.empty(2, 3, *size)) for size in sizes]) < 11.5e12
        for network, low, high in (("network.deeplab_v2", 0.48e12, 0.5e12), ("network.poolnet", 0.16e12, 0.29e12)):
            net = make_net(network).eval().requires_grad_(False)
            assert low < operations(lambda net=net: net(torch.empty(1, 3, 375, 500))) < high


def test_table_is_printed_and_written(tmp_path, monkeypatch, capsys):
    """Each row in this process, measured once."""
    monkeypatch.setattr(benchmark, "run_alone", benchmark.measure)
    monkeypatch.setattr(benchmark, "POOLNET", "tests.small_poolnet")
    out = tmp_path / "table.md"
    flags = "--quick --device cpu --network network.resnet38_EDAM_tiny --deeplab tests.small_deeplab --batch_size 2"
    rows = "maps crf deeplab_train deeplab_photo sal_photo"
    monkeypatch.setattr(sys, "argv", f"benchmark.py {flags} --only {rows} --markdown {out}".split())
    benchmark.main()
    lines = out.read_text().splitlines()
    assert capsys.readouterr().out.splitlines() == lines
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[4:]]
    both = ["convolution 3x3, 512 channels", "class maps of a photo", "DeepLab-v2 iteration, 2 photos, crop 161"]
    both += ["DeepLab-v2 test photo", "PoolNet photo"]
    titles = [f"{title}, {precision}" for title in both for precision in ("fp32", "bf16")]
    titles.insert(4, "dense CRF of a photo, one process, fp32")
    assert [row[0] for row in table] == titles and {len(row) for row in table} == {6}
    for _, seconds, floor, ratio, peak, _ in table:
        assert float(peak.split()[0]) > 0.1  # PyTorch alone
        if floor != "-":
            quotient = float(seconds.split()[0]) / float(floor.split()[0])
            assert quotient == pytest.approx(float(ratio), rel=0.02, abs=0.01)


@pytest.mark.parametrize(
    ("flags", "keyword"),
    [
        (["--markdown", "none/table.md"], "none/table"),
        (["--network", "network.nothing"], r"network\.nothing"),
        (["--network", "network.deeplab_v2_tiny"], r"--network network\.deeplab_v2_tiny: .*forward_cam"),
        (["--deeplab", "network.nothing"], r"--deeplab network\.nothing: no such module"),
        (["--deeplab", "network.resnet38_EDAM_tiny"], r"--deeplab network\.resnet38_EDAM_tiny: .*scales"),
    ],
)
def test_errors_before_the_first_measurement(flags, keyword, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(benchmark, "run_alone", lambda *_: pytest.fail("measured first"))
    (tmp_path / "table.md").write_text("earlier")
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "--device", "cpu", "--markdown", "table.md", *flags])
    with pytest.raises(UserError, match=keyword):
        benchmark.main()
    assert (tmp_path / "table.md").read_text() == "earlier"
