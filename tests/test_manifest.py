"""Manifest of an output folder: which runs may add to it."""

import contextlib
from pathlib import Path

import pytest

from pseudo_label.manifest import MANIFEST, check_classes, claim_folder, read_manifest
from pseudo_label.predict import SCALES
from tool.cli import UserError

SETTINGS = {"output": "out_cam", "theta": 0.5, "sal_path": None}


@pytest.fixture
def folder(tmp_path) -> Path:
    """Return a folder claimed with SETTINGS that holds two results and a note of the user's."""
    claim_folder(tmp_path / "new/out", SETTINGS)
    for name in ("a.png", "b.npy", "notes.txt"):
        (tmp_path / "new/out" / name).touch()
    return tmp_path / "new/out"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_same_or_fewer_settings_continue(folder):
    """A manifest without scales has the published ones."""
    for settings in (SETTINGS | {"scales": list(SCALES)}, SETTINGS, {"output": "out_cam", "sal_path": None}):
        claim_folder(folder, settings, overwrite=False)
        assert names(folder) == ["a.png", "b.npy", MANIFEST, "notes.txt"] and read_manifest(folder) == settings


@pytest.mark.parametrize("change", [{"theta": 0.3}, {"alpha": 0.1}, {"scales": [1.0]}])
def test_other_settings_are_refused_or_overwrite(folder, change):
    before = names(folder)
    for overwrite in (None, False):
        with pytest.raises(UserError, match=f"{folder}.*{next(iter(change))}"):
            claim_folder(folder, SETTINGS | change, overwrite)
    assert read_manifest(folder) == SETTINGS and names(folder) == before
    claim_folder(folder, SETTINGS | change, overwrite=True)
    assert names(folder) == ["edam_manifest.json", "notes.txt"] and read_manifest(folder) == SETTINGS | change


@pytest.mark.parametrize(
    ("made_with", "now", "continues"),
    [
        (("/a", "1"), ("/b", "1"), True),  # moved
        (("/a", None), ("/a", "1"), True),  # made before there was a digest
        (("/a", "1"), ("/a", "2"), False),  # other maps
        (("/a", None), ("/b", "1"), False),
        ((None, None), ("/a", "1"), False),
    ],
)
def test_saliency_maps_are_known_by_content_or_else_by_path(made_with, now, continues, tmp_path):
    claim_folder(tmp_path, dict(zip(("sal_path", "sal_sha256"), made_with, strict=True)))
    (tmp_path / "a.png").touch()
    with contextlib.nullcontext() if continues else pytest.raises(UserError, match="made with sal_"):
        claim_folder(tmp_path, dict(zip(("sal_path", "sal_sha256"), now, strict=True)))


@pytest.mark.parametrize("content", [None, b"", b"[1]"])
def test_missing_and_damaged_manifests_differ(folder, content):
    (folder / MANIFEST).unlink() if content is None else (folder / MANIFEST).write_bytes(content)
    for overwrite in (False, True) if content is None else (False,):  # files without a manifest are never deleted
        with pytest.raises(UserError, match=f"{folder}.*{MANIFEST if content is None else 'out_cam'}"):
            claim_folder(folder, SETTINGS, overwrite)
    assert {"a.png", "b.npy", "notes.txt"} <= {*names(folder)}


def test_classes(tmp_path):
    check_classes(tmp_path, ["cat"])
    claim_folder(tmp_path, {"output": "out_crf"})
    claim_folder(tmp_path, {"classes": ["cat", "dog"]})  # a folder without results is free
    check_classes(tmp_path, ["cat", "dog"])
    with pytest.raises(UserError, match="dog"):
        check_classes(tmp_path, ["dog", "cat"])
