"""Networks by name: images [B, C, H, W] or features [B, D] in, logits [B, classes] out.

The networks of the experiments have names of their own; any other name is a timm model. All of them give
their last features as well, because batch-level selection (DivBS) needs the input of the classifier.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from alignprune._checks import number
from alignprune.bench.airbench import Airbench
from alignprune.bench.data.packaged import load_packaged, packaged_weights
from alignprune.bench.data.preparation import Preparation
from alignprune.bench.data.views import Samples
from alignprune.bench.efficientnet import EfficientNet
from alignprune.bench.feature_networks import Head, Mlp, NewsNet
from alignprune.bench.reading import weights_in
from alignprune.errors import MissingFile, TypeMistake, ValueMistake

# Up to this height the first convolution keeps the resolution: 7x7 stride 2 and a pool would leave 8x8 of
# 32x32.
SMALL_IMAGE = 64

PRETRAINED, PACKAGED = "pretrained", "packaged"
_NEAR = 0.05  # of two normalisations, in values of [0, 1]: CIFAR's and ImageNet's are
_WEIGHT_FILES = (".pt", ".pth", ".safetensors")
_SAMPLES_TO_SEE = 5000  # that a network may look at before it is trained, at most


@runtime_checkable
class StartsFromData(Protocol):
    """A network whose fresh weights depend on the samples."""

    def look_at(self, batches: Iterable[Tensor]) -> None:
        """Fit them to some batches [B, ...], as the network reads them."""


# (num_classes, input_shape, drop_path, pretrained) to the network.
_Build = Callable[[int, tuple[int, ...], float, bool], nn.Module]


@dataclass(frozen=True)
class ModelRecord:
    """A network with a name of its own.

    Attributes:
        name: its key in `MODELS`.
        description: what it is and what it is for, one line.
        inputs: "images" or "features".
        build: makes it from (num_classes, input_shape, drop_path, pretrained).
        published: whether timm publishes weights for it; they are those trained on ImageNet-1K alone.
        packaged: whether the extra pretrained installs weights for it, trained on the same.
    """

    name: str
    description: str
    inputs: str
    build: _Build
    published: bool = False
    packaged: bool = False


def create(
    name: str,
    num_classes: int,
    input_shape: tuple[int, ...],
    weights: str | None = None,
    drop_path: float = 0.0,
    trained_stages: int | None = None,
) -> nn.Module:
    """Make a network; fresh weights are drawn from torch's global generator.

    Args:
        name: a key of `MODELS` or the name of a timm model.
        num_classes: number of classes, at least 2.
        input_shape: shape of one sample: (channels, height, width) or (features,).
        weights: none = fresh; "pretrained" = those that timm publishes; "packaged" = those that the extra pretrained
            installs, without their classifier; or the file of a state dict (.pt, .pth, .safetensors; averaged weights
            where it has them). The classifier stays fresh where it has another number of classes there.
        drop_path: stochastic depth, in [0, 1): the share of samples that skip the last block; 0 = none.
        trained_stages: how many of the last stages are trained, with what follows them; None = the whole network.

    Returns:
        the network, in training mode, but for stages that stay as they are.

    Raises:
        ValueError: if the name is unknown, input or weights do not fit it, or a number is out of its range.
        FileNotFoundError: if there is no such file of weights.
        ImportError: if the package of weights is not installed.

    Source: AlignPrune, Table A and section 4.1, for the networks of its experiments.
    """
    if num_classes < 2:
        raise ValueMistake(
            f"num_classes={num_classes} is out of range, expected an integer >= 2: the classes of the data"
        )
    if len(input_shape) not in (1, 3) or prod(input_shape) < 1:
        raise ValueMistake(
            f"input_shape={tuple(input_shape)} is no shape of a sample, expected (channels, height, width) or "
            "(features,): use the input_shape of the data"
        )
    number("drop_path", drop_path, low=0, high=1, open_high=True, remedy="0 drops nothing")
    if name not in MODELS and not _is_timm(name):
        raise ValueMistake(_unknown_model(name))
    _check_inputs(name, input_shape)
    _check_weights(name, weights)
    build = MODELS[name].build if name in MODELS else partial(_timm, name)
    network = build(num_classes, tuple(input_shape), drop_path, weights == PRETRAINED)
    if len(input_shape) == 3:
        _try(network, name, input_shape)
    if weights == PACKAGED:
        _load_packaged(network, input_shape)
    elif weights is not None and weights != PRETRAINED:
        _load(network, name, Path(weights))
    if trained_stages is not None:
        _train_last(network, name, weights, trained_stages)
    return network


def look_at(network: nn.Module, samples: Samples) -> None:
    """Let a fresh network look at its samples, where its weights depend on them; draws no random number.

    Args:
        network: one that `create` made, on the CPU; others than `StartsFromData` stay as they are.
        samples: training samples without augmentation, of which it sees at most 5,000, evenly spread.
    """
    if not isinstance(network, StartsFromData):
        return
    total = len(samples)  # type: ignore[arg-type]
    seen = Subset(samples, range(0, total, -(-total // _SAMPLES_TO_SEE)))
    network.look_at(x for x, _ in DataLoader(seen, batch_size=250, generator=torch.Generator()))


def read_prepared(network: nn.Module, preparation: Preparation | None) -> None:
    """Tell a network whose weights know images in one way how its samples are normalised; others stay as they are.

    Args:
        network: one that `create` made.
        preparation: of its samples.
    """
    scale = None if preparation is None else preparation.normalisation
    if isinstance(network, EfficientNet) and scale is not None:
        network.read_normalised(*scale)


def normalised_otherwise(network: nn.Module, preparation: Preparation | None) -> str | None:
    """What to say where timm's weights know images normalised in another way than the samples are; else None.

    Args:
        network: one that `create` made with weights that timm publishes.
        preparation: of its samples.
    """
    published = getattr(network, "pretrained_cfg", None)
    scale = None if preparation is None else preparation.normalisation
    if not published or scale is None:
        return None
    known, given = (*published["mean"], *published["std"]), (*scale[0], *scale[1])
    if len(known) == len(given) and all(math.isclose(*pair, abs_tol=_NEAR) for pair in zip(known, given, strict=True)):
        return None
    return (
        f"the published weights know images of mean {_rounded(published['mean'])} and deviation "
        f"{_rounded(published['std'])}, the data set's have mean {_rounded(scale[0])} and deviation "
        f"{_rounded(scale[1])}: the first layers have to learn the difference"
    )


def _rounded(values: Sequence[float]) -> str:
    return " ".join(f"{value:.3g}" for value in values)


def features_and_logits(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Forward pass that also gives the input of the classifier.

    Args:
        model: a network that `create` made, or any module with timm's forward_features, forward_head and
            get_classifier.
        x: batch [B, C, H, W] or [B, D].

    Returns:
        features [B, d], and logits [B, classes].

    Raises:
        TypeError: if the model does not have these methods, or more than one classifier.
    """
    missing = [
        method for method in ("forward_features", "forward_head", "get_classifier") if not hasattr(model, method)
    ]
    if missing:
        raise TypeMistake(
            f"model is a {type(model).__name__} without {', '.join(missing)}, expected a timm model: give one, or a "
            "module with the same methods"
        )
    network: Any = model
    classifier = network.get_classifier()
    if not isinstance(classifier, nn.Module):
        raise TypeMistake(
            f"model is a {type(model).__name__} whose get_classifier() gives a {type(classifier).__name__}, expected "
            "one classifier: choose a model without a distillation head"
        )
    features = network.forward_head(network.forward_features(x), pre_logits=True)
    if isinstance(classifier, nn.Conv2d):  # timm's pre-activation ResNets: a 1x1 convolution of 1x1 images
        return features, classifier(features[:, :, None, None]).flatten(1)
    return features, classifier(features)


