"""The epoch sampler: which rank reads what. A Selection goes in, this rank's indices come out, in a keyed order.

``iter`` has no side effect: the order is a function of (seed, epoch), so every call within an epoch yields the same,
on any number of ranks. How far training has come the recorder knows, not what a loader has fetched ahead.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DistributedSampler, Sampler

from alignprune._checks import integer
from alignprune._ranks import keyed_generator, rank_and_world
from alignprune.errors import ValueMistake

_CHUNK = 65_536  # indices turned into Python integers at a time


class EpochSampler(DistributedSampler[int]):
    """Yields this rank's part of an epoch's selection; owned and planned by a `Pruner`.

    Ranks take turns in one common order, so that the batches of all ranks together are those of a single process.
    Where the selection does not divide evenly, the first samples of the order are read once more (at most ranks - 1).
    After the last epoch the sampler is empty.

    It shards by itself and is a DistributedSampler by type, since trainers put one of theirs around every other kind
    of sampler, and each rank would then read its part of its part.

    Args:
        seed: of the orders.
        shuffle: read in random order, by (seed, epoch); else ascending.

    Attributes:
        epoch: the epoch that is planned.
        start: samples of this rank that were consumed before a resume; ``iter`` begins there.
        counts_whole: after a resume ``len`` counts the whole epoch, for trainers that restore their own count of
            batches; by default it counts what is left.
    """

    def __init__(self, seed: int, *, shuffle: bool = True) -> None:
        self.counts_whole = False
        self.seed, self.shuffle, self.drop_last = seed, shuffle, False  # the base class wants a data set, to count it
        self.plan(0, torch.empty(0, dtype=torch.int64, device="cpu"))

    def plan(self, epoch: int, indices: Tensor, start: int = 0) -> None:
        """Set the epoch's samples.

        Args:
            epoch: the epoch's number, part of the key of the order.
            indices: int64 [K], ascending.
            start: samples of this rank that are consumed already.
        """
        self.epoch, self.start = epoch, start
        self._indices = indices
        self._order: Tensor | None = None

    @property
    def order(self) -> Tensor:
        """The epoch's samples in the order in which all ranks together read them, int64 [K]; made when first asked."""
        if self._order is None:
            self._order = self._indices
            if self.shuffle:
                width = torch.int32 if len(self._indices) < 2**31 else torch.int64
                generator = keyed_generator(self.seed, self.epoch, "order")
                turn = torch.randperm(len(self._indices), generator=generator, dtype=width, device="cpu")
                self._order = self._indices.index_select(0, turn)
        return self._order

    def set_epoch(self, epoch: int) -> None:
        """Does nothing, for trainers that call it: the pruner says which epoch it is."""

    @property
    def epoch_length(self) -> int:
        """Samples that this rank reads in the whole epoch, consumed ones included."""
        return -(-len(self._indices) // rank_and_world()[1])

    def consumed(self, count: int) -> Tensor:
        """The first ``count`` samples that this rank reads in the epoch, int64 [count]."""
        if not count:
            return self._indices[:0]
        rank, world = rank_and_world()
        return self.order[(torch.arange(count, device="cpu") * world + rank) % len(self.order)]

    def __len__(self) -> int:
        return self.epoch_length - (0 if self.counts_whole else self.start)

    def __iter__(self) -> Iterator[int]:
        rank, world = rank_and_world()
        return _EpochIterator(self.order, rank, world, self.epoch, self.start)


class _EpochIterator(Iterator[int]):
    """One pass; follows the Stateful protocol, so that a StatefulDataLoader resumes at an absolute position."""

    def __init__(self, order: Tensor, rank: int, world: int, epoch: int, position: int) -> None:
        self.order, self.rank, self.world, self.epoch, self.position = order, rank, world, epoch, position
        self.length = -(-len(order) // world)
        self.chunk: list[int] = []
        self.chunk_start = position

    def __iter__(self) -> _EpochIterator:
        return self

    def __next__(self) -> int:
        if self.position >= self.length:
            raise StopIteration
        offset = self.position - self.chunk_start
        if offset >= len(self.chunk):
            stop = min(self.position + _CHUNK, self.length)
            turns = torch.arange(self.position, stop, device="cpu") * self.world + self.rank
            self.chunk = self.order[turns % len(self.order)].tolist()
            self.chunk_start, offset = self.position, 0
        self.position += 1
        return self.chunk[offset]

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["epoch"] == self.epoch - 1 and self.position == 0:
            return  # saved after the epoch before, which says nothing of this one: it begins at its beginning
        if state["epoch"] != self.epoch:
            raise ValueMistake(
                f"the loader's state is of epoch {state['epoch']}, expected {self.epoch}, where the pruner is: load "
                "the pruner's state of the same moment first"
            )
        self.position = self.chunk_start = state["position"]
        self.chunk = []


class EvenBatches(Sampler[list[int]]):
    """An epoch in batches whose sizes differ by one at most: as many batches as otherwise, and no short last one.

    A pruned epoch ends in a batch of any size. The statistics of a batch norm over a few samples, and a step as long as
    every other along their gradient, cost accuracy where the epochs are short.

    Args:
        sampler: of the epochs.
        batch_size: the largest size of a batch, at least 1.
        accumulate: batches whose gradients are added up for a step: an epoch is a whole number of steps, unless a rank
            has fewer samples than that.
    """

    def __init__(self, sampler: EpochSampler, batch_size: int, *, accumulate: int = 1) -> None:
        self.sampler, self.batch_size = sampler, integer("batch_size", batch_size, at_least=1, remedy="such as 128")
        self.accumulate = integer("accumulate", accumulate, at_least=1, remedy="1 takes a step every batch")

    def _ends(self, start: int) -> list[int]:
        """Positions in the epoch after ``start`` at which batches end: they do not depend on a resume."""
        length = self.sampler.epoch_length
        steps = -(-length // (self.batch_size * self.accumulate))
        batches = min(steps * self.accumulate, length)
        ends = [length * (batch + 1) // batches for batch in range(batches)]
        return [end for end in ends if end > start]

    def __len__(self) -> int:
        return len(self._ends(0 if self.sampler.counts_whole else self.sampler.start))

    def __iter__(self) -> Iterator[list[int]]:
        indices, position = iter(self.sampler), self.sampler.start
        for end in self._ends(position):
            yield list(islice(indices, end - position))
            position = end
