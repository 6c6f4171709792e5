"""Check of every input of an experiment before its first step: all that is missing, and where to get it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from experiment.steps import Plan
from network import make_net
from network.weights import load_weights, make_poolnet
from pseudo_label.onnx_saliency import OnnxSaliency, find_weights
from tool.cli import UserError
from voc12.classes import VOC
from voc12.dataset import Dataset, Files, check_inputs, label_maps, read_image_list, report_problems, saliency_maps
from voc12.masks import AUG
from voc12.sbd import SBD_PAGE, find_sbd_masks

SOURCES = {
    "weights": "ImageNet weights of ResNet-38, ilsvrc-cls_rna-a1_cls1000_ep-0001.params, linked by github.com/jiwoon-ahn/psa",
    "edam_weights": "a trained EDAM (.pth), such as the authors' (BaiduYun, see README.md); without it EDAM is trained here",
    "poolnet_weights": "final.pth of PoolNet, linked by github.com/backseason/PoolNet; --saliency u2netp can replace it",
    "sal_path": "grey maps <id>.png, such as the authors' (BaiduYun, see README.md); or --saliency or --poolnet_weights",
    "deeplab_weights": "deeplabv1_resnet101-coco.pth, made by convert.py of github.com/kazuto1011/deeplab-pytorch",
}


class Preflight:
    """Result of looking at all that a plan reads.

    problems: lines on what stops the experiment. notes: lines on what was found.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.problems: list[str] = []
        self.notes: list[str] = []
        ids = self._photos()
        if plan.saliency:
            self._saliency(ids)
        if plan.edam_weights:
            self._weights("edam_weights", plan.edam_weights, plan.edam, "forward_cam")
        elif plan.weights or not plan.fewer:  # a try may start from random weights
            self._weights("weights", plan.weights, plan.edam, "forward_cam")
        if plan.poolnet_weights and not plan.saliency:
            self._weights("poolnet_weights", plan.poolnet_weights, plan.poolnet)
        if plan.saliency_network:
            with self._noting():
                OnnxSaliency(find_weights(plan.saliency_network))
        if plan.segments:
            self._weights("deeplab_weights", plan.deeplab_weights, plan.deeplab, "num_labels")

    @contextmanager
    def _noting(self, flag: str = "") -> Iterator[None]:
        """Add a UserError to the problems, with the source of what the flag names."""
        try:
            yield
        except UserError as error:
            self.problems.append(f"--{flag}: {error}; wanted: {SOURCES[flag]}" if flag else str(error))

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
        try:
            data = Dataset(root)
            if data.classes != VOC:
                raise UserError(f"{root / 'classes.txt'}: names other classes than VOC's. README.md has the commands.")
        except UserError as error:
            self.problems.append(str(error))
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
        """Load a file of weights into its network, as its script will."""
        with self._noting(flag):
            if path is None:
                raise UserError("is missing")
            poolnet = flag == "poolnet_weights"
            net = make_poolnet(module, str(path), needs) if poolnet else make_net(module, needs=needs)
            report = load_weights(net, path)
            if report.missing and flag in ("edam_weights", "poolnet_weights"):
                raise UserError(f"{report}: not trained")
            self.notes.append(f"--{flag}: {report}")