def _timm(name: str, num_classes: int, input_shape: tuple[int, ...], drop_path: float, pretrained: bool) -> nn.Module:
    import timm

    options: dict[str, Any] = {"num_classes": num_classes, "in_chans": input_shape[0], "pretrained": pretrained}
    published = timm.get_pretrained_cfg(name)
    if published is not None and published.fixed_input_size:
        options["img_size"] = input_shape[1:]
    try:
        # Always given, since timm's own default is not 0 everywhere.
        network = timm.create_model(name, drop_path_rate=drop_path, **options)
    except TypeError as error:
        if "drop_path_rate" not in str(error):
            raise
        if drop_path:
            raise ValueMistake(
                f"drop_path={drop_path} is given with {name!r}, which has no stochastic depth, expected 0: leave it out"
            ) from error
        network = timm.create_model(name, **options)
    if "img_size" in options:
        _check_patches(network, input_shape)
    return network


def _residual(
    name: str, num_classes: int, input_shape: tuple[int, ...], drop_path: float, pretrained: bool
) -> nn.Module:
    """A ResNet of timm, with the stem for small images where they are small."""
    small = input_shape[1] <= SMALL_IMAGE
    if small and pretrained:
        raise ValueMistake(
            f"weights='pretrained' is given, but images up to {SMALL_IMAGE} pixels high get a 3x3 stem here, which "
            "nobody publishes weights for, expected None or a file: use larger images or a file of your own"
        )
    network = _timm(name, num_classes, input_shape, drop_path, pretrained)
    return _small_stem(network, input_shape[0]) if small else network


