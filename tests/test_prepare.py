"""voc12/prepare.py: lists, masks, labels and pairs from a devkit; what looks wrong is named."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from voc12_devkit import (
    LABELS,
    REPO,
    SBD_ONLY,
    TRAIN,
    VAL,
    contents,
    hot,
    mask,
    write_devkit,
    write_mat,
    write_png,
    write_voc_and_sbd,
    xml,
)

from tool.cli import UserError
from voc12.classes import PALETTE
from voc12.lists import read_image_list, read_pairs
from voc12.prepare import main


def prepare(out, *arguments) -> None:
    main(["--out_dir", str(out), *map(str, arguments)])


def lines_of(ids) -> str:
    return "".join(f"/JPEGImages/{i}.jpg /SegmentationClassAug/{i}.png\n" for i in sorted(ids))


def test_devkit_and_sbd_give_lists_masks_labels_and_pairs(tmp_path, capsys):
    root, sbd = write_voc_and_sbd(tmp_path)
    (root / "ImageSets/Segmentation/test.txt").write_text("2009_000008\n2008_000005\n")
    out = tmp_path / "out"
    prepare(out, "--voc12_root", root, "--sbd_root", sbd, "--epochs", 3)

    assert (out / "train.txt").read_text() == lines_of(TRAIN)
    assert (out / "val.txt").read_text() == lines_of(VAL)
    assert (out / "train_aug.txt").read_text() == lines_of(TRAIN + SBD_ONLY)
    assert (out / "test.txt").read_text() == "/JPEGImages/2008_000005.jpg\n/JPEGImages/2009_000008.jpg\n"

    masks = {path.stem: Image.open(path) for path in (root / "SegmentationClassAug").iterdir()}
    assert masks.keys() == LABELS.keys()
    for image_id, image in masks.items():
        expected = mask(*LABELS[image_id])
        if image_id in SBD_ONLY:
            expected[expected == 255] = 0  # SBD knows no void; VOC's own masks, with void, win over SBD's
        assert image.mode == "P"
        assert np.array_equal(np.array(image), expected)
        assert np.array_equal(np.array(image.getpalette()).reshape(-1, 3), PALETTE[: len(image.getpalette()) // 3])

    # as the repositories of this family read it
    labels = np.load(out / "cls_labels.npy", allow_pickle=True).item()
    assert list(labels) == sorted(LABELS)
    assert all(label.dtype == np.float32 for label in labels.values())
    assert all(np.array_equal(labels[image_id], hot(*classes)) for image_id, classes in LABELS.items())

    pairs = read_pairs(out / "EDAM_train.txt")
    assert len(pairs) == 9
    for start in (0, 3, 6):
        assert sorted(i for pair in pairs[start : start + 3] for i in pair[:2]) == sorted(TRAIN + SBD_ONLY)
    assert all(labels[first][label] and labels[second][label] for first, second, label in pairs)

    report = capsys.readouterr().out.splitlines()
    assert "  train            2   (VOC 2012: 1464)" in report
    assert "  train_aug        6   (VOC 2012: 10582)" in report
    assert [line.split() for line in report if line.startswith("  car ")] == [
        ["car", "2", "1", "3", "0", "0"],
    ]
    assert "  labels and masks agree on 8 of 8 images" in report
    assert "pairs: 3 per epoch, 3 epochs, 9 in all" in report
    assert "nothing looks wrong" in report
    assert report[-1].split()[:4] == ["python", "train_EDAM_cls.py", "--voc12_root", str(root)]
    assert f"--train_list {out / 'EDAM_train.txt'} " in report[-1]


def test_a_second_run_writes_nothing(tmp_path, capsys):
    root, sbd = write_voc_and_sbd(tmp_path)
    prepare(tmp_path / "out", "--voc12_root", root, "--sbd_root", sbd)
    files = [*(tmp_path / "out").iterdir(), *(root / "SegmentationClassAug").iterdir()]
    before = {path: path.stat().st_ino for path in files}
    capsys.readouterr()
    prepare(tmp_path / "out", "--voc12_root", root)
    assert {path: path.stat().st_ino for path in files} == before
    said = capsys.readouterr().out
    assert said.count(": already right\n") == 5
    assert "written" not in said
    prepare(tmp_path / "out", "--voc12_root", root, "--seed", 1)
    assert capsys.readouterr().out.count(": already right\n") == 4  # all but the pairs


def test_without_sbd_the_rest_is_made_and_the_lack_is_told(tmp_path, capsys):
    root, _ = write_voc_and_sbd(tmp_path)
    before = contents(root)
    prepare(tmp_path / "out", "--voc12_root", root)
    assert contents(root) == before
    assert read_image_list(tmp_path / "out/train_aug.txt") == list(TRAIN)
    assert len(read_pairs(tmp_path / "out/EDAM_train.txt")) == 50  # one left over in each of 25 epochs: no shared class
    assert len(np.load(tmp_path / "out/cls_labels.npy", allow_pickle=True).item()) == 4
    said = capsys.readouterr().out
    assert f"{root}/SegmentationClassAug is missing, so train_aug is no more than train (2 images)." in said
    assert "  1 folder missing, so train_aug is no more than train (see below): SegmentationClassAug\n" in said
    assert "nothing looks wrong" not in said
    assert "It is made from SBD (http" in said
    assert f"  python voc12/prepare.py --voc12_root {root} --download DIR\n" in said
    assert said.splitlines()[-1].startswith("  python train_EDAM_cls.py ")


def test_a_folder_with_gaps_is_completed_and_its_own_masks_are_kept(tmp_path, capsys):
    root, sbd = write_voc_and_sbd(tmp_path)
    mine = np.full((12, 16), 3, np.uint8)
    write_png(root / "SegmentationClassAug/2008_000005.png", mine)
    kept = (root / "SegmentationClassAug/2008_000005.png").read_bytes()
    prepare(tmp_path / "out", "--voc12_root", root, "--sbd_root", sbd)
    assert (root / "SegmentationClassAug/2008_000005.png").read_bytes() == kept
    assert len(list((root / "SegmentationClassAug").iterdir())) == 8
    said = capsys.readouterr().out
    assert "labels and masks agree on 7 of 8 images" in said
    rows = {line.split()[0]: line.split()[-2:] for line in said.splitlines() if line.startswith(("  car ", "  bird "))}
    assert rows == {"car": ["1", "0"], "bird": ["0", "1"]}


def test_everything_that_looks_wrong_is_named(tmp_path, capsys):
    root, sbd = write_voc_and_sbd(tmp_path)
    prepare(tmp_path / "whole", "--voc12_root", root, "--sbd_root", sbd)
    capsys.readouterr()
    aug = root / "SegmentationClassAug"
    (root / "Annotations/2008_000005.xml").unlink()
    (root / "Annotations/2008_000006.xml").write_text(xml(["unicorn"]))
    (root / "Annotations/2009_000007.xml").write_text(xml([]))
    write_png(aug / "2010_000001.png", mask(1))  # no photo
    (root / "JPEGImages/2007_000004.jpg").unlink()  # of val
    photo = root / "JPEGImages/2007_000003.jpg"
    Image.effect_noise((160, 120), 50).convert("RGB").save(photo)
    photo.write_bytes(photo.read_bytes()[:-2000])  # its header is whole
    truncated = aug / "2009_000008.png"
    truncated.write_bytes(truncated.read_bytes()[:-30])
    write_png(aug / "2009_000007.png", np.full((5, 5), 77, np.uint8))
    (root / "SegmentationClass/2007_000002.png").unlink()
    (aug / "2007_000002.png").unlink()
    (aug / "-bad.png").write_bytes(b"")
    (root / "ImageSets/Segmentation/train.txt").write_text("2007_000001\n2007_000003\n2007_000002\n2012_999999\n")

    prepare(tmp_path / "out", "--voc12_root", root)
    said = capsys.readouterr().out
    for kind, name in (
        ("1 photo without XML, so without label and in no pair", "2008_000005"),
        ("2 XML files without a usable label, so their photos are in no pair", "unknown class name 'unicorn'"),
        ("2 XML files without a usable label, so their photos are in no pair", "2009_000007.xml names no class"),
        ("2 masks without a photo, left out", "2007_000004, 2010_000001"),
        ("1 image of val.txt without a photo, left out", "2007_000004"),
        ("1 image of train.txt without a photo, left out", "2012_999999"),
        ("1 image of val.txt without a mask", "2007_000002"),
        ("1 image in both train.txt and val.txt", "2007_000002"),
        ("1 mask that cannot be used", "2009_000008.png"),
        ("1 mask with values other than 0..20 and 255", "2009_000007"),
        ("1 mask of another size than their photo", "2009_000007"),
        ("1 photo that cannot be read", "2007_000003"),
        ("1 file name other than image ids, left out", "-bad.png"),
    ):
        assert [name in line for line in said.splitlines() if line.startswith(f"  {kind}: ")] == [True], (kind, said)
    assert "please look at these:" in said

    assert read_image_list(tmp_path / "out/train_aug.txt") == ["2007_000001", "2007_000003", *SBD_ONLY]
    assert read_image_list(tmp_path / "out/val.txt") == ["2007_000002"]
    in_pairs = {image_id for pair in read_pairs(tmp_path / "out/EDAM_train.txt") for image_id in pair[:2]}
    assert in_pairs == {"2007_000001", "2007_000003", "2009_000008"}
    labels = np.load(tmp_path / "out/cls_labels.npy", allow_pickle=True).item()
    assert "2008_000005" not in labels
    assert "2009_000007" not in labels


def test_sources_that_are_damaged_are_named_and_what_they_lacked_is_added_later(tmp_path, capsys):
    root, sbd = write_voc_and_sbd(tmp_path)
    prepare(tmp_path / "out", "--voc12_root", root, "--sbd_root", sbd)
    whole = contents(root, tmp_path / "out")
    shutil.rmtree(root / "SegmentationClassAug")
    source = root / "SegmentationClass/2007_000001.png"
    png = source.read_bytes()
    source.write_bytes(png[:-30])
    (sbd / "dataset/cls/2008_000005.mat").write_bytes(b"MATLAB")
    capsys.readouterr()
    prepare(tmp_path / "out", "--voc12_root", root, "--sbd_root", sbd)
    said = capsys.readouterr().out
    line = next(line for line in said.splitlines() if line.startswith("  2 masks that could not be made: "))
    assert "SegmentationClass/2007_000001.png" in line
    assert "2008_000005.mat" in line
    assert "  1 image of train.txt without a mask: 2007_000001\n" in said
    source.write_bytes(png)  # put right, the next run adds what was lacking
    write_mat(sbd / "dataset/cls/2008_000005.mat", np.where(mask(6) == 255, 0, mask(6)))
    prepare(tmp_path / "out", "--voc12_root", root, "--sbd_root", sbd)
    made = contents(root, tmp_path / "out")
    assert {name: data for name, data in made.items() if not name[-1].isdigit()} == whole


def test_many_findings_of_a_kind_are_counted_and_the_first_named(tmp_path, capsys):
    labels = {f"2007_{n:06d}": (n % 20,) for n in range(40)}
    root = write_devkit(tmp_path / "VOC2012", labels, train=labels, val=["2007_000000"], own=labels)
    for n in range(25):
        (root / f"Annotations/2007_{n:06d}.xml").unlink()
    prepare(tmp_path / "out", "--voc12_root", root)
    named = ", ".join(f"2007_{n:06d}" for n in range(10))
    said = capsys.readouterr().out
    assert f"  25 photos without XML, so without label and in no pair: {named} and 15 more\n" in said


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("JPEGImages", "no VOC 2012 devkit, it has no JPEGImages: give the folder VOC2012, or --download DIR"),
        ("Annotations", "it has no Annotations"),
        ("ImageSets/Segmentation/val.txt", r"it has no ImageSets/Segmentation/val.txt"),
    ],
)
def test_a_root_that_is_no_devkit_is_refused_before_anything_is_written(tmp_path, missing, message):
    root = write_devkit(tmp_path / "VOC2012", {"a": (0,), "b": (0,)}, ["a"], ["b"], own="ab")
    (root / missing).rename(tmp_path / "away")
    before = contents(root)
    with pytest.raises(UserError, match=message):
        prepare(tmp_path / "out", "--voc12_root", root)
    assert contents(root) == before
    assert not list((tmp_path / "out").iterdir())


def test_mistaken_arguments_are_answered_in_one_line(tmp_path):
    root = write_devkit(tmp_path / "VOCdevkit/VOC2012", {"a": (0,), "b": (0,)}, ["a"], ["b"], own="ab")
    for arguments, message in (
        ((), "give --voc12_root ROOT, or --download DIR"),
        (("--voc12_root", root.parent), f"did you mean {root}?"),
        (("--voc12_root", root.parents[1]), f"did you mean {root}?"),
        (("--voc12_root", root, "--sbd_root", tmp_path / "none"), f"--sbd_root {tmp_path / 'none'} holds no .mat"),
    ):
        with pytest.raises(UserError) as caught:
            prepare(tmp_path / "out", *arguments)
        assert message in str(caught.value)
    (root / "Annotations/a.xml").unlink()
    with pytest.raises(UserError, match="no image of train_aug has a label"):
        prepare(tmp_path / "out", "--voc12_root", root)
    assert not list((tmp_path / "out").iterdir())


def test_command_line_from_the_repository_root(tmp_path):
    root, sbd = write_voc_and_sbd(tmp_path)
    command = [sys.executable, "voc12/prepare.py", "--out_dir", tmp_path / "out", "--voc12_root"]
    done = subprocess.run([*command, root, "--sbd_root", sbd], cwd=REPO, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1].startswith(f"  python train_EDAM_cls.py --voc12_root {root} ")
    done = subprocess.run([*command, tmp_path / "nowhere"], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith(f"prepare.py: error: --voc12_root {tmp_path / 'nowhere'} is no VOC 2012 devkit")
    assert done.stderr.count("\n") == 1


def test_a_few_photos_of_each_class(tmp_path, capsys):
    root, sbd = write_voc_and_sbd(tmp_path)
    out = tmp_path / "out"
    prepare(out, "--voc12_root", root, "--sbd_root", sbd, "--per_class", 1)
    counts, chosen = np.zeros(20, int), []
    for image_id in sorted(TRAIN):  # a loop by the words: taken where one of its classes has none yet
        classes = np.flatnonzero(LABELS[image_id])
        if any(counts[c] < 1 for c in classes):
            chosen.append(image_id)
            counts[classes] += 1
    assert (out / "train.txt").read_text() == lines_of(chosen) == (out / "train_aug.txt").read_text()
    assert {i for pair in read_pairs(out / "EDAM_train.txt") for i in pair[:2]} <= set(chosen)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "--per_class 2: give --out_dir, another folder than that of the whole lists"),
        (
            ("--out_dir", "lists", "--label_dir", "OUT"),
            "--label_dir writes lists of all photos into the devkit: leave out",
        ),
    ],
)
def test_a_few_photos_do_not_mix_with_the_whole_lists(tmp_path, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    root, _ = write_voc_and_sbd(tmp_path)
    with pytest.raises(UserError, match=f"^{message}"):
        main(["--voc12_root", str(root), "--per_class", "2", *flags])
