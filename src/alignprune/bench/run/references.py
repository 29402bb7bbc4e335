"""Where the reference of a run comes from: clean samples, random noisy ones, a pseudo-clean set, or given indices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from alignprune import Reference, coresets
from alignprune.bench.data import ClassificationData
from alignprune.bench.run.config import TrainConfig
from alignprune.coresets import Proxy
from alignprune.errors import MissingFile, ValueMistake
from alignprune.reference import cross_entropy_losses


class NoReference:
    """Stands for the reference of a run that needs none."""

    def __len__(self) -> int:
        return 0

    def loss(self, model: nn.Module) -> None:
        """No loss."""


_KINDS = ("auto", "clean", "noisy", "none")


def make(
    config: TrainConfig, data: ClassificationData, device: torch.device, proxy: Proxy | None = None
) -> Reference | NoReference:
    """The reference that the configuration asks for, evaluated with the training criterion.

    Args:
        config: the run.
        data: its data, all of it.
        device: of the network.
        proxy: the proxy run's statistics, for a pseudo-clean reference.

    Raises:
        ValueError, FileNotFoundError: if there is no such reference.

    Source: AlignPrune 3.2, and 4.4.2 for the pseudo-clean ones and the control.
    """
    kind = config.reference
    if kind == "auto":
        kind = "clean" if config.score.needs_reference else "none"
    if kind == "none":
        if config.score.needs_reference:
            raise ValueMistake(
                f"reference='none' is given, but {config.method} needs a reference: choose clean, noisy, a coreset "
                f"method or a file of indices, or a method that needs none"
            )
        return NoReference()
    settings: dict[str, Any] = {
        "losses": cross_entropy_losses(config.recorded_smoothing, device),
        "num_workers": config.workers,
    }
    if kind == "clean":
        source = data.reference if data.reference is not None else data.clean_eval
        if source is None:
            raise ValueMistake(
                f"{config.method} needs a clean reference, and {config.dataset} brings none: add x_reference and "
                f"y_reference to the .npz (or a reference/ folder), or choose --reference noisy, small-loss, moderate "
                f"or a file of training indices that you trust"
            )
    else:
        source = data.train_eval
    size = min(config.reference_size, len(source))  # type: ignore[arg-type]
    if kind in ("clean", "noisy"):
        return Reference.subset(source, size=size, seed=config.seed, **settings)
    if kind in coresets.CORESETS:
        assert proxy is not None, "a pseudo-clean reference is made from a proxy"
        indices = coresets.select(kind, proxy, size, seed=config.seed)
    else:
        indices = _read_indices(Path(kind))
    return Reference.indices(source, indices, **settings)


def _read_indices(path: Path) -> Tensor:
    """Training indices of a pseudo-clean subset, int64 [M], from a .npy, .pt or .txt file."""
    readers: dict[str, Callable[[Path], Any]] = {
        ".npy": np.load,
        ".pt": lambda file: torch.load(file, weights_only=True),
        ".txt": lambda file: np.loadtxt(file, dtype=np.int64, ndmin=1),
    }
    if path.suffix not in readers:
        raise ValueMistake(
            f"reference={str(path)!r} is unknown, expected {', '.join(_KINDS)}, a coreset method "
            f"({', '.join(coresets.CORESETS)}) or a file of training indices ({', '.join(readers)})"
        )
    if not path.exists():
        raise MissingFile(f"reference={str(path)!r}: there is no such file of training indices")
    indices: Tensor = torch.as_tensor(readers[path.suffix](path))
    return indices
