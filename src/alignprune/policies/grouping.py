"""Optimal k-means in one dimension: the groups in which SeTa slides its window.

In one dimension the groups are intervals of the sorted values, so k - 1 cuts describe them. Where each cut can lie
is narrowed first: blocks of cut positions whose lower bound exceeds the cost of a known partition are dropped.
Dynamic programming over the positions that remain then gives the global optimum, at a cost near that of sorting.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_BLOCKS = 192  # blocks a window is divided into; the work of a round grows with the square
_GRID = 128  # places that a cut is looked for at first
_FINER = 33  # and then, between two of them
_TOLERANCE = 1e-12  # of the total sum of squares: below the rounding of its prefix sums


def kmeans_1d(values: NDArray[Any], k: int) -> Floats:
    """Cut values into the k groups with the least within-group sum of squares.

    Args:
        values: finite numbers [n], n >= 1, in any order.
        k: groups wanted, at least 1.

    Returns:
        float64 thresholds [g - 1], ascending, g = min(k, number of distinct values): group j holds the values v with
        ``thresholds[j-1] <= v < thresholds[j]``; ``numpy.searchsorted(thresholds, v, side="right")`` is the group.

    Source: the objective of SeTa's grouping (Zhou et al., CVPR 2025), solved exactly instead of by Lloyd's steps.
    """
    ordered = np.sort(values)
    first = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    points = ordered[first].astype(np.float64)
    if k >= len(points):
        return points[1:]
    if k == 1:
        return points[:0]
    cost = _Cost(points, np.diff(np.append(first, len(ordered))))
    return points[_best_cuts(cost, k)]


class _Cost:
    """Sum of squares around the mean of any run of distinct points [a, b), from prefix sums."""

    def __init__(self, points: Floats, counts: Ints) -> None:
        centred = points - np.average(points, weights=counts)
        self.size = len(points)
        self.points = centred
        self.count = np.concatenate(([0.0], np.cumsum(counts, dtype=np.float64)))
        self.sum = np.concatenate(([0.0], np.cumsum(counts * centred)))
        self.square = np.concatenate(([0.0], np.cumsum(counts * centred**2)))

    def __call__(self, a: Ints, b: Ints) -> Floats:
        """Cost of [a, b), elementwise with broadcasting; 0 where the run is empty."""
        count = self.count[b] - self.count[a]
        total = self.sum[b] - self.sum[a]
        spread = self.square[b] - self.square[a]
        spread -= total * total / np.maximum(count, 1.0)
        return np.where(count > 0, np.maximum(spread, 0.0), 0.0)

    def outer(self, a: Ints, b: Ints) -> Floats:
        """Cost of [a, b) for every pair, [len(a), len(b)]; 0 where the run is empty."""
        count, total, spread = (sums[b] - sums[a][:, None] for sums in (self.count, self.sum, self.square))
        total *= total
        total /= np.maximum(count, 1.0)
        spread -= total
        np.maximum(spread, 0.0, out=spread)
        spread[count <= 0] = 0.0
        return spread

    def of(self, cuts: Ints) -> float:
        """Cost of the whole partition."""
        edges = np.concatenate(([0], cuts, [self.size]))
        return float(self(edges[:-1], edges[1:]).sum())


def _best_cuts(cost: _Cost, k: int) -> Ints:
    windows = [(cut, cost.size - k + cut) for cut in range(1, k)]  # where each cut may lie, both ends included
    if k == 2:  # one pass over all places of the only cut
        return _exact_cuts(cost, windows)
    known = cost.of(_fair_cuts(cost, k))
    while True:
        narrowed = _narrow(cost, windows, known)
        if 2 * _width(narrowed) > _width(windows):
            return _exact_cuts(cost, narrowed)
        windows = narrowed


def _fair_cuts(cost: _Cost, k: int) -> Ints:
    """A good partition: the best of a coarse grid, then of ever finer ones between the neighbours of its cuts."""
    grid = _coarse(cost, max(_GRID, 8 * k))
    middles = np.arange(1, k) * len(grid) // k
    places = [grid[max(0, middle - _GRID // 2) : middle + _GRID // 2] for middle in middles]
    while True:
        cuts = _best_of(cost, places)
        ends = [_neighbours(place, cut) for place, cut in zip(places, cuts, strict=True)]
        if all(high - low <= 2 for low, high in ends):
            return cuts
        places = [
            np.unique(np.append(np.linspace(low, high, _FINER, dtype=np.int64), cut))
            for (low, high), cut in zip(ends, cuts, strict=True)
        ]


def _coarse(cost: _Cost, size: int) -> Ints:
    """Places for cuts, half of them at equal distances by rank, half of them by value."""
    by_rank = np.arange(1, size // 2) * cost.size // (size // 2)
    by_value = np.searchsorted(cost.points, np.linspace(cost.points[0], cost.points[-1], size // 2))
    return np.unique(np.clip(np.concatenate([by_rank, by_value]), 1, cost.size - 1))


def _neighbours(places: Ints, cut: Any) -> tuple[int, int]:
    at = int(np.searchsorted(places, cut))
    return int(places[max(0, at - 1)]), int(places[min(len(places) - 1, at + 1)])


def _best_of(cost: _Cost, places: list[Ints]) -> Ints:
    """The best partition whose cuts lie in these places."""
    least, choices = cost(np.int64(0), places[0]), []
    for first, second in pairwise(places):
        paths = least[:, None] + np.where(first[:, None] < second, cost.outer(first, second), np.inf)
        choices.append(paths.argmin(0))
        least = paths.min(0)
    index = [int((least + cost(places[-1], np.int64(cost.size))).argmin())]
    for choice in reversed(choices):
        index.insert(0, int(choice[index[0]]))
    return np.array([place[i] for place, i in zip(places, index, strict=True)])


def _width(windows: list[tuple[int, int]]) -> int:
    return sum(high - low + 1 for low, high in windows)


def _narrow(cost: _Cost, windows: list[tuple[int, int]], known: float) -> list[tuple[int, int]]:
    """Windows without the outer blocks in which no partition costs as little as ``known``.

    The bound of a block is the least cost of a partition whose cut lies in it, the points inside the blocks left out.
    """
    blocks = [_blocks(low, high) for low, high in windows]
    between = []
    for (start, end), (next_start, next_end) in pairwise(blocks):
        between.append(np.where(start[:, None] < next_end, cost.outer(end, next_start), np.inf))
    forward = [cost(np.int64(0), blocks[0][0])]
    for step in between:
        forward.append((forward[-1][:, None] + step).min(0))
    backward = [cost(blocks[-1][1], np.int64(cost.size))]
    for step in reversed(between):
        backward.insert(0, (step + backward[0][None, :]).min(1))
    bounds = [f + b for f, b in zip(forward, backward, strict=True)]
    limit = known + _TOLERANCE * cost.square[-1]
    kept = [np.flatnonzero(bound <= limit) for bound in bounds]
    return [(int(s[i[0]]), int(e[i[-1]])) for (s, e), i in zip(blocks, kept, strict=True)]


def _blocks(low: int, high: int) -> tuple[Ints, Ints]:
    width = -(-(high - low + 1) // _BLOCKS)
    start = np.arange(low, high + 1, width)
    return start, np.minimum(start + width - 1, high)


def _exact_cuts(cost: _Cost, windows: list[tuple[int, int]]) -> Ints:
    """Dynamic programming over every cut position of the windows."""
    least = cost(np.int64(0), np.arange(windows[0][0], windows[0][1] + 1))
    choices = []
    for (low, _), (next_low, next_high) in pairwise(windows):
        least, choice = _monotone_minima(cost, least, low, np.arange(next_low, next_high + 1))
        choices.append(choice)
    last = least + cost(np.arange(windows[-1][0], windows[-1][1] + 1), np.int64(cost.size))
    index = [int(last.argmin())]
    for choice in reversed(choices):
        index.insert(0, int(choice[index[0]]))
    return np.array([low + i for (low, _), i in zip(windows, index, strict=True)])


def _monotone_minima(cost: _Cost, least: Floats, low: int, cuts: Ints) -> tuple[Floats, Ints]:
    """For every cut b, min over a of least[a] + cost(low + a, b), and its a.

    The best a never falls as b grows, so the cuts are visited by halving strides, each between its neighbours' a.
    """
    size, columns = len(cuts), len(least)
    minima, choice = np.empty(size), np.zeros(size, dtype=np.int64)
    stride = 1 << (size - 1).bit_length()
    while stride:
        rows = np.arange(stride - 1, size, 2 * stride)
        if len(rows):
            first = np.where(rows >= stride, choice[np.maximum(rows - stride, 0)], 0)
            last = np.where(rows + stride < size, choice[np.minimum(rows + stride, size - 1)], columns - 1)
            lengths = last - first + 1
            offsets = np.cumsum(lengths) - lengths
            row = np.repeat(np.arange(len(rows)), lengths)
            a = np.arange(len(row)) - offsets[row] + first[row]
            b = cuts[rows][row]
            values = np.where(low + a < b, least[a] + cost(np.minimum(low + a, b), b), np.inf)
            best = np.minimum.reduceat(values, offsets)
            minimal = np.flatnonzero(values == best[row])[::-1]  # reversed: the first of equal minima is written last
            minima[rows] = best
            choice[rows[row[minimal]]] = a[minimal]
        stride //= 2
    return minima, choice
