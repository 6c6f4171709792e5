"""The chain of commands from photos with image-level labels to the scores of the published table."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experiment.runner import Step

EDAM, DEEPLAB = "EDAM", "DeepLabV2"  # sessions
PAIRS, PHOTOS = 4, 5  # that the published trainings compute at once: EDAM's batch, DeepLab-v2's of 10 in two parts
# EDAM's fusion of CRF and saliency, as published, with a theta of 0.2
FUSION = ("--alpha", "0.000001", "--beta", "0.99999")


Words = tuple[object, ...]  # of a command


@dataclass(frozen=True)
class Row:
    """A row of the table. name: of the score file and the label folder. split: the photos that it is scored on."""

    name: str
    title: str
    split: str
    published: str = ""


ROWS = (
    Row("background", "*baseline: everything is background*", "train"),
    Row("guess", "*baseline: image labels and saliency, no EDAM*", "train"),
    Row("masks", "EDAM", "train", "52.83"),
    Row("crf", "EDAM, CRF", "train", "58.61"),
    Row("crf_saliency", "EDAM, CRF, saliency", "train", "68.11"),
    Row("deeplab", "DeepLab-v2", "val", "69.66"),
    Row("deeplab_crf", "DeepLab-v2, CRF", "val", "70.96"),
)


@dataclass(frozen=True)
class Plan:
    """What one experiment is made of. Tuples hold the words of flags.

    root: the devkit. lists: folder of voc12/prepare.py's, which takes SBD from `sbd_root` or to `download`. labelled: the list of
    photos whose pseudo labels are scored. to_label: the list that gets pseudo labels for DeepLab-v2, among them those of
    `labelled`. val: the list that DeepLab-v2 is scored on. edam, poolnet, deeplab: modules, with initial weights (`weights`,
    `deeplab_weights`; None: random) and the flags of their training. edam_weights: an EDAM that is trained already. saliency: maps
    that are there already; `poolnet_weights` makes them otherwise; with neither, the rows with saliency are left out. theta:
    saliency up to 100 times it is background; fusion: the other flags of it. segments: whether there is DeepLab-v2. fewer: makes
    shorter lists. processes: of torchrun, such as one for each GPU; a training takes no more of them than it computes pairs or
    photos at once.
    """

    out: Path
    root: Path
    lists: Path
    labelled: Path
    to_label: Path
    val: Path
    sbd_root: Path | None = None
    download: Path | None = None
    prepare: Words = ()
    fewer: tuple[Step, ...] = ()
    edam: str = "network.resnet38_EDAM_cls"
    weights: Path | None = None
    training: Words = ()
    edam_weights: Path | None = None
    saliency: Path | None = None
    poolnet: str = "network.poolnet"
    poolnet_weights: Path | None = None
    theta: float = 0.2
    fusion: Words = FUSION
    segments: bool = True
    deeplab: str = "network.deeplab_v2"
    deeplab_weights: Path | None = None
    segmentation: Words = ()
    processes: int = 1
    precision: tuple[str, ...] = ()
    seed: int = 0

    @property
    def sal_path(self) -> Path | None:
        """Folder of the saliency maps that are fused; None where there are none."""
        return self.saliency or (self.out / "saliency" if self.poolnet_weights else None)

    @property
    def label_dir(self) -> Path:
        """The pseudo labels that DeepLab-v2 is trained on."""
        return self.out / ("crf_saliency" if self.sal_path else "crf")

    @property
    def rows(self) -> list[Row]:
        """The rows of the table that this plan gives."""
        left_out = set() if self.sal_path else {"background", "guess", "crf_saliency"}
        if not self.segments:
            left_out |= {"deeplab", "deeplab_crf"}
        return [row for row in ROWS if row.name not in left_out]


def command(*words: object) -> str:
    """A command as typed in a shell."""
    return shlex.join(map(str, words))


def make_steps(plan: Plan, initial: Sequence[Step] = ()) -> list[Step]:
    """All steps of the plan, in order. `initial`: more steps, after the lists are made."""
    prepared = [*preparation(plan), *initial]
    return [*prepared, *saliency(plan), *training(plan), *labelling(plan), *segmentation(plan), *scores(plan)]


def preparation(plan: Plan) -> list[Step]:
    """Lists, image-level labels, training pairs, and the lists of fewer photos where the plan has them."""
    words: Words = ("python", "voc12/prepare.py", "--voc12_root", plan.root, "--out_dir", plan.lists)
    words = (*words, *_given("--sbd_root", plan.sbd_root), *_given("--download", plan.download), *plan.prepare)
    title = "Lists, image-level labels, training pairs"
    return [Step("lists", title, command(*words, "--seed", plan.seed)), *plan.fewer]


def saliency(plan: Plan) -> list[Step]:
    """Saliency maps, unless they are there."""
    if plan.saliency or not plan.poolnet_weights:
        return []
    words: Words = ("--voc12_root", plan.root, "--infer_list", plan.to_label, "--network", plan.poolnet)
    words = (*words, "--weights", plan.poolnet_weights, "--out_sal", plan.out / "saliency", *plan.precision)
    return [Step("saliency", "Saliency maps by PoolNet", command(*launch(plan), "infer_sal.py", *words))]


def training(plan: Plan) -> list[Step]:
    """EDAM, from image-level labels."""
    if plan.edam_weights:
        return []
    words: Words = ("--voc12_root", plan.root, "--network", plan.edam)
    words = (*words, *_given("--weights", plan.weights), *plan.training)
    words = (*words, "--seed", plan.seed, *plan.precision, *session(plan, EDAM))
    return [
        Step("training", "EDAM, from image-level labels", command(*launch(plan, PAIRS), "train_EDAM_cls.py", *words))
    ]


def labelling(plan: Plan) -> list[Step]:
    """Class maps, and the pseudo labels made of them."""
    infer: Words = (*launch(plan), "infer_cls.py", "--voc12_root", plan.root, "--network", plan.edam)
    infer = (*infer, "--weights", plan.edam_weights or _trained(plan, EDAM), *plan.precision)
    labels: Words = ("--out_crf_pred", plan.label_dir)
    plain: Words = ()
    if plan.sal_path:
        labels = (*labels, "--sal_path", plan.sal_path, "--theta", plan.theta, *plan.fusion)
        plain = ("--out_plain_pred", plan.out / "crf")
    few: Words = ("--infer_list", plan.labelled, "--out_cam", plan.out / "cam", *plain)
    steps = [Step("maps", "Class maps and labels of the photos that are scored", command(*infer, *few, *labels))]
    if (plan.segments or plan.sal_path) and plan.to_label != plan.labelled:
        title = "Labels of the other photos, to train DeepLab-v2 on"
        steps.append(Step("labels", title, command(*infer, "--infer_list", plan.to_label, *labels)))
    if plan.sal_path:
        words: Words = ("--voc12_root", plan.root, "--infer_list", plan.labelled)
        words = (*words, "--sal_path", plan.sal_path, "--theta", plan.theta)
        words = (*words, "--out_guess", plan.out / "guess", "--out_background", plan.out / "background")
        title = "Two baselines that need no network"
        steps.append(Step("baselines", title, command("python", "experiment/baselines.py", *words)))
    return steps


def segmentation(plan: Plan) -> list[Step]:
    """DeepLab-v2, trained on the pseudo labels."""
    if not plan.segments:
        return []
    train: Words = ("--voc12_root", plan.root, "--label_dir", plan.label_dir, "--train_list", plan.to_label)
    train = (*train, "--network", plan.deeplab, *_given("--weights", plan.deeplab_weights), *plan.segmentation)
    train = (*train, "--seed", plan.seed, *plan.precision, *session(plan, DEEPLAB))
    infer: Words = ("--voc12_root", plan.root, "--infer_list", plan.val, "--network", plan.deeplab, *plan.precision)
    infer = (*infer, "--weights", _trained(plan, DEEPLAB))
    infer = (*infer, "--out_pred", plan.out / "deeplab", "--out_crf_pred", plan.out / "deeplab_crf")
    title = "DeepLab-v2, trained on the pseudo labels"
    # Batch norms that learn want the whole batch in one process.
    most = 1 if "--no-freeze_bn" in plan.segmentation else PHOTOS
    return [
        Step("segmentation", title, command(*launch(plan, most), "train_deeplab.py", *train)),
        Step("val", "DeepLab-v2 on val, without and with CRF", command(*launch(plan), "infer_deeplab.py", *infer)),
    ]


def scores(plan: Plan) -> list[Step]:
    """A score file for each row, and one of the saliency maps. The masks are scored at the background score that is best for them."""
    steps = []
    if plan.sal_path:
        words: Words = ("--voc12_root", plan.root, "--list", plan.labelled, "--predict_dir", plan.sal_path)
        evaluate = ("python", "eval.py", "--saliency", *words, "--json", score_path(plan.out, "saliency"))
        steps.append(Step("score_saliency", "Score: saliency maps", command(*evaluate)))
    for row in plan.rows:
        folder, kind = (
            (plan.out / "cam", ("--type", "npy", "--curve")) if row.name == "masks" else (plan.out / row.name, ())
        )
        words = ("--voc12_root", plan.root, "--list", plan.labelled if row.split == "train" else plan.val)
        words = (*words, "--predict_dir", folder, *kind, "--json", score_path(plan.out, row.name))
        title = f"Score: {row.title.strip('*')}"
        steps.append(Step(f"score_{row.name}", title, command("python", "eval.py", *words)))
    return steps


def score_path(out: Path, row: str) -> Path:
    """Where the score of a row is kept."""
    return out / "scores" / f"{row}.json"


def _given(flag: str, path: Path | None) -> Words:
    return (flag, path) if path else ()


def _trained(plan: Plan, session: str) -> Path:
    return plan.out / "checkpoints" / session / f"{session}.pth"


def launch(plan: Plan, most: int | None = None) -> Words:
    """How a script that uses GPUs is started, in `most` processes."""
    processes = min(plan.processes, most or plan.processes)
    return ("torchrun", "--standalone", "--nproc_per_node", processes) if processes > 1 else ("python",)


def session(plan: Plan, name: str) -> Words:
    """The flags of a training that keeps everything in the folder of the experiment."""
    folders = ("--checkpoint_dir", plan.out / "checkpoints", "--log_dir", plan.out / "runs")
    return ("--session_name", name, *folders, "--resume")
