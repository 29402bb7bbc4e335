"""Batches of a run: samples in one view or two, their labels, and the index that travels with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from alignprune.bench.data import Samples


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
