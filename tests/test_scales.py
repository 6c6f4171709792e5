"""Values on another scale than what they are compared with: saliency of 0 and 1, percentages, palettes of other programs."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from voc12_devkit import mask, write_devkit, write_png, write_voc_and_sbd

import eval as eval_script
from tool.cli import UserError
from tool.files import save_npy_dict
from voc12.classes import PALETTE
from voc12.images import load_grey, load_label, read_label, save_label
from voc12.prepare import main as prepare

LABEL = np.array([[0, 0, 15, 8], [255, 15, 8, 0]], np.uint8)


def palette_png(path: Path, indices: np.ndarray, colours: np.ndarray) -> None:
    image = Image.fromarray(indices)
    image.putpalette(colours.astype(np.uint8).tobytes())
    image.save(path)


def sorted_anew(path: Path, label: np.ndarray) -> None:
    """As programs save it that drop unused colours and sort the others: index k is the k-th value that occurs."""
    values, indices = np.unique(label, return_inverse=True)
    palette_png(path, indices.reshape(label.shape).astype(np.uint8), PALETTE[values])


def rgb(path: Path, label: np.ndarray, mode: str = "RGB") -> None:
    Image.fromarray(PALETTE[label]).convert(mode).save(path)


@pytest.mark.parametrize("write", [sorted_anew, rgb, lambda path, label: rgb(path, label, "RGBA")])
def test_colours_tell_the_values_where_indices_do_not(tmp_path, write):
    write(tmp_path / "a.png", LABEL)
    found, stored = read_label(tmp_path / "a.png")
    assert np.array_equal(found, LABEL) and found.dtype == np.uint8 and not stored


def test_all_colours_of_the_palette_are_found():
    from voc12.images import labels_of_colours as values_of_colours

    assert np.array_equal(values_of_colours(PALETTE), np.arange(256))
    assert values_of_colours(np.array([[0, 0, 0], [128, 0, 1]], np.uint8)) is None


@pytest.mark.parametrize("colours", ["ours", "cut", "grey", "unset", "foreign", "short"])
def test_indices_are_values_where_the_palette_says_nothing_else(tmp_path, colours):
    palette = {
        "ours": PALETTE,
        "cut": PALETTE[:16],  # nothing but what is used
        "grey": np.repeat(np.arange(256)[:, None], 3, 1),
        "unset": np.zeros((256, 3)),
        "foreign": np.random.default_rng(0).integers(1, 255, (256, 3)),
        "short": np.concatenate([PALETTE[:2], np.zeros((254, 3))]),  # the rest was never filled in
    }[colours]
    label = np.minimum(LABEL, 15) if colours == "cut" else LABEL
    palette_png(tmp_path / "a.png", label, palette)
    found, stored = read_label(tmp_path / "a.png")
    assert np.array_equal(found, label) and stored


def test_a_grey_label_map_that_was_made_a_palette_png(tmp_path):
    palette_png(tmp_path / "a.png", np.array([[0, 1, 2]], np.uint8), np.array([[0] * 3, [7] * 3, [15] * 3]))
    assert read_label(tmp_path / "a.png")[0].tolist() == [[0, 7, 15]]


@pytest.mark.parametrize("write", [sorted_anew, rgb])
def test_scores_do_not_depend_on_how_colours_are_stored(tmp_path, write):
    for folder, writer in (("png", write), ("SegmentationClass", save_label)):
        (tmp_path / folder).mkdir()
        writer(tmp_path / folder / "a.png", np.where((LABEL == 255) & (folder == "png"), 0, LABEL).astype(np.uint8))
    assert evaluate(tmp_path, "png")["miou"] == 100
    (tmp_path / "SegmentationClass").rename(tmp_path / "own")
    (tmp_path / "SegmentationClass").mkdir()
    write(tmp_path / "SegmentationClass/a.png", LABEL)
    assert evaluate(tmp_path, "own")["miou"] == 100


def evaluate(root: Path, predictions: str, *flags: str) -> dict:
    if not (root / "list.txt").exists():
        (root / "list.txt").write_text("a\n")
    arguments = ["--voc12_root", root, "--list", root / "list.txt", "--predict_dir", root / predictions]
    arguments += ["--json", root / "out.json", "--num_workers", 1, *flags]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["eval.py", *map(str, arguments)])
        eval_script.main()
    return json.loads((root / "out.json").read_text())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0, 38, 75], "holds the value 38, .*VOC's colours turned into grey: read palette PNGs by their indices"),
        ([0, 3, 255], "holds the value 255, .*255 is void, for the ground truth only"),
        ([0, 3, 77], r"holds the value 77, where 0\.\.20 was expected$"),
    ],
)
def test_values_that_are_no_labels_are_explained(tmp_path, values, message):
    for folder in ("png", "SegmentationClass"):
        (tmp_path / folder).mkdir()
    Image.fromarray(np.array([values], np.uint8)).save(tmp_path / "png/a.png")
    save_label(tmp_path / "SegmentationClass/a.png", np.array([[0, 1, 2]], np.uint8))
    with pytest.raises(UserError, match=message.removesuffix("$")) as error:
        evaluate(tmp_path, "png")
    assert not message.endswith("$") or "(" not in str(error.value).split("expected")[1]


@pytest.mark.parametrize("mode", ["L", "P", "1", "RGB", "RGBA", "LA"])
def test_grey_pixels_are_saliency_however_they_are_stored(tmp_path, mode):
    grey = np.array([[0, 255, 255], [255, 0, 0]] if mode == "1" else [[0, 7, 255], [128, 3, 1]], np.uint8)
    Image.fromarray(grey).convert(mode).save(tmp_path / "a.png")
    assert np.array_equal(load_grey(tmp_path / "a.png"), grey)
    palette_png(tmp_path / "a.png", np.array([[1, 0]], np.uint8), np.array([[9] * 3, [200] * 3]))
    assert load_grey(tmp_path / "a.png").tolist() == [[200, 9]]


def test_colours_and_transparency_are_no_saliency(tmp_path):
    rgb(tmp_path / "a.png", LABEL)
    with pytest.raises(UserError, match="RGB image"):
        load_grey(tmp_path / "a.png")
    save_label(tmp_path / "a.png", LABEL)
    with pytest.raises(UserError, match="P image"):
        load_grey(tmp_path / "a.png")
    Image.fromarray(np.array([[[9, 255], [9, 254]]], np.uint8), "LA").save(tmp_path / "a.png")
    with pytest.raises(UserError, match="LA image"):
        load_grey(tmp_path / "a.png")


def test_saliency_of_0_and_1_is_refused_and_an_empty_one_is_not(tmp_path):
    Image.fromarray(np.array([[0, 1]], np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a\.png.*0 and 1 only"):
        load_grey(tmp_path / "a.png")
    for largest in (0, 2):
        Image.fromarray(np.array([[0, largest]], np.uint8)).save(tmp_path / "a.png")
        assert load_grey(tmp_path / "a.png").tolist() == [[0, largest]]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--theta", "20"), "--theta 20"),
        (("--alpha", "25", "--sal_path", "."), "--alpha 25 "),
        (("--alpha", "25", "--sal_path", ".", "--curve"), "--alpha 25 "),
    ],
)
def test_eval_refuses_them(tmp_path, flags, message):
    for folder in ("cam", "SegmentationClass"):
        (tmp_path / folder).mkdir()
    with pytest.raises(UserError, match=message):
        evaluate(tmp_path, "cam", "--type", "npy", *flags)


def test_class_maps_of_0_to_255_are_refused(tmp_path):
    for folder in ("cam", "SegmentationClass"):
        (tmp_path / folder).mkdir()
    save_label(tmp_path / "SegmentationClass/a.png", LABEL)
    for value, held in ((255.0, "0 to 255"), (-3.0, "-3 to 0")):
        save_npy_dict(tmp_path / "cam/a.npy", {3: np.full((2, 4), value, np.float32)})
        with pytest.raises(UserError, match=rf"a\.npy.*{held}"):
            evaluate(tmp_path, "cam", "--type", "npy")


@pytest.mark.parametrize(("empty", "told"), [(9, True), (8, False)])
def test_eval_says_that_nearly_all_predictions_are_background(tmp_path, capsys, empty, told):
    """Ten photos with objects; an eleventh has none, and does not count."""
    ids = [f"i{number}" for number in range(11)]
    (tmp_path / "list.txt").write_text("\n".join(ids))
    for folder in ("png", "SegmentationClass", "cam"):
        (tmp_path / folder).mkdir()
    for number, image_id in enumerate(ids):
        truth, predicted = np.zeros((2, 3), np.uint8), np.zeros((2, 3), np.uint8)
        truth[0, 0], predicted[1, 1] = (5, 5) if number < 10 else (0, 5)
        predicted[1, 1] *= number >= empty
        save_label(tmp_path / f"SegmentationClass/{image_id}.png", truth)
        save_label(tmp_path / f"png/{image_id}.png", predicted)
        save_npy_dict(tmp_path / f"cam/{image_id}.npy", {4: (predicted > 0) * np.float32(0.3)})
    for flags in (("png",), ("cam", "--type", "npy", "--theta", "0.2"), ("cam", "--type", "npy", "--curve")):
        evaluate(tmp_path, *flags)
        said = capsys.readouterr().err
        assert (f"note: {empty} of the 10 predictions whose ground truth shows objects are all" in said) == told
    evaluate(tmp_path, "cam", "--type", "npy", "--theta", "0.5")
    assert "note: 10 of the 10 predictions" in capsys.readouterr().err


def test_masks_that_show_other_classes_are_a_finding(tmp_path, capsys):
    labels = {f"2007_{n:06d}": (n % 20,) for n in range(20)}
    root = write_devkit(tmp_path / "VOC2012", labels, list(labels)[1:], list(labels)[:1], own=labels)
    for number, finding in ((2, False), (3, True)):
        write_png(root / f"SegmentationClass/2007_{number:06d}.png", mask(19))
        write_png(root / f"SegmentationClass/2007_{number - 1:06d}.png", mask(19))
        prepare(["--voc12_root", str(root), "--out_dir", str(tmp_path / "out")])
        said = capsys.readouterr().out
        assert ("mask shows other classes" in said) == finding
        line = "  3 of 20 images whose mask shows other classes than their label (is each mask class values, of this photo?)"
        assert (f"{line}: 2007_000001, 2007_000002, 2007_000003\n" in said) == finding


def test_masks_of_another_program_still_agree_with_their_labels(tmp_path, capsys):
    root, sbd = write_voc_and_sbd(tmp_path)
    for path in (root / "SegmentationClass").iterdir():
        sorted_anew(path, load_label(path))
    prepare(["--voc12_root", str(root), "--sbd_root", str(sbd), "--out_dir", str(tmp_path / "out")])
    assert "labels and masks agree on 8 of 8 images" in capsys.readouterr().out
    assert read_label(root / "SegmentationClassAug/2007_000004.png")[1]
