"""voc12/prepare.py never loses a file that it did not make: masks, lists, labels, pairs, archives."""

import numpy as np
import pytest
from PIL import Image
from test_prepare_interrupted import killed
from voc12_devkit import SBD_ONLY, contents, mask, write_voc_and_sbd

from tool.aside import keep_aside
from tool.cli import UserError
from tool.files import save_npy_dict
from voc12.classes import PALETTE
from voc12.prepare import main

COLOURED, CUT, EMPTY, PICTURE = *SBD_ONLY[:3], "2007_000001"


def rgb_png(path, label: np.ndarray) -> bytes:
    Image.fromarray(PALETTE[label]).save(path)
    return path.read_bytes()


@pytest.fixture
def devkit(tmp_path):
    """A devkit with its own SegmentationClassAug: one mask of colours, one cut off, an empty one, and a picture."""
    root, sbd = write_voc_and_sbd(tmp_path)
    flags = ["--voc12_root", str(root), "--sbd_root", str(sbd), "--epochs", "2", "--out_dir", str(tmp_path / "out")]
    main(flags)
    folder = root / "SegmentationClassAug"
    whole = contents(folder)
    path = folder / f"{COLOURED}.png"
    with Image.open(path) as image:
        rgb_png(path, np.array(image))
    cut = folder / f"{CUT}.png"
    cut.write_bytes(cut.read_bytes()[:-30])
    (folder / f"{EMPTY}.png").write_bytes(b"")
    Image.effect_noise((16, 12), 50).convert("RGB").save(folder / f"{PICTURE}.png")
    return root, flags, whole


def test_nothing_is_replaced_without_being_asked_for(devkit, capsys):
    root, flags, _ = devkit
    before = contents(root)
    capsys.readouterr()
    main(flags)
    assert contents(root) == before
    said = capsys.readouterr().out
    old = f"keeps the old ones in {root}/SegmentationClassAug.old"
    assert f"  1 mask of colours, not class values; --repair converts them and {old}: {COLOURED}\n" in said
    line = next(
        line for line in said.splitlines() if "3 masks that cannot be used; --repair makes them anew and" in line
    )
    assert old in line and all(f"{name}.png" in line for name in (CUT, EMPTY, PICTURE))
    assert "labels and masks agree on 5 of 5 images" in said  # the colours were understood


def test_repair_converts_and_makes_anew_and_keeps_the_old_files(devkit, capsys):
    root, flags, whole = devkit
    before = contents(root / "SegmentationClassAug")
    names = [f"{name}.png" for name in (COLOURED, CUT, EMPTY, PICTURE)]
    main([*flags, "--repair"])
    assert contents(root / "SegmentationClassAug") == whole
    assert contents(root / "SegmentationClassAug.old") == {
        f"SegmentationClassAug.old/{name}": before[f"SegmentationClassAug/{name}"] for name in names
    }
    old, said = root / "SegmentationClassAug.old", capsys.readouterr().out
    assert f"  1 mask of colours, converted to class values; the old ones are in {old}: {COLOURED}\n" in said
    assert f"made anew; the old ones are in {old}: {PICTURE}, {CUT}, {EMPTY}\n" in said
    main([*flags, "--repair"])
    assert "nothing looks wrong" in capsys.readouterr().out


@pytest.mark.parametrize("repair", [(), ("--repair",)])
def test_of_two_masks_of_one_id_neither_is_replaced(devkit, capsys, repair):
    root, flags, _ = devkit
    folder = root / "SegmentationClassAug"
    (folder / f"{EMPTY}.PNG").write_bytes(b"mine")
    (folder / f"{PICTURE}.png").rename(folder / f"{PICTURE}.Png")
    (folder / f"{PICTURE}.PNG").write_bytes(b"mine too")
    (root / f"Annotations/{PICTURE}.XML").write_text("")
    before = contents(folder)
    names = [name for name in before if EMPTY in name or PICTURE in name]
    main([*flags, *repair])
    after = contents(folder)
    assert len(names) == 4 and {name: after.get(name) for name in names} == {name: before[name] for name in names}
    assert sorted(before) == sorted(after)
    said = capsys.readouterr().out
    assert "  2 images with more than one file, left out: " in said
    assert "  1 XML file without a usable label, so their photos are in no pair: " in said