def _resnet_small(
    stride: int, num_classes: int, input_shape: tuple[int, ...], drop_path: float, pretrained: bool
) -> nn.Module:
    """A ResNet of four narrow blocks; small images get a stem of this stride."""
    from timm.models.resnet import BasicBlock, ResNet

    # timm's ResNet always has four stages. Any: it declares the block as an instance, and takes the class.
    block: Any = BasicBlock
    network = ResNet(
        block,
        (1, 1, 1, 1),
        num_classes=num_classes,
        in_chans=input_shape[0],
        channels=(16, 32, 64, 128),
        drop_path_rate=drop_path,
    )
    return _small_stem(network, input_shape[0], stride) if input_shape[1] <= SMALL_IMAGE else network


def _small_stem(network: Any, channels: int, stride: int = 1) -> nn.Module:
    """Give a ResNet the stem for small images, and the initialisation of the CIFAR scripts.

    timm starts the last layer of each block at zero; LARS takes an unscaled step on a zero tensor. The scripts
    that the experiments follow leave every layer at PyTorch's default.
    """
    stem = nn.Conv2d(channels, 64, kernel_size=3, stride=stride, padding=1, bias=False)
    if hasattr(network, "stem"):
        network.stem = stem
    else:
        network.conv1, network.maxpool = stem, nn.Identity()
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d, nn.Linear)):
            module.reset_parameters()
    return network


def _airbench(
    widths: tuple[int, int, int], num_classes: int, input_shape: tuple[int, ...], drop_path: float, pretrained: bool
) -> nn.Module:
    if drop_path:
        raise ValueMistake(
            f"drop_path={drop_path} is given with airbench, which has no stochastic depth, expected 0: leave it out"
        )
    return Airbench(num_classes, input_shape[0], widths)


def _efficientnet(
    name: str, num_classes: int, input_shape: tuple[int, ...], drop_path: float, pretrained: bool
) -> nn.Module:
    return EfficientNet(_timm(name, num_classes, input_shape, drop_path, pretrained), input_shape[0])


def _features(
    network: Callable[[int, int], nn.Module],
    num_classes: int,
    input_shape: tuple[int, ...],
    drop_path: float,
    pretrained: bool,
) -> nn.Module:
    if drop_path:
        raise ValueMistake(
            f"drop_path={drop_path} is given with a network for features, which has no stochastic depth, expected 0: "
            f"leave it out"
        )
    return network(num_classes, input_shape[0])


