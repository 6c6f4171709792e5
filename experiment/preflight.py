"""Whether an experiment can run to its end: every input looked at before the first step, and all that is missing named at once."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch

from experiment.chain import Plan
from network import make_net
from network.caffe_weights import make_poolnet
from network.state_dict import LoadReport
from network.weights import load_weights
from tool.cli import UserError, summarize_problems
from voc12.classes import VOC
from voc12.folders import LABEL_ENDINGS, files_of
from voc12.inputs import Input, check_folder, check_inputs, label_maps, photos, saliency_maps
from voc12.lists import CLASSES_FILE, UNPACK_AGAIN, check_root, photo_folder, read_classes, read_image_list
from voc12.masks import AUG, OWN
from voc12.sbd import SBD_PAGE, find_sbd_masks

SOURCES = {
    "weights": "ImageNet weights of ResNet-38, ilsvrc-cls_rna-a1_cls1000_ep-0001.params, linked by github.com/jiwoon-ahn/psa",
    "edam_weights": "a trained EDAM (.pth), such as the authors' (BaiduYun, see README.md); without it EDAM is trained here",
    "poolnet_weights": "final.pth of PoolNet, linked by github.com/backseason/PoolNet; or maps that you have, --sal_path",
    "sal_path": "grey maps <id>.png, such as the authors' (BaiduYun, see README.md); or --poolnet_weights makes them",
    "deeplab_weights": "deeplabv1_resnet101-coco.pth, made by convert.py of github.com/kazuto1011/deeplab-pytorch",
}
CHECKPOINTS, STATES = 25, 4  # the state to resume from, with its momenta, is there twice while it is written
MAPS_BYTES = 2_000_000  # class maps of a photo of 500x375 that is scored
LABEL_BYTES = 100_000  # labels and saliency of any photo


class Preflight:
    """problems: lines on what stops the experiment. notes: lines on what was found, and on what is left out."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.notes: list[str] = []
        self._scored = 0

    def look(self, plan: Plan) -> None:
        """Look at everything that the plan reads: devkit, photos, masks, saliency maps, weights, room on the disk."""
        ids = self._devkit(plan)
        if plan.saliency:
            self._saliency(plan, ids)
        edam = partial(_load, plan.edam, "forward_cam")
        if plan.edam_weights:
            self._weights("edam_weights", plan.edam_weights, edam)
        elif plan.weights or not plan.fewer:  # a try may start from random weights
            self._weights("weights", plan.weights, edam)
        if plan.poolnet_weights and not plan.saliency:
            self._weights("poolnet_weights", plan.poolnet_weights, partial(_load_poolnet, plan.poolnet))
        if plan.segments:
            self._weights("deeplab_weights", plan.deeplab_weights, partial(_load, plan.deeplab, "num_labels"))
        self._disk(plan, len(ids))

    def _devkit(self, plan: Plan) -> list[str]:
        """The photos that are labelled and sound: of VOC's train list, and the images with masks of SBD that are not in val."""
        root = plan.root
        sbd: set[str] = set()
        if plan.sbd_root:
            with self._noting():
                sbd = set(files_of(find_sbd_masks(plan.sbd_root), (".mat",)))
        try:
            check_root(root)
            if read_classes(root) != VOC:
                raise UserError(
                    f"{root / CLASSES_FILE} names other classes than VOC's, whose experiment this is; "
                    "README.md has the commands for them"
                )
        except UserError as error:
            self.problems.append(str(error))
            return []
        if not (root / "Annotations").is_dir():
            self.problems.append(f"{root / 'Annotations'} does not exist: it holds the image-level labels (XML)")
        ids: dict[str, list[str]] = {"train": [], "val": []}
        for name in ids:
            with self._noting():
                ids[name] = read_image_list(root / "ImageSets" / "Segmentation" / f"{name}.txt", UNPACK_AGAIN)
        both, pictures = [*ids["train"], *ids["val"]], photos(photo_folder(root))
        self._scored = len(ids["train"])
        augmented = sorted((sbd | files_of(root / AUG, LABEL_ENDINGS).keys()).difference(both))
        if plan.to_label != plan.labelled and not augmented and not plan.download:
            self.notes.append(
                f"{root / AUG} is missing: EDAM is trained on the {len(ids['train'])} photos of train, not on the 10582 of train_aug "
                f"as published; --sbd_root SBD or --download DIR makes it ({SBD_PAGE})"
            )
        self.notes.append(
            f"{len(ids['train'])} photos in train, {len(ids['val'])} in val, {len(augmented)} more with masks"
        )
        sound = self._files([*both, *augmented], pictures)
        self._files([i for i in both if i in sound], pictures, label_maps(root / OWN, "ground truth"))
        return [i for i in [*ids["train"], *augmented] if i in sound]

    def _saliency(self, plan: Plan, ids: list[str]) -> None:
        maps, about = saliency_maps(plan.saliency or ""), "--sal_path: {}; wanted: " + SOURCES["sal_path"]
        chosen = "--per_class" in plan.prepare  # a few photos, known when the lists are made
        if chosen or not ids:  # none: of a devkit that is not there
            with self._noting(about):
                check_folder(maps)
        if chosen:
            self.notes.append(
                "maps of the first photos of each class are needed; they are looked at when they are fused"
            )
            return
        self._files(ids, photos(photo_folder(plan.root)), maps, about=about)
        if plan.download and not (plan.root / AUG).is_dir():
            self.notes.append("maps of the photos that --download adds are looked at when they are fused")

    def _files(self, ids: list[str], *inputs: Input, about: str = "{}") -> set[str]:
        """Look at the files of some images; those whose files are sound. `about`: where and how the problem is named."""
        bad = dict.fromkeys(ids, "")
        with self._noting(about):
            bad = dict(check_inputs(ids, inputs))
            if bad:
                raise UserError(summarize_problems(list(bad.items())))
        return set(ids).difference(bad)

    @contextmanager
    def _noting(self, about: str = "{}") -> Iterator[None]:
        """A UserError becomes one of the problems, as `about` words it."""
        try:
            yield
        except UserError as error:
            self.problems.append(about.format(error))

    def _weights(self, flag: str, path: Path | None, load: Callable[[Path], LoadReport]) -> None:
        """Load a file of weights into its network, as its script will."""
        if path is None:
            self.problems.append(f"--{flag} is missing: {SOURCES[flag]}")
            return
        with self._noting(f"--{flag}: {{}}; wanted: {SOURCES[flag]}"):
            report = load(path)
            if report.missing and flag in ("edam_weights", "poolnet_weights"):
                raise UserError(f"{report}: not trained")
            self.notes.append(f"--{flag}: {report}")

    def _disk(self, plan: Plan, photos: int) -> None:
        """Room for the checkpoints, the class maps and the label PNGs, in the nearest folder that is there."""
        networks = [plan.edam] * (not plan.edam_weights) + [plan.deeplab] * plan.segments
        checkpoints, scored = (2, 3) if plan.fewer else (CHECKPOINTS, self._scored)
        needed = sum((checkpoints + STATES) * _bytes(network) for network in networks)
        needed += scored * MAPS_BYTES + photos * LABEL_BYTES
        there = next(folder for folder in (plan.out.absolute(), *plan.out.absolute().parents) if folder.is_dir())
        free = shutil.disk_usage(there).free
        line = (
            f"{there} has {free / 1e9:.1f} GB free; checkpoints, class maps and labels take up to {needed / 1e9:.1f} GB"
        )
        (self.notes if free > needed else self.problems).append(line)


def _load(network: str, needs: str, path: Path) -> LoadReport:
    return load_weights(make_net(network, needs=(needs,)), path)


def _load_poolnet(network: str, path: Path) -> LoadReport:
    return make_poolnet(network, str(path), ())[1](str(path))


def _bytes(network: str) -> int:
    """Of a network's tensors."""
    with torch.device("meta"):
        return sum(tensor.numel() * tensor.element_size() for tensor in make_net(network).state_dict().values())
