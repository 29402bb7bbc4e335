"""Indexed: the sample's index travels inside the batch.

``(index, item)`` instead of ``item``. No patching of the loader, no side channel: whatever reads ahead, reorders or
moves batches, index and data stay together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from alignprune.errors import TypeMistake

Item = TypeVar("Item")


class Indexed(Dataset[tuple[int, Item]], Generic[Item]):
    """A map-style data set whose items come with their index.

    Args:
        dataset: any map-style data set: has ``__len__`` and ``__getitem__`` (and ``__getitems__``, which is used).

    Raises:
        TypeMistake: for an iterable data set, which has no index to prune by.
    """

    def __init__(self, dataset: Dataset[Item]) -> None:
        # Every data set of torch has a __getitem__: an IterableDataset the one that raises, unless it has its own too.
        by_index = getattr(type(dataset), "__getitem__", None) not in (None, Dataset.__getitem__)
        if not by_index or not hasattr(dataset, "__len__"):
            raise TypeMistake(
                f"dataset is {type(dataset).__name__}, which is not read by index, expected a map-style data set with "
                f"__getitem__ and __len__: a stream is filtered instead, see pruner.stream"
            )
        if isinstance(dataset, Indexed):
            raise TypeMistake("dataset is Indexed already, expected one that is not: wrap it once")
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[int, Item]:
        self._check(index)
        return index, self.dataset[index]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[int, Item]]:
        self._check(max(indices, default=0))
        fetch = getattr(self.dataset, "__getitems__", None)
        items = fetch(indices) if callable(fetch) else [self.dataset[index] for index in indices]
        return list(zip(indices, items, strict=True))

    def _check(self, index: int) -> None:
        if index >= len(self):
            raise IndexError(
                f"index={index} is out of range, expected an index below {len(self)}: make the Pruner with "
                f"num_samples=len(dataset) of this very data set"
            )


class IndexedCollate:
    """Lets a collate function of plain items work on indexed ones: ``(index [B], collate_fn(items))``.

    Only needed with a ``collate_fn`` of one's own; the default one handles the pairs.

    Args:
        collate_fn: from a list of items to a batch of any type: tuple, dict, tensor, dataclass.
    """

    def __init__(self, collate_fn: Callable[[list[Any]], Any] = default_collate) -> None:
        self.collate_fn = collate_fn

    def __call__(self, pairs: list[tuple[int, Any]]) -> tuple[Tensor, Any]:
        indices, items = zip(*pairs, strict=True)
        return torch.tensor(indices, dtype=torch.int64, device="cpu"), self.collate_fn(list(items))
