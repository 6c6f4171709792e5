"""Initial weights where there are no ImageNet weights: train a network's backbone as a plain multi-label classifier.

    python demo/pretrain.py --voc12_root VOC2012 --image_list voc12/train_aug.txt \\
        --network network.resnet38_EDAM_tiny --out backbone.pth

EDAM starts from ImageNet classification weights; this makes their stand-in from the image-level labels of the photos
themselves. `train_EDAM_cls.py --weights backbone.pth` reads it. Interrupted, the same command goes on.
"""

import argparse
import math
import sys
import zlib
from pathlib import Path

if __name__ == "__main__":
    # Run as `python demo/pretrain.py`, Python looks for modules in demo/; ours are found from the repository's root.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm import tqdm

from network import make_net
from network.frozen_norm import unfreeze_batch_norms
from network.resnet38d import ResNet38d
from tool import cli, distributed
from tool.checkpoint import TrainingState, save_torch
from tool.cli import UserError, counted, run_script
from tool.files import make_folder
from tool.loading import StepBatches, batches, make_loader
from tool.optim import lr_factor
from tool.weight_file import read_torch_file
from voc12.augment import augment_photo
from voc12.images import load_photo
from voc12.labels import load_labels
from voc12.lists import ROOT, check_root, photo_path, read_classes, read_image_list

SAVE_EVERY = 200  # steps
MUST_MATCH = ("network", "epochs", "batch_size", "long_side", "lr", "wt_dec", "top", "seed")