def test_an_older_copy_is_kept_too(devkit):
    root, flags, _ = devkit
    main([*flags, "--repair"])
    path, old = root / f"SegmentationClassAug/{CUT}.png", root / "SegmentationClassAug.old"
    first = (old / f"{CUT}.png").read_bytes()
    path.write_bytes(b"another")
    main([*flags, "--repair"])
    assert (old / f"{CUT}.png").read_bytes() == first
    assert (old / f"{CUT}.png.1").read_bytes() == b"another"


def test_a_mask_without_a_source_stays_as_it_is(devkit, tmp_path, capsys):
    root, flags, _ = devkit
    before = contents(root / "SegmentationClassAug")
    main([*flags[:2], *flags[4:], "--repair"])  # without SBD
    after = contents(root / "SegmentationClassAug")
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {f"SegmentationClassAug/{name}.png" for name in (COLOURED, PICTURE)}
    assert "  2 masks that cannot be used: " in capsys.readouterr().out


@pytest.mark.parametrize("after", [False, True])
def test_killed_while_repairing_nothing_is_lost(devkit, after):
    root, flags, whole = devkit
    before = {name.split("/")[1]: data for name, data in contents(root / "SegmentationClassAug").items()}
    for step in (1, 2, 2, 1):
        assert killed(lambda: main([*flags, "--repair"]), step, after) == 9
        found = set(contents(root / "SegmentationClassAug", root / "SegmentationClassAug.old").values())
        assert set(before.values()) <= found
    main([*flags, "--repair"])
    assert contents(root / "SegmentationClassAug") == whole


def test_lists_labels_and_pairs_that_were_there_are_kept(devkit, tmp_path, capsys):
    _, flags, _ = devkit
    out = tmp_path / "out"
    made = contents(out)
    mine = {"train.txt": b"mine\n", "EDAM_train.txt": b"/JPEGImages/a.jpg /JPEGImages/b.jpg 1\n"}
    for name, data in mine.items():
        (out / name).write_bytes(data)
    save_npy_dict(out / "cls_labels.npy", {"a": np.ones(20, np.float32)})
    mine["cls_labels.npy"] = (out / "cls_labels.npy").read_bytes()
    capsys.readouterr()
    main(flags)
    said = capsys.readouterr().out
    for name, data in mine.items():
        assert (out / f"{name}.1").read_bytes() == data
        assert f"{out / name}: what it held is kept as {out / name}.1\n" in said
    assert {name: data for name, data in contents(out).items() if not name.endswith(".1")} == made
    main(flags)
    assert "kept as" not in capsys.readouterr().out
    assert not list(out.glob("*.2"))


def test_copies_take_the_first_free_name_and_the_same_bytes_are_kept_once(tmp_path):
    path = tmp_path / "a.txt"
    for data, name in ((b"1", "a.txt.1"), (b"2", "a.txt.2"), (b"1", "a.txt.1"), (b"3", "a.txt.3")):
        path.write_bytes(data)
        assert keep_aside(path) == tmp_path / name
        assert (tmp_path / name).read_bytes() == data
    assert keep_aside(path, tmp_path / "new") == tmp_path / "new/a.txt"
    with pytest.raises(UserError, match=r"cannot keep .*absent aside: No such file"):
        keep_aside(tmp_path / "absent")


def test_a_mask_of_colours_among_vocs_own_is_read_and_left_alone(tmp_path, capsys):
    root, sbd = write_voc_and_sbd(tmp_path)
    path = root / "SegmentationClass/2007_000004.png"
    data = rgb_png(path, mask(14, 6))
    main(["--voc12_root", str(root), "--sbd_root", str(sbd), "--out_dir", str(tmp_path / "out"), "--repair"])
    assert path.read_bytes() == data
    said = capsys.readouterr().out
    assert "labels and masks agree on 8 of 8 images" in said and "nothing looks wrong" in said
