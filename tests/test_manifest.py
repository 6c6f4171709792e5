"""What an output folder remembers of the run that made its files."""

import json
import os
from pathlib import Path

import pytest

from pseudo_label.manifest import MANIFEST, check_folder, claim_folder, output_of, weights_digest
from tool.cli import UserError
from tool.files import HOST, remove_leftovers

SETTINGS = {"output": "out_cam", "theta": 0.5, "sal_path": None}


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder claimed with SETTINGS that holds two results and a note of the user's."""
    claim_folder(tmp_path / "new/out", SETTINGS, overwrite=False)
    for name in ("a.png", "b.npy", "notes.txt"):
        (tmp_path / "new/out" / name).write_text(name)
    return tmp_path / "new/out"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_same_settings_continue(folder):
    claim_folder(folder, SETTINGS, overwrite=False)
    assert names(folder) == ["a.png", "b.npy", "edam_manifest.json", "notes.txt"]
    assert json.loads((folder / MANIFEST).read_text()) == SETTINGS


def test_other_settings_are_refused_or_overwrite(folder):
    other = SETTINGS | {"theta": 0.3}
    with pytest.raises(
        UserError, match=r"out holds files made with theta 0\.5, this run has 0\.3; name another folder, or"
    ):
        claim_folder(folder, other, overwrite=False)
    assert json.loads((folder / MANIFEST).read_text()) == SETTINGS
    claim_folder(folder, other, overwrite=True)
    assert names(folder) == ["edam_manifest.json", "notes.txt"] and json.loads((folder / MANIFEST).read_text()) == other


def test_settings_that_no_longer_count_do_not_differ(folder):
    claim_folder(folder, {"output": "out_cam", "sal_path": None}, overwrite=False)
    assert "a.png" in names(folder)
    with pytest.raises(UserError, match=r"made with sal_path none, this run has /x; name"):
        claim_folder(folder, {"output": "out_cam", "sal_path": "/x", "alpha": 0.1}, overwrite=False)


def test_overwriting_the_same_settings_starts_anew(folder):
    claim_folder(folder, SETTINGS, overwrite=True)
    assert names(folder) == ["edam_manifest.json", "notes.txt"]


def test_a_folder_without_results_is_free(folder):
    for name in ("a.png", "b.npy"):
        (folder / name).unlink()
    claim_folder(folder, {"output": "out_crf"}, overwrite=False)
    assert json.loads((folder / MANIFEST).read_text()) == {"output": "out_crf"}


@pytest.mark.parametrize("overwrite", [False, True])
def test_files_of_nobody_are_kept(folder, overwrite):
    (folder / MANIFEST).unlink()
    with pytest.raises(UserError, match=r"of which no edam_manifest\.json says what made them"):
        claim_folder(folder, SETTINGS, overwrite)
    assert names(folder) == ["a.png", "b.npy", "notes.txt"]


@pytest.mark.parametrize("content", ["", "{", "[1]", "[" * 100_000, "\udcff", '{"a": 1}' + " " * (1 << 20)])
def test_damaged_manifests(folder, content):
    (folder / MANIFEST).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=r"out holds a damaged edam_manifest\.json; name another folder, or"):
        claim_folder(folder, SETTINGS, overwrite=False)
    claim_folder(folder, SETTINGS, overwrite=True)
    assert names(folder) == ["edam_manifest.json", "notes.txt"]


def test_leftovers_of_running_processes_stay(tmp_path):
    ours, gone, other = f".a.png.{HOST}.{os.getpid()}.tmp", f".a.png.{HOST}.999999999.tmp", ".notes.tmp"
    for name in (ours, gone, other):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    assert names(tmp_path) == sorted([ours, other])


def test_what_a_folder_holds_is_known_from_its_manifest(tmp_path):
    claim_folder(tmp_path / "crf", {"output": "out_crf"}, overwrite=False)
    assert output_of(tmp_path / "crf") == "out_crf"
    assert output_of(tmp_path) is None
    (tmp_path / MANIFEST).write_text('{"output": ["out_crf"]}')
    assert output_of(tmp_path) is None


def test_a_refusal_leaves_no_trace(folder):
    with pytest.raises(UserError):
        check_folder(folder, {"output": "another"}, overwrite=False)
    assert check_folder(folder.parent / "missing", {"output": "x"}, overwrite=False) == []
    assert not (folder.parent / "missing").exists()


def test_digests_are_shortened_and_all_differences_named(tmp_path):
    before = {"weights_sha256": "a" * 64, "theta": 0.2}
    claim_folder(tmp_path, before, overwrite=False)
    (tmp_path / "x.png").touch()
    message = r"made with weights_sha256 a{12} and theta 0.2, this run has b{12} and none; name"
    with pytest.raises(UserError, match=message):
        check_folder(tmp_path, {"weights_sha256": "b" * 64, "theta": None}, overwrite=False)


def test_digest_of_weights(tmp_path):
    (tmp_path / "w").write_bytes(b"abc")
    assert weights_digest(tmp_path / "w") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(UserError, match=r"weights .*absent\.pth does not exist"):
        weights_digest(tmp_path / "absent.pth")
