"""Commands of an experiment, from photos with image-level labels to the scores of the published table."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiment.runner import Step

EDAM, DEEPLAB = "EDAM", "DeepLabV2"  # sessions
PAIRS, PHOTOS = 4, 5  # micro-batches as published: EDAM's 4 pairs, half of DeepLab-v2's 10 photos
FUSION = ("--alpha", "0.000001", "--beta", "0.99999")  # of CRF and saliency, as published, with a theta of 0.2

Words = tuple[object, ...]  # of a command; tuples within it are flattened


@dataclass(frozen=True)
class Row:
    """A row of the table."""

    name: str  # of the score file and the label folder
    title: str
    split: str  # train or val
    published: str = ""  # the paper's figure; baselines have none
    needs: str = ""  # input of the plan without which the row is left out


ROWS = (
    Row("background", "baseline: everything is background", "train", needs="sal_path"),
    Row("guess", "baseline: image labels and saliency, no EDAM", "train", needs="sal_path"),
    Row("masks", "EDAM", "train", "52.83"),
    Row("crf", "EDAM, CRF", "train", "58.61"),
    Row("crf_saliency", "EDAM, CRF, saliency", "train", "68.11", needs="sal_path"),
    Row("deeplab", "DeepLab-v2", "val", "69.66", needs="deeplab_weights"),
    Row("deeplab_crf", "DeepLab-v2, CRF", "val", "70.96", needs="deeplab_weights"),
)


@dataclass(frozen=True)
class Plan:
    """Inputs, networks and flags of one experiment."""

    out: Path
    root: Path  # devkit
    lists: Path  # folder of the lists that voc12/prepare.py writes
    labelled: Path  # list of the photos whose pseudo labels are scored
    to_label: Path  # list of the photos that DeepLab-v2 is trained on, `labelled` among them
    val: Path  # list of the photos that DeepLab-v2 is scored on
    sbd_root: Path | None = None
    download: Path | None = None  # folder to download SBD to
    prepare: Words = ()  # more flags of voc12/prepare.py
    fewer: tuple[Step, ...] = ()  # make shorter lists
    edam: str = "network.resnet38_EDAM_cls"
    weights: Path | None = None  # initial ones; None: random
    training: Words = ()  # flags of EDAM's training
    edam_weights: Path | None = None  # of an EDAM that is trained already
    saliency: Path | None = None  # folder of maps that exist already
    poolnet: str = "network.poolnet"
    poolnet_weights: Path | None = None
    saliency_network: str | None = None  # u2netp or u2net; without any of these three, no rows with saliency
    theta: float = 0.2  # saliency up to 100 * theta is background
    fusion: Words = FUSION  # other flags of the fusion
    deeplab: str = "network.deeplab_v2"
    deeplab_weights: Path | None = None  # without them, no rows of DeepLab-v2
    segmentation: Words = ()  # flags of DeepLab-v2's training
    segment: Words = ()  # flags of its inference
    processes: int = 1  # of torchrun, at most one for each pair or photo of a micro-batch
    precision: tuple[str, ...] = ()
    seed: int = 0

    @property
    def sal_path(self) -> Path | None:
        """Folder of the saliency maps that are fused, or None."""
        return self.saliency or (self.out / "saliency" if self.poolnet_weights or self.saliency_network else None)

    @property
    def label_dir(self) -> Path:
        """Folder of the pseudo labels that DeepLab-v2 is trained on."""
        return self.out / ("crf_saliency" if self.sal_path else "crf")

    @property
    def rows(self) -> list[Row]:
        """Rows of the table that this plan fills."""
        return [row for row in ROWS if not row.needs or getattr(self, row.needs)]


def command(*words: object) -> str:
    """Return a command as typed in a shell. Tuples of words may be nested."""
    parts = (command(*word) if isinstance(word, tuple) else shlex.quote(str(word)) for word in words)
    return " ".join(filter(None, parts))


def flags(**values: object) -> Words:
    """Return the words `--name value` of all values that are not None."""
    return tuple(word for name, value in values.items() if value is not None for word in (f"--{name}", value))


def launch(plan: Plan, most: int | None = None) -> Words:
    """Return the words that start a script that uses GPUs, in at most `most` processes."""
    processes = min(plan.processes, most or plan.processes)
    return ("torchrun", "--standalone", "--nproc_per_node", processes) if processes > 1 else ("python",)


def session(plan: Plan, name: str) -> Words:
    """Return the flags of a training that keeps all its files in the folder of the experiment."""
    folders = flags(checkpoint_dir=plan.out / "checkpoints", log_dir=plan.out / "runs")
    return ("--session_name", name, *folders, "--resume")


def make_steps(plan: Plan, initial: Sequence[Step] = ()) -> list[Step]:
    """Return all steps of the plan, in order. `initial`: further steps, run once the lists are made."""
    words = flags(voc12_root=plan.root, out_dir=plan.lists, sbd_root=plan.sbd_root, download=plan.download)
    prepare = command("python", "voc12/prepare.py", words, plan.prepare, flags(seed=plan.seed))
    steps = [Step("lists", "Lists, image-level labels, training pairs", prepare), *plan.fewer, *initial]
    if plan.sal_path and not plan.saliency:
        poolnet = flags(network=plan.poolnet, weights=plan.poolnet_weights)
        network = flags(weights=plan.saliency_network) or poolnet
        words = (flags(voc12_root=plan.root, infer_list=plan.to_label), network, flags(out_sal=plan.sal_path))
        infer = command(launch(plan), "infer_sal.py", words, plan.precision)
        steps.append(Step("saliency", f"Saliency maps by {plan.saliency_network or 'PoolNet'}", infer))
    if not plan.edam_weights:
        words = (flags(voc12_root=plan.root, network=plan.edam, weights=plan.weights), plan.training)
        words = (*words, flags(seed=plan.seed), plan.precision, session(plan, EDAM))
        train = command(launch(plan, PAIRS), "train_EDAM_cls.py", words)
        steps.append(Step("training", "EDAM, from image-level labels", train))
    steps += labelling(plan)
    if plan.deeplab_weights:
        steps += segmentation(plan)
    return [*steps, *scores(plan)]


def step_names() -> list[str]:
    """Return the names of all steps that the published chain may have, in order."""
    here = Path()
    plan = Plan(here, here, here, here, Path("more"), here, poolnet_weights=here, deeplab_weights=here)
    return [step.name for step in make_steps(plan)]


def labelling(plan: Plan) -> Iterator[Step]:
    """Make class maps, pseudo labels of them, and the baselines."""
    weights = plan.edam_weights or plan.out / "checkpoints" / EDAM / f"{EDAM}.pth"
    network = flags(voc12_root=plan.root, network=plan.edam, weights=weights)
    infer = (launch(plan), "infer_cls.py", network, plan.precision)
    labels = flags(out_crf_pred=plan.label_dir)
    if plan.sal_path:
        labels = (*labels, flags(sal_path=plan.sal_path, theta=plan.theta), plan.fusion)
    plain = plan.out / "crf" if plan.sal_path else None
    few = flags(infer_list=plan.labelled, out_cam=plan.out / "cam", out_plain_pred=plain)
    yield Step("maps", "Class maps and labels of the photos that are scored", command(infer, few, labels))
    if (plan.deeplab_weights or plan.sal_path) and plan.to_label != plan.labelled:
        others = command(infer, flags(infer_list=plan.to_label), labels)
        yield Step("labels", "Labels of the other photos, to train DeepLab-v2 on", others)
    if plan.sal_path:
        words = flags(voc12_root=plan.root, infer_list=plan.labelled, sal_path=plan.sal_path, theta=plan.theta)
        outputs = flags(out_guess=plan.out / "guess", out_background=plan.out / "background")
        baselines = command("python", "experiment/baselines.py", words, outputs)
        yield Step("baselines", "Two baselines that need no network", baselines)


def segmentation(plan: Plan) -> Iterator[Step]:
    """Train DeepLab-v2 on the pseudo labels, and segment the photos of val."""
    most = 1 if "--no-freeze_bn" in plan.segmentation else PHOTOS  # batch norms that learn need the whole batch
    data = flags(voc12_root=plan.root, label_dir=plan.label_dir, train_list=plan.to_label, network=plan.deeplab)
    recipe = (flags(weights=plan.deeplab_weights), plan.segmentation, flags(seed=plan.seed), plan.precision)
    train = command(launch(plan, most), "train_deeplab.py", data, recipe, session(plan, DEEPLAB))
    yield Step("segmentation", "DeepLab-v2, trained on the pseudo labels", train)
    data = flags(voc12_root=plan.root, infer_list=plan.val, network=plan.deeplab)
    outputs = flags(out_pred=plan.out / "deeplab", out_crf_pred=plan.out / "deeplab_crf")
    weights = flags(weights=plan.out / "checkpoints" / DEEPLAB / f"{DEEPLAB}.pth")
    infer = command(launch(plan), "infer_deeplab.py", data, plan.precision, weights, outputs, plan.segment)
    yield Step("val", "DeepLab-v2 on val, without and with CRF", infer)


def scores(plan: Plan) -> Iterator[Step]:
    """Score the saliency maps and each row; the masks at the background score that is best for them."""
    if plan.sal_path:
        words = flags(voc12_root=plan.root, list=plan.labelled, predict_dir=plan.sal_path)
        evaluate = command("python", "eval.py", "--saliency", words, flags(json=plan.out / "scores" / "saliency.json"))
        yield Step("score_saliency", "Score: saliency maps", evaluate)
    for row in plan.rows:
        folder = flags(predict_dir=plan.out / row.name)
        if row.name == "masks":
            folder = (*flags(predict_dir=plan.out / "cam", type="npy"), "--curve")
        words = (flags(voc12_root=plan.root, list=plan.labelled if row.split == "train" else plan.val), folder)
        evaluate = command("python", "eval.py", words, flags(json=plan.out / "scores" / f"{row.name}.json"))
        yield Step(f"score_{row.name}", f"Score: {row.title}", evaluate)
