"""Networks by name: images [B, C, H, W] or features [B, D] in, logits [B, classes] out.

The networks of the experiments have names of their own; any other name is a timm model. All of them give
their last features as well, because batch-level selection (DivBS) needs the input of the classifier.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import timm
from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn

# Up to this height the first convolution keeps the resolution: 7x7 stride 2 and a pool would leave 8x8 of
# 32x32.
SMALL_IMAGE = 64


class Mlp(nn.Module):
    """Three linear layers with ReLU between them, with timm's methods for features and classifier.

    Args:
        num_classes: Number of classes.
        num_inputs: Number of features D of a sample.
        width: Units of both hidden layers.
    """

    def __init__(self, num_classes: int, num_inputs: int, width: int = 256) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(num_inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.fc = nn.Linear(width, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """Features [B, D] to the last hidden layer [B, width]."""
        return self.body(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Last hidden layer [B, width] to logits [B, classes]; with pre_logits, to itself."""
        return x if pre_logits else self.fc(x)

    def get_classifier(self) -> nn.Module:
        """The last linear layer."""
        return self.fc

    def forward(self, x: Tensor) -> Tensor:
        """Features [B, D] to logits [B, classes]."""
        return self.forward_head(self.forward_features(x))


@dataclass(frozen=True)
class ModelRecord:
    """A network with a name of its own.

    Args:
        name: Its key in `MODELS`.
        description: What it is and what it is for, one line.
        inputs: "images" or "features".
        build: Makes it from (num_classes, input_shape).
    """

    name: str
    description: str
    inputs: str
    build: Callable[[int, tuple[int, ...]], nn.Module]


def create(name: str, num_classes: int, input_shape: tuple[int, ...]) -> nn.Module:
    """Make a network with fresh weights, drawn from torch's global generator.

    Args:
        name: A key of `MODELS` or the name of a timm model.
        num_classes: Number of classes, at least 2.
        input_shape: Shape of one sample: (channels, height, width) or (features,).

    Returns:
        The network, in training mode.

    Raises:
        ValueError: If the name is unknown, does not fit the input, or a number is out of its range.

    Source: AlignPrune 4.1 (ResNet-18 for CIFAR).
    """
    if num_classes < 2:
        raise ValueError(f"num_classes: {num_classes} given, expected >= 2")
    if len(input_shape) not in (1, 3) or prod(input_shape) < 1:
        raise ValueError(
            f"input_shape: {tuple(input_shape)} given, expected (channels, height, width) or (features,); "
            "use the input_shape of the data"
        )
    if name not in MODELS and not timm.is_model(name):
        raise ValueError(_unknown_model(name))
    _check_inputs(name, input_shape)
    if name in MODELS:
        return MODELS[name].build(num_classes, input_shape)
    return timm.create_model(name, num_classes=num_classes, in_chans=input_shape[0], pretrained=False)


def features_and_logits(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Forward pass that also gives the input of the classifier.

    Args:
        model: A network that `create` made, or any module with timm's forward_features, forward_head and
            get_classifier.
        x: Batch, shape [B, C, H, W] or [B, D].

    Returns:
        Features, shape [B, d], and logits, shape [B, classes].

    Raises:
        TypeError: If the model does not have these methods, or more than one classifier.
    """
    missing = [
        method for method in ("forward_features", "forward_head", "get_classifier") if not hasattr(model, method)
    ]
    if missing:
        raise TypeError(
            f"model: a {type(model).__name__} without {', '.join(missing)} given, expected a timm model or a "
            "module with the same methods"
        )
    network: Any = model
    classifier = network.get_classifier()
    if not isinstance(classifier, nn.Module):
        raise TypeError(
            f"model: a {type(model).__name__} whose get_classifier() gives a {type(classifier).__name__}, "
            "expected one classifier; choose a model without a distillation head"
        )
    features = network.forward_head(network.forward_features(x), pre_logits=True)
    return features, classifier(features)


def _resnet18(num_classes: int, input_shape: tuple[int, ...]) -> nn.Module:
    model = timm.create_model("resnet18", num_classes=num_classes, in_chans=input_shape[0], pretrained=False)
    return _small_stem(model) if input_shape[1] <= SMALL_IMAGE else model


def _resnet_small(num_classes: int, input_shape: tuple[int, ...]) -> nn.Module:
    # timm's ResNet always has four stages. Any: it declares the block as an instance, and takes the class.
    block: Any = BasicBlock
    model = ResNet(block, (1, 1, 1, 1), num_classes=num_classes, in_chans=input_shape[0], channels=(16, 32, 64, 128))
    return _small_stem(model) if input_shape[1] <= SMALL_IMAGE else model


def _small_stem(model: Any) -> nn.Module:
    """Give a ResNet the stem for small images, and the initialisation of the CIFAR scripts.

    timm starts the last normalisation of each block at zero; LARS takes an unscaled step on a zero tensor.
    The scripts that the experiments follow leave every layer at PyTorch's default.
    """
    model.conv1 = nn.Conv2d(model.in_chans, 64, kernel_size=3, stride=1, padding=1, bias=False)
    model.maxpool = nn.Identity()
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d, nn.Linear)):
            module.reset_parameters()
    return model


def _mlp(num_classes: int, input_shape: tuple[int, ...]) -> nn.Module:
    return Mlp(num_classes, input_shape[0])


MODELS: dict[str, ModelRecord] = {
    record.name: record
    for record in (
        ModelRecord(
            name="resnet18",
            description="ResNet-18, with a 3x3 stem without pool for images up to 64 pixels high (the "
            "paper's CIFAR network, 11.2 M parameters)",
            inputs="images",
            build=_resnet18,
        ),
        ModelRecord(
            name="resnet-small",
            description="ResNet of four blocks with 16, 32, 64 and 128 channels (0.3 M parameters), for CPUs",
            inputs="images",
            build=_resnet_small,
        ),
        ModelRecord(
            name="mlp",
            description="Three linear layers, 256 wide, ReLU; for features",
            inputs="features",
            build=_mlp,
        ),
    )
}


def _check_inputs(name: str, input_shape: tuple[int, ...]) -> None:
    """Refuse features for an image network and the reverse; every timm model takes images."""
    given = "features" if len(input_shape) == 1 else "images"
    wanted = MODELS[name].inputs if name in MODELS else "images"
    if given == wanted:
        return
    fitting = [record.name for record in MODELS.values() if record.inputs == given]
    raise ValueError(
        f"name: {name!r} takes {wanted}, but the samples are {given} of shape {tuple(input_shape)}; choose "
        f"one of {', '.join(fitting)}" + (" or a timm model" if given == "images" else "")
    )


def _unknown_model(name: str) -> str:
    close = difflib.get_close_matches(name, [*MODELS, *timm.list_models()], n=4, cutoff=0.4)
    hint = f"; nearest: {', '.join(close)}" if close else ""
    return f"name: {name!r} is unknown, expected one of {', '.join(MODELS)} or the name of a timm model{hint}"
