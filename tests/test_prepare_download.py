"""voc12/prepare.py --download, against a local server with small archives of the official structure."""

import hashlib
import http.server
import io
import os
import socket
import tarfile
import threading

import pytest
from torchvision.datasets import SBDataset, utils, voc
from voc12_devkit import SBD_ONLY, TRAIN, contents, write_voc_and_sbd

from tool import download
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


class Server(http.server.ThreadingHTTPServer):
    """Serves `files`; the names in `cut` and `damaged` are sent half, or with a byte changed."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.cut, self.damaged, self.served = {}, set(), set(), []


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        name = self.path.strip("/")
        body = self.server.files.get(name)
        if body is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        # torchvision follows redirects with a request whose answer it does not read, and says so in a header.
        if self.headers.get("Method") == "HEAD":
            return
        self.server.served.append(name)
        if name in self.server.damaged:
            body = body[:-1] + bytes([body[-1] ^ 1])
        self.wfile.write(body[: len(body) // 2] if name in self.server.cut else body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    write_voc_and_sbd(tmp_path / "origin")
    with Server() as server:
        server.files[VOC_TAR] = archive(tmp_path / "origin", "VOCdevkit", "w:")
        server.files[SBD_TGZ] = archive(tmp_path / "origin", "benchmark_RELEASE", "w:gz")
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        md5 = {name: hashlib.md5(body).hexdigest() for name, body in server.files.items()}
        facts = voc.DATASET_YEAR_DICT["2012"]
        assert facts["filename"] == VOC_TAR
        patched = {**facts, "url": f"{address}/{VOC_TAR}", "md5": md5[VOC_TAR]}
        monkeypatch.setitem(voc.DATASET_YEAR_DICT, "2012", patched)
        monkeypatch.setattr(SBDataset, "url", f"{address}/{SBD_TGZ}")
        monkeypatch.setattr(SBDataset, "md5", md5[SBD_TGZ])
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        connect = socket.create_connection

        def local_only(target, *arguments, **options):
            assert target == ("127.0.0.1", server.server_port)
            return connect(target, *arguments, **options)

        monkeypatch.setattr(socket, "create_connection", local_only)
        yield server
        server.shutdown()


def prepare(folder, *arguments) -> None:
    flags = ["--download", str(folder / "data"), "--out_dir", str(folder / "out"), "--epochs", "2"]
    main([*flags, *map(str, arguments)])


@pytest.fixture
def whole(tmp_path, server):
    """What an undisturbed run makes."""
    prepare(tmp_path / "whole")
    made = contents(tmp_path / "whole/data", tmp_path / "whole/out")
    server.served.clear()
    return made


def test_from_nothing_to_ready(tmp_path, server, capsys):
    prepare(tmp_path)
    assert server.served == [VOC_TAR, SBD_TGZ]
    root = tmp_path / "data/VOCdevkit/VOC2012"
    assert read_image_list(tmp_path / "out/train_aug.txt") == sorted(TRAIN + SBD_ONLY)
    assert len(list((root / "SegmentationClassAug").iterdir())) == 8
    assert (tmp_path / "data" / VOC_TAR).read_bytes() == server.files[VOC_TAR]
    made = {path.name for path in (tmp_path / "data").iterdir()}
    assert made == {VOC_TAR, "VOCdevkit", SBD_TGZ, "benchmark_RELEASE"}
    assert f"  python train_EDAM_cls.py --voc12_root {root} " in capsys.readouterr().out


def test_a_rerun_fetches_nothing_and_changes_nothing(tmp_path, server, capsys):
    prepare(tmp_path)
    before = contents(tmp_path / "data", tmp_path / "out")
    server.served.clear()
    capsys.readouterr()
    prepare(tmp_path)
    assert server.served == []
    assert contents(tmp_path / "data", tmp_path / "out") == before
    assert capsys.readouterr().out.count(": unpacked already\n") == 2


def test_an_archive_that_is_there_is_not_fetched_again(tmp_path, server, capsys):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / VOC_TAR).write_bytes(server.files[VOC_TAR])
    (tmp_path / "data" / SBD_TGZ).write_bytes(server.files[SBD_TGZ][:-1])
    prepare(tmp_path)
    assert server.served == [SBD_TGZ]
    said = capsys.readouterr().out
    assert f"{tmp_path / 'data' / VOC_TAR}: downloaded already\n" in said
    assert f"{tmp_path / 'data' / SBD_TGZ}: its checksum is wrong, so it is fetched again\n" in said
    assert (tmp_path / "data" / f"{SBD_TGZ}.1").read_bytes() == server.files[SBD_TGZ][:-1]
    assert (tmp_path / "data" / SBD_TGZ).read_bytes() == server.files[SBD_TGZ]


def test_those_who_have_voc_fetch_sbd_only(tmp_path, server):
    root, _ = write_voc_and_sbd(tmp_path / "mine")
    prepare(tmp_path, "--voc12_root", root)
    assert server.served == [SBD_TGZ]
    assert len(list((root / "SegmentationClassAug").iterdir())) == 8
    server.served.clear()
    prepare(tmp_path, "--voc12_root", root, "--sbd_root", tmp_path / "mine/benchmark_RELEASE")
    assert server.served == []


def test_a_root_that_does_not_exist_is_replaced_by_the_download_and_this_is_said(tmp_path, server, capsys):
    prepare(tmp_path, "--voc12_root", tmp_path / "none")
    said = capsys.readouterr().out
    assert f"{tmp_path / 'none'} holds no devkit, so the one in {tmp_path / 'data'} is used\n" in said
    assert f"--voc12_root {tmp_path / 'data/VOCdevkit/VOC2012'} " in said.splitlines()[-1]


@pytest.mark.parametrize("name", [VOC_TAR, SBD_TGZ])
@pytest.mark.parametrize("fault", ["cut", "damaged"])
def test_a_bad_transfer_is_named_and_the_next_run_puts_it_right(tmp_path, server, whole, name, fault):
    getattr(server, fault).add(name)
    with pytest.raises(UserError) as caught:
        prepare(tmp_path)
    message = str(caught.value)
    assert f"could not fetch and unpack http://127.0.0.1:{server.server_port}/{name}: " in message
    assert "run the same command again" in message
    assert hashlib.md5(server.files[name]).hexdigest() in message
    left = contents(tmp_path / "data", tmp_path / "out")
    assert all(whole[path] == data for path, data in left.items())
    assert not any(path.startswith(("data/benchmark", "out")) for path in left)
    getattr(server, fault).clear()
    server.served.clear()
    prepare(tmp_path)
    assert server.served == ([VOC_TAR, SBD_TGZ] if name == VOC_TAR else [SBD_TGZ])
    assert contents(tmp_path / "data", tmp_path / "out") == whole


def test_a_server_without_the_file_or_none_at_all_is_named(tmp_path, server):
    del server.files[VOC_TAR]
    with pytest.raises(UserError, match=r"could not fetch .*VOCtrainval.*404"):
        prepare(tmp_path)
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError, match=r"could not fetch .*VOCtrainval.*refused"):
        prepare(tmp_path)
    assert not list((tmp_path / "data").iterdir())


def test_a_server_that_falls_silent_is_given_up(tmp_path, server, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        facts = voc.DATASET_YEAR_DICT["2012"]
        monkeypatch.setitem(facts, "url", f"http://127.0.0.1:{silent.getsockname()[1]}/{VOC_TAR}")
        monkeypatch.setattr(server, "server_port", silent.getsockname()[1])
        with pytest.raises(UserError, match=r"could not fetch .*timed out"):
            prepare(tmp_path)
    assert socket.getdefaulttimeout() is None


def test_an_archive_of_another_structure_is_refused(tmp_path, server, monkeypatch):
    (tmp_path / "other").mkdir()
    (tmp_path / "other/x").write_text("x")
    server.files[VOC_TAR] = archive(tmp_path, "other", "w:")
    facts = voc.DATASET_YEAR_DICT["2012"]
    monkeypatch.setitem(facts, "md5", hashlib.md5(server.files[VOC_TAR]).hexdigest())
    with pytest.raises(UserError, match=rf"{VOC_TAR} holds no VOCdevkit/VOC2012"):
        prepare(tmp_path)
    assert [path.name for path in (tmp_path / "data").iterdir()] == [VOC_TAR]


def killed(call, patch) -> int:
    """Run `call` after `patch` in a child process; its exit status."""
    child = os.fork()
    if child == 0:
        try:
            patch()
            call()
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_killed_while_fetching_or_unpacking_and_run_again(tmp_path, server, whole):
    def die_in_transfer(wanted):
        fetch = utils._urlretrieve

        def half(url, filename, *arguments):
            fetch(url, filename, *arguments)
            if url.endswith(wanted):
                os.truncate(filename, 1000)
                os._exit(9)

        utils._urlretrieve = half

    def die_unpacking():
        def half(path, folder):
            with tarfile.open(path) as tar:
                tar.extractall(folder, members=tar.getmembers()[:9], filter="data")
            os._exit(9)

        download.extract_archive = half

    def die_renaming(step):
        replace, calls = os.replace, []

        def counted(source, target):
            calls.append(target)
            if len(calls) == step:
                os._exit(9)
            replace(source, target)

        os.replace = counted

    patches = [
        lambda: die_in_transfer(VOC_TAR),
        lambda: die_renaming(1),
        die_unpacking,
        lambda: die_renaming(1),
        lambda: die_in_transfer(SBD_TGZ),
        lambda: die_renaming(3),
        lambda: die_renaming(2),
    ]
    for number, patch in enumerate(patches):
        assert killed(lambda: prepare(tmp_path), patch) == 9, number
        for name, data in contents(tmp_path / "data").items():
            assert ".partial/" in name or data == whole[name], name
    prepare(tmp_path)
    assert contents(tmp_path / "data", tmp_path / "out") == whole
