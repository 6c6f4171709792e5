"""benchmark.py: the table it prints. Its times are not tested."""

from concurrent.futures import ThreadPoolExecutor

import pytest

import benchmark
from tool.cli import UserError

TINY = ("--device", "cpu", "--network", "network.resnet38_EDAM_tiny", "--deeplab", "tests.small_deeplab")


def run(monkeypatch, *flags: object) -> None:
    """Run the script, each measurement in this process."""
    monkeypatch.setattr(benchmark, "ProcessPoolExecutor", lambda *_, **__: ThreadPoolExecutor(1))
    monkeypatch.setattr(benchmark, "POOLNET", "tests.small_poolnet")
    monkeypatch.setattr("sys.argv", ["benchmark.py", *TINY, *map(str, flags)])
    benchmark.main()


def test_table_is_printed_and_written(monkeypatch, tmp_path, capsys):
    rows = ("maps", "crf", "deeplab_train", "deeplab_photo", "sal_photo")
    run(monkeypatch, "--quick", "--batch_size", 2, "--only", *rows, "--markdown", tmp_path / "table.md")
    lines = (tmp_path / "table.md").read_text().splitlines()
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
        (("--markdown", "none/table.md"), "none/table"),
        (("--network", "network.nothing"), r"network\.nothing"),
        (("--deeplab", "network.resnet38_EDAM_tiny"), r"network\.resnet38_EDAM_tiny: .*scales"),
    ],
)
def test_errors_before_the_first_measurement(monkeypatch, flags, keyword):
    monkeypatch.setattr(benchmark, "measure", lambda *_: pytest.fail("measured first"))
    with pytest.raises(UserError, match=keyword):
        run(monkeypatch, *flags)
