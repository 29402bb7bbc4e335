"""The epoch sampler: which rank reads what. A Selection goes in, this rank's indices come out, in a keyed order.

``iter`` has no side effect: the order is a function of (seed, epoch), so every call within an epoch yields the same,
on any number of ranks. How far training has come is told by `advance`, not by what a loader has fetched ahead.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler

from alignprune._checks import integer
from alignprune.errors import CallMistake, ValueMistake
from alignprune.policies import Selection

_CHUNK = 65_536  # indices turned into Python integers at a time


def keyed_generator(seed: int, epoch: int, purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
    """An own generator whose stream depends on its key alone; the global generators are never touched."""
    digest = hashlib.blake2b(f"{seed}/{epoch}/{purpose}".encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little") >> 1)


def rank_and_world() -> tuple[int, int]:
    """This process's rank and the number of ranks; (0, 1) without an initialised process group."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


class EpochSampler(Sampler[int]):
    """Yields this rank's part of an epoch's selection; owned and planned by a `Pruner`.

    Ranks take turns in one common order, so that the batches of all ranks together are those of a single process.
    Where the selection does not divide evenly, the first samples of the order are read once more (at most ranks - 1).

    Attributes:
        epoch: the epoch that is planned.
        start: samples of this rank that were consumed before a resume; ``iter`` begins there.
        position: samples of this rank consumed so far.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.epoch = 0
        self.start = self.position = 0
        self._order: Tensor | None = None
        self._length: int | None = None

    def plan(self, epoch: int, selection: Selection | Tensor | None, start: int = 0) -> None:
        """Set the epoch's samples; ``None`` ends the training.

        Args:
            epoch: the epoch's number, part of the key of the order.
            selection: a Selection, read in random order, or indices int64 [K], read as they are.
            start: samples of this rank that are consumed already.
        """
        self.epoch, self.start, self.position = epoch, start, start
        self._length = None
        if isinstance(selection, Selection):
            width = torch.int32 if len(selection) < 2**31 else torch.int64
            generator = keyed_generator(self.seed, epoch, "order")
            turn = torch.randperm(len(selection), generator=generator, dtype=width)
            self._order = selection.indices.index_select(0, turn)
        else:
            self._order = selection

    def advance(self, samples: int) -> None:
        """Note that this rank has consumed ``samples`` more.

        Raises:
            RuntimeError: if the epoch does not have as many left.
        """
        if self._length is None:
            self._length = self.epoch_length
        if self.position + samples > self._length:
            raise CallMistake(
                f"epoch {self.epoch} has {self._length} samples on this rank, and this batch would make it "
                f"{self.position + samples}: call pruner.end_epoch() after every epoch, and give the DataLoader "
                f"sampler=pruner.sampler"
            )
        self.position += samples

    @property
    def epoch_length(self) -> int:
        """Samples that this rank reads in the whole epoch, consumed ones included."""
        if self._order is None:
            raise CallMistake("all epochs are done: the sampler has no epoch to read")
        return -(-len(self._order) // rank_and_world()[1])

    def __len__(self) -> int:
        return self.epoch_length - self.start

    def __iter__(self) -> Iterator[int]:
        if self._order is None:
            raise CallMistake(
                f"all {self.epoch} epochs are done: there is no epoch to iterate over. Make the Pruner with more "
                f"epochs, or loop over range(pruner.epoch, pruner.epochs)"
            )
        if self.position != self.start:
            raise CallMistake(
                f"{self.position - self.start} samples of epoch {self.epoch} have been recorded already: call "
                f"pruner.end_epoch() before the next epoch; for another pass over the data use a loader of its own, "
                f"without pruner.sampler"
            )
        rank, world = rank_and_world()
        return _EpochIterator(self._order, rank, world, self.epoch, self.start)


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
            turns = torch.arange(self.position, stop) * self.world + self.rank
            self.chunk = self.order[turns % len(self.order)].tolist()
            self.chunk_start, offset = self.position, 0
        self.position += 1
        return self.chunk[offset]

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["epoch"] != self.epoch:
            raise ValueMistake(
                f"the loader's state is of epoch {state['epoch']}, the pruner is at epoch {self.epoch}: load the "
                f"pruner's state of the same moment first"
            )
        self.position = self.chunk_start = state["position"]
        self.chunk = []


class EvenBatches(Sampler[list[int]]):
    """An epoch in batches whose sizes differ by one at most: as many batches as otherwise, and no short last one.

    A pruned epoch ends in a batch of any size. The statistics of a batch norm over a few samples, and a step as long as
    every other along their gradient, cost accuracy where the epochs are short; `docs/beyond.md` has a measurement.

    Args:
        sampler: of the epochs.
        batch_size: the largest size of a batch, at least 1.
    """

    def __init__(self, sampler: EpochSampler, batch_size: int) -> None:
        self.sampler, self.batch_size = sampler, integer("batch_size", batch_size, at_least=1, remedy="such as 128")

    def _ends(self) -> list[int]:
        """Positions in the epoch at which the batches end that are still to come: they do not depend on a resume."""
        length = self.sampler.epoch_length
        batches = -(-length // self.batch_size)
        ends = [length * (batch + 1) // batches for batch in range(batches)]
        return [end for end in ends if end > self.sampler.start]

    def __len__(self) -> int:
        return len(self._ends())

    def __iter__(self) -> Iterator[list[int]]:
        indices, position = iter(self.sampler), self.sampler.start
        for end in self._ends():
            yield list(islice(indices, end - position))
            position = end
