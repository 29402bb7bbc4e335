"""Everything that only the paper's experiments need: data, models, recipes, training, tables and figures."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from alignprune.bench.data.preparation import Preparation

__all__ = ["load_model"]


def load_model(run: str | os.PathLike[str]) -> tuple[nn.Module, tuple[str, ...], Preparation]:
    """The model that a finished run of ``alignprune train`` left in its folder.

    Args:
        run: the run's folder.

    Returns:
        the network, on the CPU and in evaluation mode: float32 [B, *input_shape] to logits [B, C]; the C class names,
        in the order of the logits; and the preparation, whose ``build()`` takes a raw input to a sample.

    Raises:
        FileNotFoundError: if there is no run, or one without a model.
        RuntimeError: if the run is not finished.
        ValueError: if the files are damaged or of another version.
    """
    from alignprune.bench.run import trained

    network, record = trained.load(Path(run))
    return network, record.class_names, record.preparation
