"""voc12/prepare.py --download from a local server with small archives of the official structure."""

import hashlib
import shutil
from pathlib import Path

import pytest
from voc12_devkit import SBD_ONLY, TRAIN, contents, running_server, write_voc_and_sbd

from tool.cli import UserError
from voc12 import prepare
from voc12.lists import read_image_list

VOC_TAR = "VOCtrainval_11-May-2012.tar"
SBD_TGZ = "benchmark.tgz"


@pytest.fixture
def server(tmp_path, monkeypatch):
    write_voc_and_sbd(tmp_path / "origin")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with running_server() as server:
        for name, form in (("VOC_2012", "tar"), ("SBD", "gztar")):
            url, inner, _ = getattr(prepare, name)
            path = shutil.make_archive(str(tmp_path / name), form, tmp_path / "origin", Path(inner).parts[0])
            data = Path(path).read_bytes()
            server.files[Path(url).name] = data
            facts = (f"{server.address}/{Path(url).name}", inner, hashlib.md5(data).hexdigest())
            monkeypatch.setattr(prepare, name, facts)
        yield server


def run(folder, *arguments) -> None:
    flags = ["--download", str(folder / "data"), "--out_dir", str(folder / "out"), "--epochs", "2"]
    prepare.main([*flags, *map(str, arguments)])


def test_download_both_and_rerun_without_download(tmp_path, server):
    run(tmp_path)
    assert server.served == [(VOC_TAR, 0), (SBD_TGZ, 0)]
    assert read_image_list(tmp_path / "out/train_aug.txt") == sorted(TRAIN + SBD_ONLY)
    assert {path.name for path in (tmp_path / "data").iterdir()} == {VOC_TAR, "VOCdevkit", SBD_TGZ, "benchmark_RELEASE"}
    before = contents(tmp_path / "data", tmp_path / "out")
    run(tmp_path)
    assert contents(tmp_path / "data", tmp_path / "out") == before
    run(tmp_path / "elsewhere", "--voc12_root", tmp_path / "data/VOCdevkit/VOC2012")  # which has all masks
    assert server.served[2:] == [(SBD_TGZ, 0)]


@pytest.mark.parametrize(("name", "ranges"), [(VOC_TAR, True), (SBD_TGZ, False)])
def test_rerun_resumes_cut_files(tmp_path, server, name, ranges):
    server.ranges = ranges
    server.cut.add(name)
    with pytest.raises(UserError, match=rf"{name}: .*{server.address}/{name}"):
        run(tmp_path)
    assert not (tmp_path / "data/benchmark_RELEASE").exists() and not list((tmp_path / "out").iterdir())
    server.cut.clear()
    server.served.clear()
    run(tmp_path)
    assert server.served[0] == (name, len(server.files[name]) // 2 if ranges else 0)
    assert read_image_list(tmp_path / "out/train_aug.txt") == sorted(TRAIN + SBD_ONLY)


def test_damaged_and_missing_files_are_fetched_again(tmp_path, server):
    right = server.files[VOC_TAR]
    for data, keyword in ((right[:-1] + b"x", "damaged"), (None, "404")):
        server.files[VOC_TAR] = data
        with pytest.raises(UserError, match=f"{VOC_TAR}: .*{keyword}"):
            run(tmp_path)
    server.files[VOC_TAR] = right
    (tmp_path / "data" / VOC_TAR).write_bytes(right + b"more")
    with pytest.raises(UserError, match=f"{VOC_TAR}: .*416"):
        run(tmp_path)
    run(tmp_path)
    assert server.served[-2:] == [(VOC_TAR, 0), (SBD_TGZ, 0)]