MODELS: dict[str, ModelRecord] = {
    record.name: record
    for record in (
        ModelRecord(
            name="resnet18",
            description="ResNet-18, with a 3x3 stem without pool for images up to 64 pixels high (the "
            "paper's CIFAR network, 11.2 M parameters)",
            inputs="images",
            build=partial(_residual, "resnet18.tv_in1k"),
            published=True,
        ),
        ModelRecord(
            name="resnet-small",
            description="ResNet of four blocks with 16, 32, 64 and 128 channels (0.3 M parameters), for CPUs",
            inputs="images",
            build=partial(_resnet_small, 1),
        ),
        ModelRecord(
            name="resnet-tiny",
            description="resnet-small whose stem has stride 2 for images up to 64 pixels high: a quarter of the "
            "arithmetic, for CPUs",
            inputs="images",
            build=partial(_resnet_small, 2),
        ),
        ModelRecord(
            name="airbench",
            description="airbench's network for 32 pixels: a frozen whitening, then blocks of 64, 256 and 256 channels "
            "(2.0 M parameters)",
            inputs="images",
            build=partial(_airbench, (64, 256, 256)),
        ),
        ModelRecord(
            name="airbench-half",
            description="airbench at half its widths (0.5 M parameters): a quarter of the arithmetic, for CPUs",
            inputs="images",
            build=partial(_airbench, (32, 128, 128)),
        ),
        ModelRecord(
            name="preactresnet18",
            description="Pre-activation ResNet-18, stem as that of resnet18 (CIFAR with SOP and Prune4ReL; 11.2 M)",
            inputs="images",
            build=partial(_residual, "resnetv2_18.ra4_e3600_r224_in1k"),
            published=True,
        ),
        ModelRecord(
            name="resnet50",
            description="ResNet-50, stem as that of resnet18 (Clothing-1M, with torchvision's first weights; 25.6 M)",
            inputs="images",
            build=partial(_residual, "resnet50.tv_in1k"),
            published=True,
        ),
        ModelRecord(
            name="inception-resnet-v2",
            description="Inception-ResNet-v2 (WebVision; images from 75 pixels on, 55.8 M)",
            inputs="images",
            build=partial(_timm, "inception_resnet_v2.tf_in1k"),
            published=True,
        ),
        ModelRecord(
            name="convnext-t",
            description="ConvNeXt-T (ImageNet, 28.6 M)",
            inputs="images",
            build=partial(_timm, "convnext_tiny.fb_in1k"),
            published=True,
        ),
        ModelRecord(
            name="convnext-b",
            description="ConvNeXt-B (ImageNet, 88.6 M)",
            inputs="images",
            build=partial(_timm, "convnext_base.fb_in1k"),
            published=True,
        ),
        ModelRecord(
            name="deit-s",
            description="DeiT-S, patches of 16 pixels (ImageNet, 22.1 M)",
            inputs="images",
            build=partial(_timm, "deit_small_patch16_224.fb_in1k"),
            published=True,
        ),
        ModelRecord(
            name="deit-b",
            description="DeiT-B, patches of 16 pixels (ImageNet, 86.6 M)",
            inputs="images",
            build=partial(_timm, "deit_base_patch16_224.fb_in1k"),
            published=True,
        ),
        ModelRecord(
            name="swin-t",
            description="Swin-T, patches of 4 pixels, windows of 7 patches (ImageNet, 28.3 M)",
            inputs="images",
            build=partial(_timm, "swin_tiny_patch4_window7_224.ms_in1k"),
            published=True,
        ),
        ModelRecord(
            name="swin-b",
            description="Swin-B, patches of 4 pixels, windows of 7 patches (ImageNet, 87.8 M)",
            inputs="images",
            build=partial(_timm, "swin_base_patch4_window7_224.ms_in1k"),
            published=True,
        ),
        ModelRecord(
            name="efficientnet-lite0",
            description="EfficientNet-Lite0, seven stages of which the last may be trained alone (weights by the extra "
            "pretrained; 4.7 M), for CPUs",
            inputs="images",
            build=partial(_efficientnet, "tf_efficientnet_lite0.in1k"),
            published=True,
            packaged=True,
        ),
        ModelRecord(
            name="mlp",
            description="Three linear layers, 256 wide, ReLU; for features",
            inputs="features",
            build=partial(_features, Mlp),
        ),
        ModelRecord(
            name="head",
            description="One hidden layer of 512 units with batch normalisation, ReLU; for features of a pretrained "
            "network",
            inputs="features",
            build=partial(_features, Head),
        ),
        ModelRecord(
            name="newsnet",
            description="Linear layers 1200 and 300 wide, batch normalisation, softsign (NEWS, 4800 pooled features)",
            inputs="features",
            build=partial(_features, NewsNet),
        ),
        ModelRecord(
            name="newsnet-small",
            description="newsnet, 300 and 100 wide, for CPUs",
            inputs="features",
            build=partial(_features, partial(NewsNet, widths=(300, 100))),
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
    raise ValueMistake(
        f"name={name!r} is a network for {wanted}, but the samples are {given} of shape {tuple(input_shape)}, expected "
        f"one for {given}: choose one of {', '.join(fitting)}" + (" or a timm model" if given == "images" else "")
    )


def _check_weights(name: str, weights: str | None) -> None:
    """Refuse weights that nobody publishes or packs, and what is no file of weights."""
    if weights == PRETRAINED:
        if not _is_published(name):
            raise ValueMistake(
                f"weights='pretrained' is given, but timm publishes none for {name!r}, expected None or a file: use a "
                f"file of your own"
            )
    elif weights == PACKAGED:
        packed = [record.name for record in MODELS.values() if record.packaged]
        if name not in packed:
            raise ValueMistake(
                f"weights='packaged' is given with {name!r}, which no package brings weights for, expected "
                f"{', '.join(packed)}: choose this model, or use a file of your own"
            )
    elif weights is not None:
        if Path(weights).suffix not in _WEIGHT_FILES:
            raise ValueMistake(
                f"weights={weights!r} is no file of weights, expected 'pretrained', 'packaged' or a file that ends in "
                f"{', '.join(_WEIGHT_FILES)}: check the name"
            )
        if not Path(weights).is_file():
            raise MissingFile(f"weights={weights!r} is not there, expected a file: check the path")


def _check_patches(network: Any, input_shape: tuple[int, ...]) -> None:
    """Refuse images that the network would cut off silently."""
    patch_size = getattr(getattr(network, "patch_embed", None), "patch_size", None)
    if patch_size is None:
        return
    (height, width), (tall, wide) = input_shape[1:], patch_size
    if height % tall or width % wide:
        raise ValueMistake(
            f"input_shape={tuple(input_shape)} is no multiple of the patches of {tall}x{wide} pixels that this network "
            f"cuts images into, expected one: resize the images, for example to "
            f"{-(-height // tall) * tall}x{-(-width // wide) * wide}"
        )


def _try(network: nn.Module, name: str, input_shape: tuple[int, ...]) -> None:
    """Refuse images of a size that the network cannot take, by passing a blank one through it."""
    first = next(network.parameters())
    network.eval()  # draws no random number and moves no statistic
    try:
        with torch.no_grad():
            network(torch.zeros(1, *input_shape, device=first.device, dtype=first.dtype))
    except (RuntimeError, AssertionError) as error:
        height, width = input_shape[1:]
        raise ValueMistake(
            f"input_shape={tuple(input_shape)} is a size that {name!r} cannot take ({error}), expected another than "
            f"{height}x{width} pixels: resize the images, or choose another network"
        ) from error
    network.train()


def _load_packaged(network: Any, input_shape: tuple[int, ...]) -> None:
    if input_shape[0] != 3:
        raise ValueMistake(
            f"weights='packaged' is given with images of {input_shape[0]} channels, expected 3, which these weights "
            "are of: convert the images, or leave the weights out"
        )
    load_packaged(network.network, packaged_weights("start from a file of your own with --weights FILE"))


def _train_last(network: nn.Module, name: str, weights: str | None, stages: int) -> None:
    if not isinstance(network, EfficientNet):
        staged = ", ".join(record.name for record in MODELS.values() if record.packaged)
        raise ValueMistake(
            f"trained_stages={stages} is given with {name!r}, which has no stages here, expected None: train the "
            f"whole network with --recipe.trained-stages None, or choose the model {staged}"
        )
    if weights is None:
        raise ValueMistake(
            f"trained_stages={stages} is given with fresh weights, which would stay as they are drawn, expected "
            "weights: add --weights packaged, or train the whole network with --recipe.trained-stages None"
        )
    network.train_last(stages)


def _load(network: Any, name: str, path: Path) -> None:
    """Load a state dict, all but a classifier of another number of classes."""
    there, here = weights_in(f"weights={str(path)!r}", path, repr(name)), network.state_dict()
    classifier = next(prefix for prefix, module in network.named_modules() if module is network.get_classifier())
    head = [key for key in here if key.startswith(f"{classifier}.")]
    if all(key in there and len(there[key]) != len(here[key]) for key in head):
        there = there | {key: here[key] for key in head}
    problems = {
        "missing": [key for key in here if key not in there],
        "unknown": [key for key in there if key not in here],
        "of another shape": [
            f"{key} {tuple(there[key].shape)} instead of {tuple(here[key].shape)}"
            for key in here
            if key in there and there[key].shape != here[key].shape
        ],
    }
    if any(problems.values()):
        found = "; ".join(f"{len(keys)} {kind}: {_first(keys)}" for kind, keys in problems.items() if keys)
        raise ValueMistake(
            f"weights={str(path)!r} is no state dict of {name!r} ({found}), expected one: use a file of the same "
            "network, with its input channels and image size"
        )
    network.load_state_dict(there)


def _first(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")


def _is_published(name: str) -> bool:
    """Whether timm publishes weights for a model."""
    if name in MODELS:
        return MODELS[name].published
    from timm.models import is_model_pretrained

    return bool(is_model_pretrained(name))


def _is_timm(name: str) -> bool:
    """Whether timm knows the model, and the tag of its weights (resnet50.tv_in1k) where the name has one."""
    import timm

    return timm.is_model(name) and ("." not in name or _is_published(name))


def _unknown_model(name: str) -> str:
    import timm

    known = dict.fromkeys([*MODELS, *timm.list_models()])  # some are both
    close = difflib.get_close_matches(name, list(known), n=4, cutoff=0.4)
    hint = f"; nearest: {', '.join(close)}" if close else ""
    return f"name={name!r} is unknown, expected one of {', '.join(MODELS)} or the name of a timm model{hint}"
