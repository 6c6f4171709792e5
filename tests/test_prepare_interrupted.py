"""voc12/prepare.py killed or interrupted at every file it makes, and started again."""

import os

import pytest
from voc12_devkit import contents, write_voc_and_sbd

from voc12.prepare import main

# A new SegmentationClassAug: 8 masks, the folder, 3 lists, the labels, the pairs. One with gaps: 6 masks, no folder.
STEPS = {"new folder": 14, "folder with gaps": 11}


def start(folder, case):
    """A devkit and an SBD, and a call that prepares them."""
    root, sbd = write_voc_and_sbd(folder)
    out = folder / "out"
    arguments = ["--voc12_root", str(root), "--sbd_root", str(sbd), "--epochs", "2", "--out_dir", str(out)]
    if case == "folder with gaps":
        main(arguments)
        for path in sorted((root / "SegmentationClassAug").iterdir())[1:7]:
            path.unlink()
        for path in out.iterdir():
            path.unlink()
    return root, out, lambda: main(arguments)


def stopping(step, after, stop):
    """os.replace, through which every file appears, that stops before or after it did so for the n-th time."""
    replace, calls = os.replace, []

    def stopping_replace(source, target):
        calls.append(target)
        if len(calls) == step and not after:
            stop()
        replace(source, target)
        if len(calls) == step and after:
            stop()

    return stopping_replace


def killed(call, step, after) -> int:
    """Run `call` in a child process that ends at once, without any clean-up, at that step; its exit status."""
    child = os.fork()
    if child == 0:
        try:
            os.replace = stopping(step, after, lambda: os._exit(9))
            call()
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture(scope="module", params=STEPS)
def uninterrupted(request, tmp_path_factory):
    root, out, call = start(tmp_path_factory.mktemp("whole"), request.param)
    call()
    return request.param, contents(root, out)


def assert_nothing_half_written(root, out, whole):
    for name, data in contents(root, out).items():
        temporary = any(part.startswith(".") or part.endswith(".partial") for part in name.split("/"))
        assert temporary or data == whole[name], name


@pytest.mark.parametrize("after", [False, True])
def test_killed_anywhere_and_run_again_gives_the_same_bytes(tmp_path, uninterrupted, after):
    case, whole = uninterrupted
    for step in range(1, STEPS[case] + 1):
        root, out, call = start(tmp_path / str(step), case)
        assert killed(call, step, after) == 9
        assert_nothing_half_written(root, out, whole)
        assert contents(root, out) != whole or (after and step == STEPS[case])
        call()
        assert contents(root, out) == whole


def test_killed_again_and_again_gives_the_same_bytes(tmp_path, uninterrupted):
    case, whole = uninterrupted
    root, out, call = start(tmp_path, case)
    for step in (3, 5, 2, 1, 1):
        assert killed(call, step, after=False) == 9
        assert_nothing_half_written(root, out, whole)
    call()
    assert contents(root, out) == whole


def test_interrupted_by_the_keyboard_leaves_no_temporary_file(tmp_path, uninterrupted, monkeypatch):
    case, whole = uninterrupted

    def interrupt():
        raise KeyboardInterrupt

    for step in range(1, STEPS[case] + 1):
        root, out, call = start(tmp_path / str(step), case)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(os, "replace", stopping(step, False, interrupt))
            call()
        assert all(data == whole[name] for name, data in contents(root, out).items())
        call()
        assert contents(root, out) == whole
