"""Check of every input of an experiment before its first step: all that is missing, and where to get it."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from experiment.steps import Plan
from network import make_net
from network.weights import IMAGENET, load_weights, make_poolnet
from pseudo_label.onnx_saliency import OnnxSaliency, find_weights
from tool.cli import UserError
from voc12.classes import VOC
from voc12.dataset import Dataset, Files, check_inputs, label_maps, read_image_list, report_problems, saliency_maps
from voc12.masks import AUG
from voc12.sbd import SBD_PAGE, find_sbd_masks

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
    """Check all inputs and print what was found. UserError: something is missing, all of which is listed."""
    found = Preflight(plan)
    if not plan.sal_path:
        found.notes.append(
            f"the rows with saliency are left out; for them --poolnet_weights: {SOURCES['poolnet_weights']}"
        )
    if not plan.segments:
        found.notes.append(f"DeepLab-v2's rows are left out; for them --deeplab_weights: {SOURCES['deeplab_weights']}")
    if not torch.cuda.is_available():
        slow = "" if laptop else "no GPU: the published schedule takes weeks on a CPU; "
        found.notes.append(f"{slow}--try takes about {found.try_minutes()} minutes here")
    print("\n".join(found.notes))
    if found.problems:
        print("\n".join(f"problem: {line}" for line in found.problems), file=sys.stderr)
        raise UserError(f"{len(found.problems)} of the inputs cannot be used, listed above")


class Preflight:
    """Result of looking at all that a plan reads.

    problems: lines on what stops the experiment. notes: lines on what was found.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.networks: list[torch.nn.Module] = []
        with self._noting():
            if not next(path for path in (plan.out, *plan.out.parents) if path.exists()).is_dir():
                raise UserError(f"--out {plan.out}: is a file, or in one. Name a folder.")
        ids = self._photos()
        if plan.saliency:
            self._saliency(ids)
        if plan.edam_weights:
            self._weights("edam_weights", plan.edam_weights, plan.edam, "forward_cam")
        else:
            self._weights("weights", plan.weights, plan.edam, "forward_cam")
        if plan.poolnet_weights and not plan.saliency:
            self._weights("poolnet_weights", plan.poolnet_weights, plan.poolnet)
        if plan.saliency_network:
            with self._noting():
                OnnxSaliency(find_weights(plan.saliency_network))
        if plan.segments:
            self._weights("deeplab_weights", plan.deeplab_weights, plan.deeplab, "num_labels")

    def try_minutes(self) -> int:
        """Return about how long --try takes, from the time of one crop through each network."""
        began = time.monotonic()
        with torch.inference_mode():
            for net in self.networks:
                net.eval()(torch.zeros(2, 3, 321, 321))
        return round((TRIED * (time.monotonic() - began) + 20 * STEP_START) / 60)

    @contextmanager
    def _noting(self, flag: str = "", wanted: str | None = None) -> Iterator[None]:
        """Add a UserError to the problems, with the flag and the source of what is wanted."""
        wanted = SOURCES.get(flag) if wanted is None else wanted
        try:
            yield
        except UserError as error:
            self.problems.append(f"{f'--{flag}: ' if flag else ''}{error}{f'; wanted: {wanted}' if wanted else ''}")

    def _sound(self, ids: Sequence[str], *files: Files, flag: str = "") -> list[str]:
        """Return the ids whose files are there and of one size."""
        problems: list[tuple[str, str]] = []
        with self._noting(flag):
            problems = check_inputs(ids, files)
            report_problems(problems, ids, None, "used")
        return [image_id for image_id in ids if image_id not in dict(problems)]

    def _photos(self) -> list[str]:
        """Return the ids of the photos that get labels: VOC's train and SBD's, without val."""
        root, sbd = self.plan.root, set[str]()
        if self.plan.sbd_root:
            with self._noting():
                sbd = set(Files("SBD mask", find_sbd_masks(self.plan.sbd_root), (".mat",)).names)
        before = len(self.problems)
        with self._noting(wanted=VOC_SOURCE):
            data = Dataset(root)
        if len(self.problems) > before:
            self.notes.append(f"for the photos of train_aug: --sbd_root SBD or --download DIR ({SBD_PAGE})")
            return []
        if data.classes != VOC:
            self.problems.append(f"{root / 'classes.txt'}: names other classes than VOC's. README.md has the commands.")
            return []
        if not (root / "Annotations").is_dir():
            self.problems.append(f"{root / 'Annotations'} does not exist: it holds the image-level labels (XML)")
        lists: dict[str, list[str]] = {"train": [], "val": []}
        for name in lists:
            with self._noting():
                remedy = "it comes with the devkit: unpack that again"
                lists[name] = read_image_list(root / "ImageSets" / "Segmentation" / f"{name}.txt", remedy)
        both, train = [*lists["train"], *lists["val"]], len(lists["train"])
        augmented = sorted((sbd | label_maps(root / AUG).names.keys()).difference(both))
        if self.plan.to_label != self.plan.labelled and not augmented and not self.plan.download:
            self.notes.append(
                f"{root / AUG} is missing: EDAM is trained on the {train} photos of train, not on the 10582 of train_aug "
                f"as published; --sbd_root SBD or --download DIR makes it ({SBD_PAGE})"
            )
        self.notes.append(f"{train} photos in train, {len(lists['val'])} in val, {len(augmented)} more with masks")
        sound = set(self._sound([*both, *augmented], data.photos()))
        self._sound([i for i in both if i in sound], data.photos(), label_maps(data.mask_dir, "ground truth"))
        return [i for i in [*lists["train"], *augmented] if i in sound]

    def _saliency(self, ids: list[str]) -> None:
        maps = saliency_maps(self.plan.saliency or "")
        with self._noting("sal_path"):
            maps.check()
            if "--per_class" in self.plan.prepare:
                self.notes.append("--sal_path: the photos are chosen later, so their maps are checked later")
            elif ids:
                self._sound(ids, Dataset(self.plan.root).photos(), maps, flag="sal_path")

    def _weights(self, flag: str, path: Path | None, module: str, *needs: str) -> None:
        """Load a file of weights into its network, as its script will. Without a path, a try has random weights."""
        with self._noting(flag, "" if path == Path(IMAGENET) else None):
            net = make_poolnet(module, path, needs) if flag == "poolnet_weights" else make_net(module, needs=needs)
            self.networks.append(net)
            if path is None and not (flag == "weights" and self.plan.fewer):
                raise UserError("is missing")
            if path is not None:
                report = load_weights(net, path)
                if report.missing and flag in ("edam_weights", "poolnet_weights"):
                    raise UserError(f"{report}: not trained")
                self.notes.append(f"--{flag}: {report}")
