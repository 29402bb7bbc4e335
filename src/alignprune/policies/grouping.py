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

_BLOCKS = 256  # blocks a window is divided into; the work of a round grows with the square
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

    def of(self, cuts: Ints) -> float:
        """Cost of the whole partition."""
        edges = np.concatenate(([0], cuts, [self.size]))
        return float(self(edges[:-1], edges[1:]).sum())

    def refine(self, cuts: Ints) -> Ints:
        """Lloyd's steps until the cuts stand still: a good solution near a fair one."""
        for _ in range(100):
            edges = np.concatenate(([0], cuts, [self.size]))
            means = np.diff(self.sum[edges]) / np.diff(self.count[edges])
            moved = np.searchsorted(self.points, (means[1:] + means[:-1]) / 2, side="left")
            moved = _strictly_increasing(moved, self.size)
            if np.array_equal(moved, cuts):
                break
            cuts = moved
        return cuts


def _best_cuts(cost: _Cost, k: int) -> Ints:
    windows = [(cut, cost.size - k + cut) for cut in range(1, k)]  # where each cut may lie, both ends included
    if k == 2:  # one pass over all places of the only cut
        return _exact_cuts(cost, windows)
    cuts = cost.refine(_strictly_increasing(np.arange(1, k) * cost.size // k, cost.size))
    while True:
        narrowed, fair = _narrow(cost, windows, cost.of(cuts))
        better = cost.refine(_strictly_increasing(fair, cost.size))
        cuts = min(cuts, better, key=cost.of)
        if 2 * _width(narrowed) > _width(windows):
            return _exact_cuts(cost, narrowed)
        windows = narrowed


def _width(windows: list[tuple[int, int]]) -> int:
    return sum(high - low + 1 for low, high in windows)


def _narrow(cost: _Cost, windows: list[tuple[int, int]], known: float) -> tuple[list[tuple[int, int]], Ints]:
    """Windows without the outer blocks in which no partition costs as little as ``known``; and a fair partition.

    The bound of a block is the least cost of a partition whose cut lies in it, the points inside the blocks left out.
    """
    blocks = [_blocks(low, high) for low, high in windows]
    between = []
    for (start, end), (next_start, next_end) in pairwise(blocks):
        low, high = end[:, None], np.maximum(next_start[None, :], end[:, None])
        between.append(np.where(start[:, None] < next_end[None, :], cost(low, high), np.inf))
    forward = [cost(np.int64(0), blocks[0][0])]
    for step in between:
        forward.append((forward[-1][:, None] + step).min(0))
    backward = [cost(blocks[-1][1], np.int64(cost.size))]
    for step in reversed(between):
        backward.insert(0, (step + backward[0][None, :]).min(1))
    bounds = [f + b for f, b in zip(forward, backward, strict=True)]
    limit = known + _TOLERANCE * cost.square[-1]
    kept = [np.flatnonzero(bound <= limit) for bound in bounds]
    narrowed = [(int(s[i[0]]), int(e[i[-1]])) for (s, e), i in zip(blocks, kept, strict=True)]
    best = [int(bound.argmin()) for bound in bounds]
    return narrowed, np.array([(s[i] + e[i]) // 2 for (s, e), i in zip(blocks, best, strict=True)])


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


def _strictly_increasing(cuts: Ints, size: int) -> Ints:
    """The nearest cuts that leave no group empty."""
    index = np.arange(len(cuts))
    cuts = np.maximum.accumulate(np.maximum(cuts - index, 1)) + index
    room = size - len(cuts) + index
    return np.minimum(cuts, room)
