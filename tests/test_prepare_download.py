"""voc12/prepare.py --download from a local server with small archives of the official structure."""

import hashlib
import io
import tarfile

import pytest
from torchvision.datasets import SBDataset, voc
from voc12_devkit import SBD_ONLY, TRAIN, contents, running_server, write_voc_and_sbd

from tool.cli import UserError
from voc12.lists import read_image_list
from voc12.prepare import main

VOC_TAR = "VOCtrainval_11-May-2012.tar"
SBD_TGZ = "benchmark.tgz"


def archive(folder, name, mode) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as tar:
        tar.add(folder / name, name)
    return file.getvalue()


@pytest.fixture
def server(tmp_path, monkeypatch):
    write_voc_and_sbd(tmp_path / "origin")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with running_server() as server:
        server.files[VOC_TAR] = archive(tmp_path / "origin", "VOCdevkit", "w:")
        server.files[SBD_TGZ] = archive(tmp_path / "origin", "benchmark_RELEASE", "w:gz")
        md5 = {name: hashlib.md5(body).hexdigest() for name, body in server.files.items()}
        facts = {"url": f"{server.address}/{VOC_TAR}", "md5": md5[VOC_TAR]}
        monkeypatch.setitem(voc.DATASET_YEAR_DICT, "2012", voc.DATASET_YEAR_DICT["2012"] | facts)
        monkeypatch.setattr(SBDataset, "url", f"{server.address}/{SBD_TGZ}")
        monkeypatch.setattr(SBDataset, "md5", md5[SBD_TGZ])
        yield server


def prepare(folder, *arguments) -> None:
    flags = ["--download", str(folder / "data"), "--out_dir", str(folder / "out"), "--epochs", "2"]
    main([*flags, *map(str, arguments)])


def test_download_both_and_rerun_without_download(tmp_path, server, capsys):
    prepare(tmp_path)
    assert server.served == [VOC_TAR, SBD_TGZ]
    assert read_image_list(tmp_path / "out/train_aug.txt") == sorted(TRAIN + SBD_ONLY)
    assert {path.name for path in (tmp_path / "data").iterdir()} == {VOC_TAR, "VOCdevkit", SBD_TGZ, "benchmark_RELEASE"}
    assert f"--voc12_root {tmp_path / 'data/VOCdevkit/VOC2012'} " in capsys.readouterr().out.splitlines()[-1]
    before = contents(tmp_path / "data", tmp_path / "out")
    prepare(tmp_path)
    assert len(server.served) == 2 and contents(tmp_path / "data", tmp_path / "out") == before


def test_only_what_is_missing_is_downloaded(tmp_path, server):
    root, sbd = write_voc_and_sbd(tmp_path / "mine")
    prepare(tmp_path, "--voc12_root", root, "--sbd_root", sbd)
    assert server.served == []
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / VOC_TAR).write_bytes(server.files[VOC_TAR])
    prepare(tmp_path, "--voc12_root", tmp_path / "none")
    assert server.served == [SBD_TGZ]


@pytest.mark.parametrize("fault", ["cut", "damaged"])
@pytest.mark.parametrize("name", [VOC_TAR, SBD_TGZ])
def test_cut_connection_or_wrong_checksum_is_never_taken_for_whole(tmp_path, server, name, fault):
    prepare(tmp_path / "whole")
    whole = contents(tmp_path / "whole/data", tmp_path / "whole/out")
    getattr(server, fault).add(name)
    with pytest.raises(
        UserError, match=rf"{name}: .*{server.address}/{name}.*{hashlib.md5(server.files[name]).hexdigest()}"
    ):
        prepare(tmp_path)
    assert not (tmp_path / "data/benchmark_RELEASE").exists() and not list((tmp_path / "out").iterdir())
    getattr(server, fault).clear()
    prepare(tmp_path)
    assert contents(tmp_path / "data", tmp_path / "out") == whole


def test_missing_file_and_unexpected_archive_are_errors(tmp_path, server, monkeypatch):
    tar = server.files.pop(VOC_TAR)
    with pytest.raises(UserError, match=f"{VOC_TAR}: .*404"):
        prepare(tmp_path)
    server.files[VOC_TAR] = tar
    monkeypatch.setitem(voc.DATASET_YEAR_DICT["2012"], "base_dir", "other")
    with pytest.raises(UserError, match=f"{VOC_TAR}: .*other"):
        prepare(tmp_path)
    assert [path.name for path in (tmp_path / "data").iterdir()] == [VOC_TAR]
