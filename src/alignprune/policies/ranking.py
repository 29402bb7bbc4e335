"""Samples in the order of their suspicion, which everything that flags them is read from.

A rank is a sample's place in that order, from 0, the most suspicious one's. What is known of the samples is laid out by
rank once; whoever is above a threshold is then a slice.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignprune._checks import floor

SLICE = 0.025
"""Share of the data set in a slice."""

FEWEST = 20
"""Samples with a held-out loss, below which nothing is said of a group, and the smallest slice."""


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
