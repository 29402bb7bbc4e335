"""The epoch sampler: which rank reads what. A Selection goes in, this rank's indices come out, in a keyed order.

``iter`` has no side effect: the order is a function of (seed, epoch), so every call within an epoch yields the same,
on any number of ranks. How far training has come the recorder knows, not what a loader has fetched ahead.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DistributedSampler, Sampler

from alignprune._checks import integer
from alignprune._ranks import keyed_generator, rank_and_world
from alignprune.errors import ValueMistake

_CHUNK = 65_536  # indices turned into Python integers at a time
_LARGE = 1 << 22  # samples from which on an order is computed where it is read: to shuffle 10^8 takes seconds
_ROUNDS = 4  # of the mixing behind such an order


class EpochSampler(DistributedSampler[int]):
    """Yields this rank's part of an epoch's selection; owned and planned by a `Pruner`.

    Ranks take turns in one common order, so that the batches of all ranks together are those of a single process.
    Where the selection does not divide evenly, the first samples of the order are read once more (at most ranks - 1).
    Ranks that own parts have samples of their own instead, each in an order of its own. After the last epoch the
    sampler is empty.

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

    def plan(self, epoch: int, indices: Tensor, start: int = 0, *, own: bool = False) -> None:
        """Set the epoch's samples.

        Args:
            epoch: the epoch's number, part of the key of the order.
            indices: int64 [K]; those of all ranks ascending.
            start: samples of this rank that are consumed already.
            own: they are this rank's alone; else all ranks have the same, and take turns.
        """
        self.epoch, self.start = epoch, start
        self._order = _Order(indices, self.seed, epoch, self.shuffle, own)

    def set_epoch(self, epoch: int) -> None:
        """Does nothing, for trainers that call it: the pruner says which epoch it is."""

    @property
    def epoch_length(self) -> int:
        """Samples that this rank reads in the whole epoch, consumed ones included."""
        return len(self._order)

    def indices(self, start: int = 0, stop: int | None = None) -> Tensor:
        """What this rank reads in the epoch, in order, int64: batches are cut from it without an integer a sample.

        Args:
            start, stop: positions in the whole epoch, as of a slice; by default all of them. After a resume
                ``sampler.indices(sampler.start)`` is what is left.
        """
        first, end, _ = slice(start, stop).indices(self.epoch_length)
        return self._order.read(first, max(first, end))

    def __len__(self) -> int:
        return self.epoch_length - (0 if self.counts_whole else self.start)

    def __iter__(self) -> Iterator[int]:
        return _EpochIterator(self._order, self.epoch, self.start)


class _Order:
    """What this rank reads in an epoch, in order; drawn when it is first read."""

    def __init__(self, indices: Tensor, seed: int, epoch: int, shuffle: bool, own: bool) -> None:
        self._indices, self._seed, self._epoch, self._shuffle, self._own = indices, seed, epoch, shuffle, own

    def __len__(self) -> int:
        return -(-len(self._indices) // self._turns()[1])

    def read(self, start: int, stop: int) -> Tensor:
        """The samples start to stop - 1 of this rank, int64."""
        rank, world = self._turns()
        turns = torch.arange(start * world + rank, stop * world + rank, world, device="cpu")
        if len(turns) and turns[-1] >= len(self._indices):
            turns.remainder_(len(self._indices))  # the last turns may be the first samples' once more
        return self._indices[self._drawn(turns) if self._shuffle else turns]

    def _turns(self) -> tuple[int, int]:
        """Which of how many take turns: this rank of all, asked anew each time, unless the samples are its own."""
        return (0, 1) if self._own else rank_and_world()

    @cached_property
    def _drawn(self) -> _Shuffled | _Permuted:
        generator = keyed_generator(self._seed, self._epoch, f"order/{rank_and_world()[0]}" if self._own else "order")
        size = len(self._indices)
        return _Shuffled(size, generator) if size < _LARGE else _Permuted(size, generator)


class _Shuffled:
    """The turn of every sample in a random order, kept."""

    def __init__(self, size: int, generator: torch.Generator) -> None:
        self._turn = torch.randperm(size, generator=generator, dtype=torch.int32, device="cpu")

    def __call__(self, turns: Tensor) -> Tensor:
        return self._turn[turns]


class _Permuted:
    """The turn of every sample in a random order, computed where it is asked for.

    Mixing the bits of a number is a permutation of all numbers of that many bits; those beyond the size are mixed on
    until they are inside.
    """

    def __init__(self, size: int, generator: torch.Generator) -> None:
        self._size, self._bits = size, (size - 1).bit_length()
        drawn = torch.randint(0, 1 << 62, (2, _ROUNDS), generator=generator, device="cpu")
        self._keys, self._factors = drawn.numpy().astype(np.uint64)
        self._factors |= np.uint64(1)

    def __call__(self, turns: Tensor) -> Tensor:
        mixed = self._mixed(turns.numpy().astype(np.uint64))
        outside = np.flatnonzero(mixed >= self._size)
        while len(outside):
            mixed[outside] = self._mixed(mixed[outside])
            outside = outside[mixed[outside] >= self._size]
        return torch.from_numpy(mixed.astype(np.int64))

    def _mixed(self, numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
        mask, half = np.uint64((1 << self._bits) - 1), np.uint64((self._bits + 1) // 2)
        for key, factor in zip(self._keys, self._factors, strict=True):
            numbers = ((numbers ^ key) * factor) & mask
            numbers ^= numbers >> half
        return numbers


class _EpochIterator(Iterator[int]):
    """One pass; follows the Stateful protocol, so that a StatefulDataLoader resumes at an absolute position."""

    def __init__(self, order: _Order, epoch: int, position: int) -> None:
        self.order, self.epoch, self.position = order, epoch, position
        self.length = len(order)
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
            self.chunk = self.order.read(self.position, stop).tolist()
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

    def _batches(self) -> int:
        """Batches of the whole epoch."""
        steps = -(-self.sampler.epoch_length // (self.batch_size * self.accumulate))
        return min(steps * self.accumulate, self.sampler.epoch_length)

    def _done(self, start: int) -> int:
        """Batches that end at position ``start`` of the epoch or before: they do not depend on a resume."""
        length = self.sampler.epoch_length
        return (start * self._batches() + self._batches() - 1) // length if length and start else 0

    def __len__(self) -> int:
        return self._batches() - self._done(0 if self.sampler.counts_whole else self.sampler.start)

    def __iter__(self) -> Iterator[list[int]]:
        indices, position = iter(self.sampler), self.sampler.start
        length, batches = self.sampler.epoch_length, self._batches()
        for batch in range(self._done(position), batches):
            end = length * (batch + 1) // batches
            yield list(islice(indices, end - position))
            position = end
