"""Samples in the order of their suspicion, which everything that flags them is read from.

A rank is a sample's place in that order, from 0, the most suspicious one's. What is known of the samples is laid out by
rank once; whoever is above a threshold is then a slice. Where the samples are many it is the panel that is laid out,
and others stand between two of its ranks.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignprune._checks import floor
from alignprune._ranks import Indices
from alignprune.policies.contract import Evidence

_Array = NDArray[Any]

SLICE = 0.025
"""Share of the data set in a slice."""

FEWEST = 20
"""Samples with a held-out loss, below which nothing is said of a group, and the smallest slice."""


class Ranking:
    """The panel of an epoch by rank, and where all other samples stand in it.

    Args:
        evidence: of the epoch.
        columns: [n] each, what else is known of the samples that this rank remembers.

    Attributes:
        size: samples in the panel, those without a suspicion included.
        suspicion: float [m] by rank, of the panel's samples that have one.
        columns: [m] each, by rank.
    """

    def __init__(self, evidence: Evidence, *columns: _Array) -> None:
        self._own, self._pool = evidence.suspicion.numpy(), evidence.pool
        panel, *known = evidence.pool.panel(self._own, *columns)
        self._order = by_suspicion(panel)
        self._whole = panel is self._own
        self.size = len(panel)
        self.suspicion = panel[self._order]
        self.columns = [column[self._order] for column in known]

    @property
    def scale(self) -> float:
        """How many samples stand behind one of the panel's."""
        return self._pool.num_samples / self.size

    def first(self, count: int) -> NDArray[np.bool_]:
        """The ``count`` most suspicious samples of all, those of them that this rank remembers, bool [n]."""
        mask = np.zeros(len(self._own), dtype=bool)
        if self._whole:
            mask[self._order[:count]] = True
        else:
            known = np.flatnonzero(~np.isnan(self._own))
            mask[self._pool.least(-self._own[known], known, count)] = True
        return mask

    def places(self, slots: Indices) -> NDArray[np.float64]:
        """Where samples stand among the panel's ranks: r + 0.5 for that of rank r, r between r - 1 and r."""
        if self._whole:
            return self._place[slots]
        sought = -self._own[slots]
        ends = [np.searchsorted(-self.suspicion, sought, side=side) for side in ("left", "right")]
        middle: NDArray[np.float64] = (ends[0] + ends[1]) / 2
        return middle

    @cached_property
    def _place(self) -> NDArray[np.float64]:
        place = np.full(len(self._own), np.inf)
        place[self._order] = np.arange(len(self._order)) + 0.5
        return place


def by_suspicion(suspicion: NDArray[Any]) -> NDArray[np.int64]:
    """The samples that have a suspicion, the most suspicious first, equals in their own order.

    Args:
        suspicion: float [N], higher = more probably wrong, NaN = no score.

    Returns:
        int64 [n].
    """
    known = np.flatnonzero(~np.isnan(suspicion))
    values = suspicion[known]
    if values.dtype != np.float32:
        order: NDArray[np.int64] = known[np.argsort(-values, kind="stable")]
        return order
    # The bits of a float32 are in the order of its magnitude: turned and put before the sample's number, they make one
    # integer to sort by, which takes a tenth of the time of a stable sort of the positions.
    values += 0.0  # -0 to 0
    bits = values.view(np.int32)
    falling = bits >> 31
    falling &= 0x7FFFFFFF
    falling ^= bits
    keys: NDArray[np.int64] = np.invert(falling, out=falling).astype(np.int64)
    keys <<= 32
    keys |= known
    keys.sort()
    keys &= 0xFFFFFFFF
    return keys


def slice_size(num_samples: int) -> int:
    """Samples in a slice, the last one's may be fewer."""
    return max(FEWEST, floor(SLICE * num_samples))
