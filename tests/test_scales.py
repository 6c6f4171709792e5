"""Values on another scale than the one they are compared with: percentages, masks of other classes, empty predictions."""

import pytest
from PIL import Image
from test_eval import IDS, evaluate, root  # noqa: F401  (root is a fixture)
from voc12_devkit import mask, write_devkit, write_png

from pseudo_label.fusion import check_fusion
from tool.cli import UserError
from voc12.prepare import main as prepare


@pytest.mark.parametrize(
    ("theta", "alpha", "beta", "saliency", "keyword"),
    [
        (20, 0, 1, False, "write 0.2"),
        (1, 0, 1, False, "--theta"),
        (2.55, 0, 1, True, "--theta"),
        (0.2, 0.95, 0.25, True, "--alpha"),
        (0.2, -1, 1, True, "--alpha"),
        (0, 0, 1, True, None),
        (2.5, 0.25, 0.95, True, None),
        (0, 7, -7, False, None),  # without saliency, alpha and beta are unused
    ],
)
def test_settings_of_fusion(theta, alpha, beta, saliency, keyword):
    if keyword is None:
        check_fusion(theta, alpha, beta, saliency=saliency)
    else:
        with pytest.raises(UserError, match=keyword):
            check_fusion(theta, alpha, beta, saliency=saliency)


def test_inference_rejects_them_before_reading(commands, drawn, tmp_path):
    flags = ("--voc12_root", drawn, "--weights", "nowhere.pth", "--infer_list", "nowhere.txt", "--sal_path", drawn)
    assert commands.error(tmp_path, "infer_cls.py", *flags, "--out_cam_pred", "a", "--alpha", 25).startswith("--alpha")


def test_masks_of_other_classes_are_a_finding(tmp_path, capsys):
    labels = {f"2007_{n:06d}": (n % 20,) for n in range(20)}
    devkit = write_devkit(tmp_path / "VOC2012", labels, list(labels)[1:], list(labels)[:1], own=labels)
    for number, finding in ((2, False), (3, True)):
        for wrong in (number - 1, number):
            write_png(devkit / f"SegmentationClass/2007_{wrong:06d}.png", mask(19))
        prepare(["--voc12_root", str(devkit), "--out_dir", str(tmp_path / "out")])
        said = capsys.readouterr().out
        assert ("2007_000001, 2007_000002, 2007_000003" in said) == finding


@pytest.mark.parametrize(("background", "noted"), [(18, True), (17, False)])
def test_eval_notes_that_nearly_all_predictions_are_background(root, capsys, background, noted):  # noqa: F811
    for image_id in IDS[:background]:
        Image.new("L", (15, 12)).save(root / "png" / f"{image_id}.png")
    evaluate(root, "png")
    assert (f"note: {background} of the 20 predictions" in capsys.readouterr().err) == noted
