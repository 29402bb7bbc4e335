"""Two kinds in one set of numbers: how many of them are of the upper kind, and where to cut.

Expectation maximisation, with two normal distributions that are to be found (`fit`) or two that are known (`share`). It
starts from the best cut into two groups (`grouping.kmeans_1d`), or from equal shares, so the same numbers give the same
answer and no draw is involved.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from alignprune.policies.grouping import kmeans_1d

_Array = NDArray[Any]
_Floats = NDArray[np.float64]

_POINTS = 4_001  # quantiles that stand for more numbers than this: the fit then takes the same time for 100 million
_SHARES = np.linspace(0, 1, _POINTS)
_STEPS = 60
_NARROWEST = 1e-3  # least standard deviation of a component, relative to that of all numbers
_STILL = 1e-12  # a step that moves nothing by more is the last one
_STEEPEST = 30.0  # log ratios beyond this are as good as certain
_LEAST = 1e-4  # bounds of a share, from both ends: odds of 0 would never move


@dataclass(frozen=True)
class Mixture:
    """Two normal components, the lower first.

    Attributes:
        means, deviations: of the components.
        share: of the upper component, in [0, 1].
    """

    means: tuple[float, float]
    deviations: tuple[float, float]
    share: float

    @property
    def separation(self) -> float:
        """Ashman's D: distance of the means over the root mean square of the deviations; clearly two from 2 on.

        Source: Ashman, Bird and Zepf, "Detecting Bimodality in Astronomical Datasets" (Astron. J. 108, 1994).
        """
        low, high = self.deviations
        return (self.means[1] - self.means[0]) / math.sqrt((low * low + high * high) / 2)

    @property
    def cut(self) -> float:
        """Number above which the upper component is the more likely one; inf where it never is, above the lower mean.

        Beyond the cut the lower component may become the more likely one again, being the wider; that is its tail, and
        not meant.
        """
        (m0, m1), (s0, s1) = self.means, self.deviations
        odds = self._log_odds(m0)
        if odds >= 0:
            return m0
        # At m0 + x the log odds are odds + slope * x + bend * x^2.
        slope = (m1 - m0) / s1**2
        bend = (1 / s0**2 - 1 / s1**2) / 2
        inside = slope * slope - 4 * bend * odds
        if self.share == 0 or inside <= 0:
            return math.inf
        return m0 - 2 * odds / (slope + math.sqrt(inside))

    def _log_odds(self, x: float) -> float:
        if self.share in (0.0, 1.0):
            return math.inf if self.share else -math.inf
        z = [(x - mean) / deviation for mean, deviation in zip(self.means, self.deviations, strict=True)]
        odds = math.log(self.share / (1 - self.share)) - math.log(self.deviations[1] / self.deviations[0])
        return odds + (z[0] ** 2 - z[1] ** 2) / 2


def fit(values: _Array) -> Mixture | None:
    """Fit a mixture of two normal distributions.

    Args:
        values: finite numbers [n], in any order.

    Returns:
        the mixture; None for fewer than two different numbers.
    """
    points = _points(values)
    cut = kmeans_1d(points, 2) if len(points) else points
    if not len(cut):
        return None
    middle, scale = float(points.mean()), float(points.std())
    x = (points - middle) / scale
    powers = np.stack([np.ones_like(x), x, x * x])
    either, likely = powers.sum(1), (points >= cut[0]).astype(np.float64)
    parts = _parts(either, powers @ likely)
    with np.errstate(over="ignore"):  # beyond a float64 a point is of one component as good as certainly
        for _ in range(_STEPS):
            np.exp(np.matmul(_lower_odds(*parts), powers, out=likely), out=likely)
            np.divide(1.0, np.add(likely, 1.0, out=likely), out=likely)
            upper = powers @ likely
            if not 1e-6 <= upper[0] / len(x) <= 1 - 1e-6:
                break
            before, parts = parts, _parts(either, upper)
            if parts == before:  # so would be every step that follows: the same numbers to the last bit
                break
    lower, upper = sorted(parts)
    return Mixture(
        means=(middle + scale * lower.mean, middle + scale * upper.mean),
        deviations=(scale * lower.deviation, scale * upper.deviation),
        share=upper.share,
    )


class _Part(NamedTuple):
    """A normal component and its share."""

    mean: float
    deviation: float
    share: float


def _parts(either: _Floats, upper: _Floats) -> tuple[_Part, _Part]:
    """The two components, by the sums of the powers 0, 1 and 2 of all points and of those of the upper one."""
    parts = []
    for count, first, second in ((either - upper).tolist(), upper.tolist()):
        mean = first / count
        deviation = math.sqrt(max(second / count - mean * mean, 0.0)) + _NARROWEST
        parts.append(_Part(mean, deviation, count / float(either[0])))
    return parts[0], parts[1]


def _lower_odds(lower: _Part, upper: _Part) -> list[float]:
    """Log odds of a point x to be of the lower component, the coefficients of 1, x and x^2."""
    low, high = 0.5 / lower.deviation**2, 0.5 / upper.deviation**2
    level = math.log(lower.share / upper.share * upper.deviation / lower.deviation)
    return [level - low * lower.mean**2 + high * upper.mean**2, 2 * (low * lower.mean - high * upper.mean), high - low]


def share(log_ratios: _Array) -> float:
    """The most likely share of one of two kinds of which each number is, where their distributions are known.

    Args:
        log_ratios: [n], n > 0, log of the density of that kind over the density of the other, at each number.

    Returns:
        the share, in (0, 1).
    """
    return float(shares([log_ratios])[0])


def shares(groups: Sequence[_Array]) -> _Floats:
    """The `share` of each of some groups of numbers, float64 [groups]."""
    points = [_points(group) for group in groups]
    sizes = np.array([[len(part)] for part in points])
    ratios = np.zeros((len(points), sizes.max()))  # a ratio of 0 adds nothing to a share
    for row, part in zip(ratios, points, strict=True):
        row[: len(part)] = np.exp(np.clip(part, -_STEEPEST, _STEEPEST))
    likely, ones, wrong = np.empty_like(ratios), np.ones((ratios.shape[1], 1)), np.full(sizes.shape, 0.5)
    for _ in range(_STEPS):
        np.divide(ratios, np.add(ratios, 1 / wrong - 1, out=likely), out=likely)
        before, wrong = wrong, np.minimum(np.maximum(likely @ ones / sizes, _LEAST), 1 - _LEAST)
        if np.abs(wrong - before).max() < _STILL:
            break
    return wrong[:, 0]


def quantiles(ordered: _Array, shares: _Floats) -> _Floats:
    """The numbers below which these shares of ascending numbers lie, linear between neighbours."""
    place = (len(ordered) - 1) * shares
    below = np.floor(place).astype(np.int64)
    part = place - below
    low, high = ordered[below], ordered[np.minimum(below + 1, len(ordered) - 1)]
    between: _Floats = np.where(part < 0.5, low + (high - low) * part, high - (high - low) * (1 - part))
    return between


def _points(values: _Array) -> _Floats:
    """What stands for the values: float64, ascending."""
    ordered = _ascending(values).astype(np.float64)
    return quantiles(ordered, _SHARES) if len(ordered) > _POINTS else ordered


def _ascending(values: _Array) -> _Array:
    """The values in order; to see that they are, from one end or the other, takes a thirtieth of sorting them."""
    if (values[1:] >= values[:-1]).all():
        return values
    return values[::-1] if (values[1:] <= values[:-1]).all() else np.sort(values)