class Photos(Dataset):
    """Augmented photos with their labels, each epoch in an order of its own; all of it follows from seed, position and batch size.

    Photos are not cropped: a label says what the whole photo shows. Those of one step are padded to squares of one size.

    Args:
        labels: id -> float32 (C,) multi-hot, C classes.
        long_side: range of the squares' side, drawn in steps of 16 from the smallest.
        batch_size: positions s * batch_size onwards are step s.
    """

    def __init__(
        self,
        labels: dict[str, np.ndarray],
        voc12_root: str | Path,
        seed: int,
        long_side: tuple[int, int],
        batch_size: int,
    ) -> None:
        self.labels, self.voc12_root = labels, voc12_root
        self.seed, self.long_side, self.batch_size = seed, long_side, batch_size
        self.ids = sorted(labels)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor]:
        """Image float32 (3, S, S), S being the step's long side, and label float32 (C,)."""
        epoch, place = divmod(position, len(self.ids))
        image_id = self.ids[np.random.default_rng([self.seed, epoch]).permutation(len(self.ids))[place]]
        least, most = self.long_side
        of_step = np.random.default_rng([self.seed, 2, position // self.batch_size])
        side = least + 16 * int(of_step.integers((most - least) // 16 + 1))
        rng = np.random.default_rng([self.seed, 1, position])
        image = augment_photo(load_photo(photo_path(self.voc12_root, image_id)), side, rng, (side, side))
        return image, torch.from_numpy(self.labels[image_id])


class Classifier(nn.Module):
    """A backbone with batch norms in training, and a linear head. A class scores by its strongest positions.

    Args:
        backbone: with `features` and `channels`, as ResNet38d.
        top: share of the positions whose mean is the logit; 1 is global average pooling. Objects are small: a tenth
            of the positions learns from scratch several times faster than all of them.
    """

    def __init__(self, backbone: ResNet38d, top: float, classes: int) -> None:
        super().__init__()
        unfreeze_batch_norms(backbone)
        backbone.requires_grad_(True)
        self.backbone, self.top = backbone, top
        self.head = nn.Conv2d(backbone.channels, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> logits (N, classes)."""
        scores = self.head(self.backbone.features(images).relu()).flatten(2)  # (N, classes, h * w)
        return scores.topk(max(1, round(self.top * scores.shape[2]))).values.mean(2)


def backbone_state(net: ResNet38d) -> dict[str, Tensor]:
    """The tensors of a ResNet38d within `net`, on the CPU: what `network.weights.load_weights` takes for a backbone."""
    parts = {"conv1a", *net.block_names, "bn7"}
    return {name: tensor.cpu() for name, tensor in net.state_dict().items() if name.split(".")[0] in parts}


def make_optimizer(model: nn.Module, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW, without decay on biases and batch norms."""
    matrices = [p for p in model.parameters() if p.requires_grad and p.dim() > 1]
    vectors = [p for p in model.parameters() if p.requires_grad and p.dim() <= 1]
    return torch.optim.AdamW(
        [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}], lr
    )


def get_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(__doc__)
    add, count, positive, number = parser.add_argument, cli.count(), cli.count(1), cli.number(float, 0)
    add("--voc12_root", required=True, metavar="DIR", help=f"{ROOT}, Annotations")
    add("--image_list", default="voc12/train_aug.txt", metavar="FILE", help="photos to learn from")
    network = "network.resnet38_EDAM_tiny"
    add("--network", type=cli.module_name, default=network, metavar="MODULE", help="module that holds the class Net")
    add("--out", required=True, type=Path, metavar="FILE", help="backbone to write (.pth)")
    add("--epochs", type=positive, default=20, help="times through the photos")
    add("--batch_size", type=positive, default=8, help="photos per step")
    long_side = "range of the photos' longer side in pixels; each step draws one of MIN, MIN + 16, ... up to MAX"
    add("--long_side", type=positive, nargs=2, default=[64, 160], metavar=("MIN", "MAX"), help=long_side)
    add("--lr", type=number, default=0.001, help="learning rate")
    add("--wt_dec", type=number, default=0.01, help="weight decay")
    add("--top", type=cli.number(float, 0, 1), default=0.1, help="share of the positions that a logit is the mean of")
    add("--seed", type=count, default=0, help="of initial weights, order and augmentation")
    add("--num_workers", type=count, default=1, help="processes that read and augment photos; 0: none")
    add("--device", help="cpu, cuda or cuda:N; otherwise a GPU where there is one")
    return parser


def main() -> None:
    args = get_parser().parse_args()
    if args.long_side[0] > args.long_side[1]:
        raise UserError(f"--long_side {args.long_side[0]} {args.long_side[1]}: the smaller one comes first")
    check_root(args.voc12_root)
    device, _, _ = distributed.setup(args.device)
    labels = load_labels(read_image_list(args.image_list), args.voc12_root, listed_in=args.image_list)
    max_step = len(labels) * args.epochs // args.batch_size
    if max_step == 0:
        raise UserError(f"--batch_size {args.batch_size} is more than the {len(labels)} photos of {args.image_list}")
    make_folder(args.out.parent)

    torch.manual_seed(args.seed)
    net = make_net(args.network)
    if not hasattr(net, "block_names"):
        raise UserError(f"--network {args.network}: it has no ResNet38d backbone")
    model = Classifier(net, args.top, len(read_classes(args.voc12_root))).to(device).train()
    optimizer = make_optimizer(model, args.lr, args.wt_dec)
    settings = {name: getattr(args, name) for name in MUST_MATCH}
    settings["photos_crc32"] = zlib.crc32(repr(sorted(labels)).encode())
    state = TrainingState(model, optimizer, torch.amp.GradScaler(device.type, enabled=False), settings)
    state_path = args.out.with_name(f"{args.out.name}.state")
    start = state.restore(read_torch_file(state_path), state_path, max_step) if state_path.is_file() else 0

    dataset = Photos(labels, args.voc12_root, args.seed, tuple(args.long_side), args.batch_size)
    source = batches(make_loader(dataset, StepBatches(start, max_step, args.batch_size), args.num_workers, False))
    loss_of_late = math.nan
    with tqdm(total=max_step, initial=start, unit="step", dynamic_ncols=True) as bar:
        for step, (images, targets) in enumerate(source, start):
            for group in optimizer.param_groups:
                group["lr"] = args.lr * lr_factor(step, max_step, max_step // 20)
            optimizer.zero_grad(set_to_none=True)
            loss = F.binary_cross_entropy_with_logits(model(images.to(device)), targets.to(device))
            loss.backward()
            if not math.isfinite(loss.item()):
                raise UserError(f"the loss is {loss.item()} at step {step}: lower --lr")
            optimizer.step()
            loss_of_late = loss.item() if step == start else 0.98 * loss_of_late + 0.02 * loss.item()
            bar.set_postfix_str(f"loss {loss_of_late:.4f}", refresh=False)
            bar.update()
            if (step + 1) % SAVE_EVERY == 0 and step + 1 < max_step:
                state.save(state_path, step + 1)
    save_torch(args.out, backbone_state(net))
    state_path.unlink(missing_ok=True)
    print(
        f"{args.out}: backbone of {args.network}, trained on {counted(len(labels), 'photos')}, loss {loss_of_late:.4f}"
    )


if __name__ == "__main__":
    run_script(main, "interrupted; the same command goes on")
