"""The exchange: samples that a rank reads for another one, so that all ranks read as many.

Ranks that own parts select more of one part than of another, and ranks that read different numbers of batches wait for
one another for ever. So who has selected more than its share hands the surplus to who has selected less: indices and
weights go there as the epoch begins, the losses come back when it ends. Where the shares do not come out even, at most
one sample less than there are ranks is read twice, as replicated.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alignprune._ranks import Draws, Indices, smallest
from alignprune.pool import Pool

_Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Exchange:
    """Who reads what of others in an epoch; the same M samples on every rank, and this rank's part in it.

    Attributes:
        pool: the samples of all ranks.
        length: samples that every rank reads.
        samples: int64 [M], those that are handed on, in an order that is the same on every rank.
        weights: float32 [M], their weights.
        labelled: bool [M], whether they have a label.
        here: int64 [h], which of the M this rank reads for others.
        own: int64 [g], which of the M are this rank's own.
        slots: int64 [g], the slots of its own.
        kept: bool [g], those that it reads as well.
    """

    pool: Pool
    length: int
    samples: Indices
    weights: NDArray[np.float32]
    labelled: NDArray[np.bool_]
    here: Indices
    own: Indices
    slots: Indices
    kept: NDArray[np.bool_]

    @property
    def received(self) -> Indices:
        """The samples that this rank reads for others, int64 [h]."""
        return self.samples[self.here]

    @property
    def given(self) -> Indices:
        """The slots of the samples that others read instead of this rank, int64."""
        return self.slots[~self.kept]

    def slots_of(self, samples: Tensor) -> Tensor:
        """The slots of samples, int64 [B] on their device: below n its own, n + j the j-th received, -1 another's."""
        own = self.pool.ownership.slots(samples)
        if not len(self.here):
            return own
        ordered, order = self._lookup(samples.device)
        place = torch.searchsorted(ordered, samples).clamp_max_(len(ordered) - 1)
        there = torch.where(ordered[place] == samples, order[place] + self.pool.size, -1)
        return torch.where(own >= 0, own, there)

    def _lookup(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if device not in self._lookups:
            order = np.argsort(self.received, kind="stable")
            tables = (self.received[order], order)
            self._lookups[device] = tuple(torch.from_numpy(table).to(device) for table in tables)
        first, second = self._lookups[device]
        return first, second

    @cached_property
    def _lookups(self) -> dict[torch.device, tuple[Tensor, ...]]:
        return {}

    def sent_home(self, found: _Array) -> _Array:
        """What was found of the samples that this rank has handed on, by whoever has read each.

        Args:
            found: float64 [k, h], k numbers of every sample that this rank reads for others, NaN = none.

        Returns:
            float64 [k, g]; a collective, unless nothing was handed on.
        """
        if not len(self.samples):
            return found[:, :0]
        every = np.full((len(found), len(self.samples)), -np.inf)
        every[:, self.here] = np.where(np.isnan(found), -np.inf, found)
        own = self.pool.highest(every)[:, self.own]
        own[np.isneginf(own)] = np.nan
        return own


def exchange(
    pool: Pool, draws: Draws, slots: Indices, weights: _Array | None, unlabelled: _Array | None, *, even: bool = True
) -> Exchange:
    """Divide what all ranks have selected evenly among them, by two collectives at most.

    Args:
        pool: the samples of all ranks.
        draws: of the epoch: chance says who of a surplus goes.
        slots: int64 [k], ascending, what this rank has selected of its own.
        weights: float32 [k]; None = 1.
        unlabelled: bool [n], its own samples that have no label; None = all have one.
        even: whether to hand anything on; else every rank reads its own.
    """
    counts = pool.per_rank(len(slots))
    total, world, rank = int(counts.sum()), pool.ownership.world, pool.ownership.rank
    length = -(-total // world)
    surplus, lack = np.maximum(counts - length, 0), np.maximum(length - counts, 0)
    twice = int(lack.sum() - surplus.sum())
    if not even or not lack.any():
        nothing = np.empty(0, dtype=np.int64)
        none = np.empty(0, dtype=bool)
        return Exchange(pool, len(slots), nothing, none.astype(np.float32), none, nothing, nothing, nothing, none)
    handed = _drawn(draws, pool, slots, int(surplus[rank]))
    goes = len(handed)
    if rank == counts.argmax():
        stays = np.delete(np.arange(min(len(slots), goes + world)), handed[handed < goes + world])
        handed = np.concatenate([handed, np.resize(stays, twice)])
    own = slots[handed]
    sizes = surplus.copy()
    sizes[counts.argmax()] += twice
    samples, weight, labelled = pool.gathered(
        sizes,
        pool.samples_of(own),
        np.ones(len(own), dtype=np.float32) if weights is None else weights[handed],
        np.ones(len(own), dtype=bool) if unlabelled is None else ~unlabelled[own],
    )
    readers = np.repeat(np.arange(world), lack)
    start = int(sizes[:rank].sum())
    return Exchange(
        pool=pool,
        length=length,
        samples=samples,
        weights=weight,
        labelled=labelled,
        here=np.flatnonzero(readers == rank),
        own=np.arange(start, start + len(own)),
        slots=own,
        kept=np.arange(len(own)) >= goes,
    )


def _drawn(draws: Draws, pool: Pool, slots: Indices, count: int) -> Indices:
    """Which ``count`` of this rank's samples, by their keys, int64: positions among the slots."""
    if not count:
        return np.empty(0, dtype=np.int64)
    keys = draws.keys("surplus", pool.samples_of(slots))
    drawn: Indices = np.flatnonzero(keys <= smallest(keys, count))
    return drawn
