"""Where the reference of a run comes from: clean samples, random noisy ones, a pseudo-clean set, or given indices."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from alignprune import Reference, coresets
from alignprune.bench.data import ClassificationData, Samples
from alignprune.bench.reading import array_in, naming, reading, tensor_in
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
    pruning, kind = config.pruning, config.pruning.reference
    if kind == "auto":
        kind = "clean" if pruning.score.needs_reference else "none"
    if kind == "none":
        if pruning.score.needs_reference:
            raise ValueMistake(
                f"reference='none' is given with {pruning.method}, which needs a reference, expected one: choose "
                f"clean, noisy, a coreset method or a file of indices, or a method that needs none"
            )
        return NoReference()
    source = _clean(config, data) if kind == "clean" else data.train_eval
    size = min(pruning.reference_size, len(source))  # type: ignore[arg-type]
    settings: dict[str, Any] = {
        "losses": cross_entropy_losses(config.recorded_smoothing, device),
        "num_workers": config.machine.workers,
    }
    if kind in ("clean", "noisy"):
        return Reference.subset(source, size=size, seed=config.seed, **settings)
    if kind in coresets.CORESETS:
        assert proxy is not None, "a pseudo-clean reference is made from a proxy"
        indices = coresets.select(kind, proxy, size, seed=config.seed)
        return Reference.indices(source, indices, **settings)
    with naming(f"reference={kind!r}"):
        return Reference.indices(source, _trained(_read_indices(Path(kind)), data), **settings)


def _clean(config: TrainConfig, data: ClassificationData) -> Samples:
    """Clean samples apart from the training set, or else the training samples with their true labels."""
    source = data.reference if data.reference is not None else data.clean_eval
    if source is None:
        raise ValueMistake(
            f"reference={config.pruning.reference!r} is given with {config.data.dataset}, which brings no clean "
            f"samples, expected some for {config.pruning.method}: add x_reference and y_reference to the .npz (or a "
            f"reference/ folder), or choose --reference noisy, small-loss, moderate or a file of training indices that "
            f"you trust"
        )
    return source


def _read_indices(path: Path) -> Tensor:
    """Training indices of a pseudo-clean subset, int64 [M], from a .npy, .pt or .txt file."""
    readers: dict[str, Callable[[Path], Tensor | NDArray[Any]]] = {
        ".npy": array_in,
        ".pt": tensor_in,
        ".txt": _integers,
    }
    if path.suffix not in readers:
        raise ValueMistake(
            f"reference={str(path)!r} is unknown, expected {', '.join(_KINDS)}, a coreset method "
            f"({', '.join(coresets.CORESETS)}) or a file of training indices ({', '.join(readers)}): check the name"
        )
    if not path.exists():
        raise MissingFile(f"reference={str(path)!r} is not there, expected a file of training indices: check the path")
    place = f"reference={str(path)!r}"
    expected, remedy = "training indices, integers [M]", "write them with numpy.save or torch.save, or one a line"
    with reading(place, path, expected, remedy):
        found = np.asarray(readers[path.suffix](path))
    if found.ndim != 1 or found.dtype.kind not in "iu" or not len(found) or found.max() > np.iinfo(np.int64).max:
        raise ValueMistake(f"{place} holds {found.dtype} of shape {found.shape}, expected {expected}: {remedy}")
    return torch.from_numpy(found.astype(np.int64))


def _trained(places: Tensor, data: ClassificationData) -> Tensor:
    """The training samples at some places of the data, int64 [m]: others, such as those held out, are left out."""
    if data.places is None:
        return places
    order = data.places.argsort()
    ordered = data.places[order]
    at = torch.searchsorted(ordered, places).clamp_max(len(ordered) - 1)
    there = ordered[at] == places
    if not bool(there.all()):
        warnings.warn(
            f"{int((~there).sum())} of {len(places)} indices are of no training sample, the first is "
            f"{int(places[~there][0])}, expected places of samples that are trained on: the reference goes without "
            "those that are held out or in another split",
            stacklevel=2,
        )
    return order[at[there]]


def _integers(file: Path) -> NDArray[np.int64]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of a file without a number, and of numbers that are no integers
        return np.loadtxt(file, dtype=np.int64, ndmin=1, encoding="utf-8-sig")
