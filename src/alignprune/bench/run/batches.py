"""Batches of a run: samples in one view or two, their labels, and the index that travels with them.

What chance does to a batch, such as crops and flips, is drawn by a key of (seed, epoch, batch), never by what was drawn
before: so it is the same with any number of loader processes, and after a resume in the middle of an epoch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from alignprune._ranks import keyed_generator
from alignprune.bench.data import Samples, TensorData


@dataclass(frozen=True)
class Batch:
    """A batch of B samples on the network's device.

    Attributes:
        x: [B, ...], under the training augmentation.
        strong: [B, ...], the same samples under the strong augmentation; None where nobody compares two views.
        y: int64 [B], their given labels.
    """

    x: Tensor
    strong: Tensor | None
    y: Tensor

    def part(self, chosen: slice | Tensor) -> Batch:
        """The samples at these positions."""
        return Batch(self.x[chosen], None if self.strong is None else self.strong[chosen], self.y[chosen])


def batches(loader: DataLoader[Any], device: torch.device) -> Iterator[tuple[Tensor, Batch]]:
    """Index and batch of each step: the data on the device, the index, int64 [B], on the host, where it is checked."""
    for index, (x, y) in loader:
        views = x if isinstance(x, (list, tuple)) else [x]
        weak, *strong = (view.to(device, non_blocking=True) for view in views)
        yield index, Batch(weak, strong[0] if strong else None, y.to(device, non_blocking=True))


class TwoViews(Dataset[Any]):
    """The same samples under two augmentations: ((weak, strong), label).

    Args:
        weak, strong: the views, of the same samples in the same order.
    """

    def __init__(self, weak: Samples, strong: Samples) -> None:
        self.weak, self.strong = weak, strong

    def __len__(self) -> int:
        return len(self.weak)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Any:
        x, y = self.weak[index]
        return (x, self.strong[index][0]), y

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """The samples at these indices; DataLoader asks for a whole batch by this method."""
        weak, strong = (
            view.__getitems__(indices) if hasattr(view, "__getitems__") else [view[i] for i in indices]
            for view in (self.weak, self.strong)
        )
        return [((x, other), y) for (x, y), (other, _) in zip(weak, strong, strict=True)]


class KeyedDraws(Dataset[Any]):
    """The same samples, whose augmentation draws by keys, of an epoch and of the first sample of a batch.

    Args:
        samples: in any views.
        seed: of the run.
    """

    def __init__(self, samples: Dataset[Any], seed: int) -> None:
        self.samples, self.seed = samples, seed
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # loader processes that live on see it change

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch is read next, before its first batch."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.samples)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Any:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """The samples at these indices; DataLoader asks for a whole batch by this method."""
        fetch = getattr(self.samples, "__getitems__", None)
        with torch.random.fork_rng(devices=[]):  # what the network draws, such as dropout, goes on as if without
            keyed = keyed_generator(self.seed, int(self._epoch), f"augmentation/{indices[0]}")
            torch.set_rng_state(keyed.get_state())
            return list(fetch(indices)) if callable(fetch) else [self.samples[index] for index in indices]


def draws(samples: Dataset[Any]) -> bool:
    """Whether a sample of this view may be another one each time that it is read."""
    if isinstance(samples, Subset):
        return draws(samples.dataset)
    return not isinstance(samples, TensorData) or samples.augment is not None
