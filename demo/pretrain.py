"""Train a network's backbone as a plain classifier, in place of ImageNet weights.

    python demo/pretrain.py --voc12_root VOC2012 --image_list voc12/train_aug.txt \\
        --network network.resnet38_EDAM_tiny --out backbone.pth

EDAM starts from ImageNet weights; this makes a substitute from the photos' image-level labels, for
`train_EDAM_cls.py --weights backbone.pth`.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository's root instead of demo/

from tool.script import run_script

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from network import make_net
from network.frozen_norm import unfreeze_batch_norms
from network.weights import find_backbone, load_weights
from tool import cli, distributed
from tool.checkpoint import save_torch
from tool.cli import UserError, counted
from tool.files import make_folder
from tool.image_ops import IMAGENET
from tool.loading import batches, positions
from tool.optim import lr_factor, make_adamw, set_learning_rate
from voc12.augment import augment_photo
from voc12.data import epoch_order
from voc12.dataset import Dataset, read_image_list
from voc12.images import load_photo


@dataclass
class Photos:
    """Augmented photos with their labels, in another order each epoch. An item depends only on seed, position and batch size.

    Photos are not cropped: a label describes the whole photo. Those of one step are padded to squares of one size.
    """

    data: Dataset
    ids: list[str]  # of an epoch
    labels: dict[str, np.ndarray]  # id -> multi-hot float32 (C,)
    seed: int
    long_side: list[int]  # range of the squares' side, drawn in steps of 16 from the smallest
    batch_size: int

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor]:
        """Return an image float32 (3, S, S) and its label float32 (C,)."""
        epoch, place = divmod(position, len(self.ids))
        image_id = self.ids[epoch_order(self.seed, epoch, len(self.ids))[place]]
        least, most = self.long_side
        step_rng = np.random.default_rng([self.seed, 2, position // self.batch_size])
        side = least + 16 * int(step_rng.integers((most - least) // 16 + 1))
        rng = np.random.default_rng([self.seed, 1, position])
        image = augment_photo(load_photo(self.data.photos.find(image_id)), side, rng, (side, side), IMAGENET)
        return image, torch.from_numpy(self.labels[image_id])


class Classifier(nn.Module):
    """Backbone with trained batch norms and a linear head.

    A class's logit is the mean of the highest share `top` of its scores. Objects are small: with 0.1 it
    learns several times faster than with global average pooling.
    """

    def __init__(self, backbone: Any, top: float, classes: int) -> None:
        super().__init__()
        unfreeze_batch_norms(backbone)
        backbone.requires_grad_(True)
        self.backbone, self.top = backbone, top
        self.head = nn.Conv2d(backbone.channels, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (N, classes) of images (N, 3, H, W)."""
        scores = self.head(self.backbone.features(images).relu()).flatten(2)  # (N, classes, h * w)
        return scores.topk(max(1, round(self.top * scores.shape[2]))).values.mean(2)


def get_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(__doc__)
    add, count, positive, number = parser.add_argument, cli.count(), cli.count(1), cli.number(float, 0)
    add("--voc12_root", required=True, metavar="DIR", help="VOC2012 folder: JPEGImages, Annotations")
    add("--image_list", default="voc12/train_aug.txt", metavar="FILE", help="photos to learn from")
    add("--network", default="network.resnet38_EDAM_tiny", metavar="MODULE", help="module that holds the class Net")
    add("--weights", metavar="FILE", help="initial backbone (.pth); default: random")
    add("--out", required=True, type=Path, metavar="FILE", help="backbone to write (.pth)")
    softmax = "learn one class a photo by cross-entropy; default: several, by binary cross-entropy"
    add("--softmax", action="store_true", help=softmax)
    add("--epochs", type=positive, default=20, help="passes over the photos")
    add("--batch_size", type=positive, default=8, help="photos per step")
    long_side = "range of the photos' longer side in pixels; each step draws one of MIN, MIN + 16, ... up to MAX"
    add("--long_side", type=positive, nargs=2, default=[64, 160], metavar=("MIN", "MAX"), help=long_side)
    add("--lr", type=number, default=0.001, help="learning rate")
    add("--wt_dec", type=number, default=0.01, help="weight decay")
    add("--top", type=cli.number(float, 0, 1), default=0.1, help="share of highest scores averaged into a logit")
    add("--seed", type=count, default=0, help="seed of initial weights, order and augmentation")
    add("--num_workers", type=count, default=1, help="processes that read and augment photos")
    add("--device", help="cpu, cuda or cuda:N; default: a GPU if there is one")
    return parser


def main() -> None:
    args = get_parser().parse_args()
    if args.long_side[0] > args.long_side[1]:
        raise UserError(f"--long_side {args.long_side[0]} {args.long_side[1]}: give the smaller side first")
    data = Dataset(args.voc12_root)
    device = distributed.setup(args.device)[0]
    labels = data.image_labels(read_image_list(args.image_list), args.image_list)
    max_step = len(labels) * args.epochs // args.batch_size
    if max_step == 0:
        raise UserError(f"--batch_size {args.batch_size}: more than the {len(labels)} photos of {args.image_list}")
    make_folder(args.out.parent)

    torch.manual_seed(args.seed)
    net = make_net(args.network, ("features", "channels"))
    names = find_backbone(net)[1]
    model = Classifier(net, args.top, len(data.classes)).to(device).train()
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() <= 1]  # without decay
    optimizer = make_adamw([matrices, vectors], [(1, 1), (1, 0)], args.lr, args.wt_dec)
    if args.weights:
        print(load_weights(net, args.weights))

    dataset = Photos(data, sorted(labels), labels, args.seed, args.long_side, args.batch_size)
    source = batches(dataset, positions(0, max_step, args.batch_size), args.num_workers, False)
    loss_function = F.cross_entropy if args.softmax else F.binary_cross_entropy_with_logits
    bar = tqdm(source, total=max_step, unit="step")
    for step, (images, targets) in enumerate(bar):
        set_learning_rate(optimizer, lr_factor(step, max_step, max_step // 20))
        optimizer.zero_grad(set_to_none=True)
        loss = loss_function(model(images.to(device)), targets.to(device))
        loss.backward()
        optimizer.step()
        bar.set_postfix_str(f"loss {loss.item():.4f}", refresh=False)
    save_torch(args.out, {name: tensor.cpu() for name, tensor in net.state_dict().items() if name in names})
    print(f"{args.out}: backbone of {args.network}, trained on {counted(len(labels), 'photos')}")


if __name__ == "__main__":
    run_script(main)
