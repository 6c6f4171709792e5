"""Convolutional backbones from timm (github.com/huggingface/pytorch-image-models), without their classifiers."""

from typing import Any

import torch
from torch import Tensor

from network.frozen_norm import FrozenNorms
from tool.cli import UserError, nearest
from tool.image_ops import Normalization


class TimmBackbone(FrozenNorms):
    """A timm network whose batch norms are not trained.

    Tensor names begin with the network's, as in "tf_efficientnet_lite2.conv_stem.weight", so a checkpoint says which one it is for.
    `input` is the normalisation of photos that its ImageNet weights expect.

    backbone: timm's name. output_stride: photo pixels per position of the features; later stages are dilated.
    UserError: timm is not installed, has no such network, or none with that stride.
    """

    def __init__(self, backbone: str = "tf_efficientnet_lite2", output_stride: int = 16) -> None:
        super().__init__()
        model = make_model(backbone, output_stride)
        self.full_name = backbone
        self.name = backbone.split(".")[0]  # without timm's suffix for a set of weights
        self.add_module(self.name, model)
        self.backbone_layers = [self.name]
        self.channels = freeze_unused(model)
        given = model.pretrained_cfg
        self.input = Normalization("RGB", tuple(given["mean"]), tuple(given["std"]), scale=255)
        if self.name.startswith("tf_efficientnet_lite"):  # TensorFlow's weights were trained on (x - 127) / 128
            self.input = Normalization("RGB", (127.0, 127.0, 127.0), (128.0, 128.0, 128.0))
        self.train()

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
        raise UserError(f"--backbone {name}: {error}. Run pip install -r requirements-timm.txt.") from None
    architecture = name.split(".")[0]
    if not timm.is_model(architecture):
        raise UserError(f"--backbone {name}: unknown to timm{nearest(architecture, timm.list_models())}. Name another.")
    options: dict[str, Any] = {"num_classes": 0, "global_pool": "", "output_stride": output_stride}
    try:
        model: Any = timm.create_model(name, pretrained=pretrained, **options)
        photo = torch.zeros(1, 3, 4 * output_stride, 4 * output_stride)
        if model.eval().forward_features(photo).shape[2:] == (4, 4):
            return model
        reason = "its features have another size"
    except (TypeError, AssertionError, NotImplementedError, ValueError) as error:  # what timm's networks raise
        reason = str(error)
    raise UserError(f"--backbone {name}: no output stride of {output_stride} ({reason}). Name another.")


@torch.enable_grad()
def freeze_unused(model: Any) -> int:
    """Return the channels of the features, and freeze parameters without gradients, for which DDP would wait for ever."""
    features = model.eval().forward_features(torch.zeros(1, 3, 64, 64))
    features.sum().backward()
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.grad is not None)
        parameter.grad = None
    return features.shape[1]
