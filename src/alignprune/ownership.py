"""Ownership: which rank remembers a sample, and where in its tables.

Replicated, every rank remembers all samples. Owned, each remembers its own and decides for these, so that a rank's
memory falls with the number of ranks. A sample has one place in a common order, the same on any number of ranks, and a
rank owns intervals of it: so a state that some ranks have saved others can load. The slot of a sample is where it
stands in the tables of its rank: what scores and policies index by. Replicated, the slot is the sample's own index.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alignprune._checks import described
from alignprune._ranks import Indices
from alignprune.errors import TypeMistake, ValueMistake

Owned = Literal["replicated", "owned"] | Sequence[Sequence[tuple[int, int]]]
"""What a `Pruner` may be told: every rank remembers all; a hash says who owns what; or the ranges that each rank owns,
[start, stop) by rank."""

_BUCKETS = 4_096  # of the hash: a power of two, and many times the ranks, whose parts differ by a bucket at most
_STRIDE = 2_531  # the golden part of the buckets, and odd: any run of successive samples falls evenly on them
_BACK = pow(_STRIDE, -1, _BUCKETS)
_LOW = 0xFFFFFFFF
_CHUNK = 65_536  # samples computed at a time, so that temporaries stay in cache
_FACTOR = 0x45D9F3B  # an odd number whose product with 32 bits an int64 holds


@dataclass(frozen=True, eq=False)
class Ownership(ABC):
    """Who owns what, on all ranks.

    Attributes:
        num_samples: size N of the data set.
        rank: this process.
        world: the number of ranks.
    """

    num_samples: int
    rank: int = 0
    world: int = 1

    @property
    @abstractmethod
    def intervals(self) -> list[tuple[int, int]]:
        """What this rank owns of the common order, ascending, [start, stop) each."""

    @abstractmethod
    def places(self, samples: Tensor) -> Tensor:
        """Where samples stand in the common order: int64 [B] in 0 to N - 1 to int64 [B], on their device."""

    @abstractmethod
    def samples_at(self, start: int, stop: int) -> Indices:
        """The samples at places start to stop - 1, int64."""

    @property
    @abstractmethod
    def mark(self) -> str:
        """What has to be the same on every rank."""

    @property
    def shared(self) -> bool:
        """Whether the ranks own parts, so that what concerns all samples they have to ask one another."""
        return self.size < self.num_samples

    @cached_property
    def size(self) -> int:
        """Samples n that this rank remembers."""
        return sum(stop - start for start, stop in self.intervals)

    @cached_property
    def samples(self) -> NDArray[np.uint32] | Indices:
        """The samples that this rank remembers, by slot, [n]: uint32 where that holds them, else int64."""
        held = np.empty(self.size, dtype=np.uint32 if self.num_samples <= 1 << 32 else np.int64)
        slot = 0
        for start, stop in self.intervals:
            for first in range(start, stop, _CHUNK):
                last = min(first + _CHUNK, stop)
                held[slot : slot + last - first] = self.samples_at(first, last)
                slot += last - first
        return held

    def slots(self, samples: Tensor) -> Tensor:
        """The slots of samples in 0 to N - 1, int64 [B], on their device; -1 where another rank owns one."""
        starts, sizes, offsets = self._intervals_on(samples.device)
        places = self.places(samples)
        which = (torch.searchsorted(starts, places, right=True) - 1).clamp_min_(0)
        inside = places - starts[which]
        return torch.where((inside >= 0) & (inside < sizes[which]), inside + offsets[which], -1)

    def _intervals_on(self, device: torch.device) -> Tensor:
        """Start, size and first slot of every interval on a device, int64 [3, intervals]."""
        if device not in self._moved:
            starts, stops = np.array(self.intervals, dtype=np.int64).T
            sizes = stops - starts
            self._moved[device] = torch.from_numpy(np.stack([starts, sizes, np.cumsum(sizes) - sizes])).to(device)
        return self._moved[device]

    @cached_property
    def _moved(self) -> dict[torch.device, Tensor]:
        return {}


class Replicated(Ownership):
    """Every rank remembers every sample: nobody has to be asked."""

    @property
    def intervals(self) -> list[tuple[int, int]]:
        return [(0, self.num_samples)]

    @property
    def mark(self) -> str:
        return "replicated"

    def places(self, samples: Tensor) -> Tensor:
        return samples

    def samples_at(self, start: int, stop: int) -> Indices:
        return np.arange(start, stop)

    def slots(self, samples: Tensor) -> Tensor:
        return samples


class Hashed(Ownership):
    """A hash deals the samples out to 4,096 buckets, one of every 4,096 successive ones to each.

    A rank owns successive buckets. So the parts of the ranks differ by a bucket, whatever the order of the data set.
    """

    @cached_property
    def intervals(self) -> list[tuple[int, int]]:
        return [self.interval_of(self.rank)]

    def interval_of(self, rank: int) -> tuple[int, int]:
        """What a rank owns of the common order."""
        first, last = (_BUCKETS * bound // self.world for bound in (rank, rank + 1))
        return int(self._starts[first]), int(self._starts[last])

    @property
    def mark(self) -> str:
        return f"{self.num_samples} hashed among {self.world}"

    @cached_property
    def _starts(self) -> Indices:
        """The place of the first sample of every bucket, and N, int64 [buckets + 1]."""
        block, rest = divmod(self.num_samples, _BUCKETS)
        sizes = np.full(_BUCKETS, block, dtype=np.int64)
        sizes[_bucket(torch.arange(rest) + block * _BUCKETS).numpy()] += 1
        return np.concatenate([[0], np.cumsum(sizes)])

    @cached_property
    def _starts_by_device(self) -> dict[torch.device, Tensor]:
        return {}

    def places(self, samples: Tensor) -> Tensor:
        starts = self._starts_by_device.get(samples.device)
        if starts is None:
            starts = self._starts_by_device[samples.device] = torch.from_numpy(self._starts).to(samples.device)
        return starts[_bucket(samples)] + samples // _BUCKETS

    def samples_at(self, start: int, stop: int) -> Indices:
        places = np.arange(start, stop)
        bucket = np.searchsorted(self._starts, places, side="right") - 1
        block = places - self._starts[bucket]
        turn = _mixed(torch.from_numpy(block)).numpy()
        samples: Indices = block * _BUCKETS + (((bucket - turn) * _BACK) & (_BUCKETS - 1))
        return samples


class Ranges(Ownership):
    """Every rank owns ranges of successive samples, such as the shards that it reads.

    Args:
        ranges: by rank, [start, stop) of samples.

    Raises:
        TypeMistake, ValueMistake: unless there is one list of ranges a rank, and every sample in one range.
    """

    ranges: list[list[tuple[int, int]]]

    def __init__(self, num_samples: int, ranges: Any, rank: int = 0, world: int = 1) -> None:
        super().__init__(num_samples, rank, world)
        object.__setattr__(self, "ranges", _checked(ranges, num_samples, world))

    @property
    def intervals(self) -> list[tuple[int, int]]:
        return self.ranges[self.rank]

    @property
    def mark(self) -> str:
        return repr(self.ranges)

    def places(self, samples: Tensor) -> Tensor:
        return samples

    def samples_at(self, start: int, stop: int) -> Indices:
        return np.arange(start, stop)


def ownership_of(owned: Any, num_samples: int, rank: int, world: int) -> Ownership:
    """The ownership that a word or ranges ask for; raises TypeMistake, ValueMistake for what is neither."""
    if isinstance(owned, str):
        if owned not in ("replicated", "owned"):
            raise ValueMistake(
                f"ownership={owned!r} is unknown, expected 'replicated', 'owned' or the ranges of every rank: "
                "'replicated' where the state fits on every rank"
            )
        return Replicated(num_samples, rank, world) if owned == "replicated" else _hashed(num_samples, rank, world)
    return Ranges(num_samples, owned, rank, world)


def _hashed(num_samples: int, rank: int, world: int) -> Hashed:
    if world <= _BUCKETS and num_samples <= 1 << 32:
        hashed = Hashed(num_samples, rank, world)
        if all(start < stop for start, stop in map(hashed.interval_of, range(world))):
            return hashed
    raise ValueMistake(
        f"ownership='owned' leaves a rank without samples, or goes beyond the hash: {num_samples} samples, {world} "
        f"ranks, expected many more samples than ranks, at most 2^32 samples and {_BUCKETS} ranks: use "
        f"ownership='replicated'"
    )


def _checked(ranges: Any, num_samples: int, world: int) -> list[list[tuple[int, int]]]:
    if not isinstance(ranges, Sequence) or not all(isinstance(own, Sequence) for own in ranges):
        raise TypeMistake(
            f"ownership={described(ranges)} is {type(ranges).__name__}, expected a list of ranges for every rank: such "
            f"as [[(0, 1000)], [(1000, 2000)]], 'owned' or 'replicated'"
        )
    if len(ranges) != world or not all(ranges):
        raise ValueMistake(
            f"ownership has ranges for {sum(map(bool, ranges))} ranks, expected {world}: give every rank one list of "
            f"ranges, none of them empty, and set up torch.distributed first"
        )
    made = [sorted(_range(given, num_samples) for given in own) for own in ranges]
    ordered = sorted((start, stop, rank) for rank, own in enumerate(made) for start, stop in own)
    end = 0
    for start, stop, _ in ordered:
        if start != end:
            what = f"samples {end} to {start - 1} have no owner" if start > end else f"sample {start} has two owners"
            raise ValueMistake(f"ownership: {what}, expected one for every sample: let the ranges join without a gap")
        end = stop
    if end != num_samples:
        raise ValueMistake(
            f"ownership: samples {end} to {num_samples - 1} have no owner, expected one for every sample: let the "
            f"ranges reach to num_samples={num_samples}"
        )
    return made


def _range(given: Any, num_samples: int) -> tuple[int, int]:
    try:
        ends = (given.start, given.stop) if isinstance(given, range) and given.step == 1 else tuple(given)
        start, stop = (end.__index__() for end in ends)
    except (TypeError, ValueError, AttributeError):
        raise TypeMistake(
            f"ownership holds {described(given)}, expected ranges: (start, stop), or range(start, stop)"
        ) from None
    if not 0 <= start < stop <= num_samples:
        raise ValueMistake(
            f"ownership holds the range {start} to {stop}, expected 0 <= start < stop <= {num_samples}: the samples "
            f"start to stop - 1"
        )
    return start, stop


def _bucket(samples: Tensor) -> Tensor:
    """The bucket of every sample: every block of successive samples goes once around, from a place of its own."""
    return (samples * _STRIDE + _mixed(samples // _BUCKETS)) & (_BUCKETS - 1)


def _mixed(numbers: Tensor) -> Tensor:
    """Mix the lower 32 bits of integers, int64 [n] to int64 [n]."""
    for _ in range(2):
        numbers = ((numbers ^ (numbers >> 16)) * _FACTOR) & _LOW
    return numbers ^ (numbers >> 16)


__all__ = ["Hashed", "Owned", "Ownership", "Ranges", "Replicated", "ownership_of"]
