"""Batches of a run: samples in one view or two, their labels, and the index that travels with them.

Samples that lie in one tensor are read a batch at a time, on the network's device where they are small; no item is made
of them, and no process reads them ahead. All others are read one by one.

What chance does to a batch, such as crops and flips, is drawn by a key of (seed, epoch, batch), never by what was drawn
before: so it is the same with any number of loader processes, and after a resume in the middle of an epoch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, SequentialSampler, Subset

from alignprune import Pruner
from alignprune._ranks import keyed_generator
from alignprune.bench.data import Samples, TensorData
from alignprune.bench.run.evaluation import BATCH_SIZE
from alignprune.sampler import EpochSampler

SMALL = 2**31
"""Bytes of samples that are kept on an accelerator, at most."""


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


def batches(loader: Loader, device: torch.device) -> Iterator[tuple[Tensor, Batch]]:
    """Index and batch of each step: the data on the device, the index, int64 [B], on the host, where it is checked."""
    for index, (x, y) in loader:
        views = x if isinstance(x, (list, tuple)) else [x]
        weak, *strong = (view.to(device, non_blocking=True) for view in views)
        yield index, Batch(weak, strong[0] if strong else None, y.to(device, non_blocking=True))


class Resident(Dataset[Any]):
    """Samples that lie in one tensor, which are read a batch at a time.

    Args:
        inputs: [M, ...], on any device.
        labels: int64 [M], on the same device.
        finish: deterministic transform of a batch; None for none.
        where: int64 [N], on the host: which of the inputs the samples are; None for all, in their order.
    """

    def __init__(self, inputs: Tensor, labels: Tensor, finish: nn.Module | None, where: Tensor | None = None) -> None:
        self.inputs, self.labels, self.finish, self.where = inputs, labels, finish, where

    def __len__(self) -> int:
        return len(self.inputs if self.where is None else self.where)

    def __getitem__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The samples [B, ...] and the labels, int64 [B], at these indices."""
        return self.at(torch.tensor(indices, dtype=torch.int64))

    def at(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """The samples [B, ...] and the labels, int64 [B], at an index, int64 [B] on the host."""
        rows = index if self.where is None else self.where[index]
        rows = rows.to(self.inputs.device, non_blocking=True)
        x = self.inputs.index_select(0, rows)
        return x if self.finish is None else self.finish(x), self.labels.index_select(0, rows)


def resident(samples: Dataset[Any], device: torch.device) -> Resident | None:
    """The samples where the network is; None for those that do not lie in one `SMALL` tensor, or are augmented.

    Args:
        samples: a view, or a `Subset` of one.
        device: of the network.
    """
    if isinstance(samples, Subset):
        whole, where = resident(samples.dataset, device), torch.as_tensor(samples.indices, dtype=torch.int64)
        if whole is None:
            return None
        return Resident(whole.inputs, whole.labels, whole.finish, where if whole.where is None else whole.where[where])
    if not isinstance(samples, TensorData) or samples.augment is not None:
        return None
    if samples.inputs.device != device and samples.inputs.nbytes > SMALL:
        return None
    return Resident(samples.inputs.to(device), samples.labels.to(device), samples.finish)


class ResidentLoader:
    """What a loader gives of an epoch, of samples that are where the network is: ``(index, (x, y))``.

    Args:
        samples: all of them.
        batches: lists of indices, of the epoch that is trained on, with a length.
    """

    def __init__(self, samples: Resident, batches: Any) -> None:
        self.samples, self.batches = samples, batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        for index in _indices(self.batches):
            yield index, self.samples.at(index)


Loader = DataLoader[Any] | ResidentLoader
"""What gives the batches of an epoch."""


def _indices(batches: Any) -> Iterator[Tensor]:
    """The index of each batch, int64 [B]; cut from the epoch's order at once where all but the last are of one size."""
    if isinstance(batches, BatchSampler) and isinstance(batches.sampler, EpochSampler):
        sampler = batches.sampler
        left = sampler.indices(sampler.start)
        return iter(left.split(batches.batch_size) if len(left) else ())
    return (torch.tensor(indices, dtype=torch.int64) for indices in batches)


def training_loader(
    pruner: Pruner,
    views: Dataset[Any],
    batch_size: int,
    device: torch.device,
    workers: int,
    *,
    pruned: bool = False,
    even_batches: bool = False,
) -> Loader:
    """A loader of ``(index, batch)`` over the samples that an epoch trains on.

    Args:
        pruner: says which they are.
        views: all samples.
        batch_size: as in `Pruner.loader`, like what follows by name.
        device: of the network.
        workers: processes that read ahead samples which do not lie in one tensor.
    """
    # A loader draws when it starts, which no other draw may depend on.
    whole = resident(views, device)
    settings = _reading(device, workers, torch.Generator())
    loader = pruner.loader(views, pruned=pruned, even_batches=even_batches, batch_size=batch_size, **settings)
    return loader if whole is None else ResidentLoader(whole, loader.batch_sampler)


def evaluation_loader(
    samples: Samples, device: torch.device, workers: int, generator: torch.Generator | None = None
) -> DataLoader[Any]:
    """A loader of ``(x, y)`` over all samples in their order.

    Args:
        samples: without augmentation.
        device: of the network.
        workers: processes that read ahead samples which do not lie in one tensor.
        generator: that it draws from when it starts; None = torch's global one.
    """
    whole = resident(samples, device)
    if whole is None:
        return DataLoader(samples, batch_size=BATCH_SIZE, **_reading(device, workers, generator))
    order = BatchSampler(SequentialSampler(whole), BATCH_SIZE, drop_last=False)
    return DataLoader(whole, sampler=order, batch_size=None, collate_fn=_as_it_is, generator=generator)


def _reading(device: torch.device, workers: int, generator: torch.Generator | None) -> dict[str, Any]:
    """How a loader reads samples one by one: ahead, where there are processes for it."""
    return {
        "num_workers": workers,
        "persistent_workers": workers > 0,
        "pin_memory": device.type == "cuda",
        "generator": generator,
    }


def _as_it_is(batch: Any) -> Any:
    return batch


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
