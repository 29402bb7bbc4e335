"""Two kinds in one set of numbers: how many of them are of the upper kind, and where to cut.

Expectation maximisation, with two normal distributions that are to be found (`fit`) or two that are known (`share`). It
starts from the best cut into two groups (`grouping.kmeans_1d`), or from equal shares, so the same numbers give the same
answer and no draw is involved.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignprune.policies.grouping import kmeans_1d

_POINTS = 4_001  # quantiles that stand for more numbers than this: the fit then takes the same time for 100 million
_STEPS = 60
_NARROWEST = 1e-3  # least standard deviation of a component, relative to that of all numbers


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


def fit(values: NDArray[Any]) -> Mixture | None:
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
    groups = [points[points < cut[0]], points[points >= cut[0]]]
    floor = _NARROWEST * points.std()
    means = np.array([group.mean() for group in groups])
    deviations = np.array([group.std() for group in groups]) + floor
    shares = np.array([len(group) for group in groups]) / len(points)
    for _ in range(_STEPS):
        logs = np.log(shares) - np.log(deviations) - ((points[:, None] - means) / deviations) ** 2 / 2
        likely = np.exp(logs - logs.max(1, keepdims=True))
        likely /= likely.sum(1, keepdims=True)
        counts = likely.sum(0)
        if counts.min() < 1e-6 * len(points):
            break
        means = likely.T @ points / counts
        spread = (likely * (points[:, None] - means) ** 2).sum(0) / counts
        deviations, shares = np.sqrt(spread) + floor, counts / len(points)
    lower, upper = (0, 1) if means[0] <= means[1] else (1, 0)
    return Mixture(
        means=(float(means[lower]), float(means[upper])),
        deviations=(float(deviations[lower]), float(deviations[upper])),
        share=float(shares[upper]),
    )


def share(log_ratios: NDArray[Any]) -> float:
    """The most likely share of one of two kinds of which each number is, where their distributions are known.

    Args:
        log_ratios: [n], n > 0, log of the density of that kind over the density of the other, at each number.

    Returns:
        the share, in (0, 1).
    """
    ratios = np.exp(np.clip(_points(log_ratios), -_STEEPEST, _STEEPEST))
    wrong = 0.5
    for _ in range(_STEPS):
        likely = wrong * ratios / (1 - wrong + wrong * ratios)
        wrong = min(max(float(likely.mean()), _LEAST), 1 - _LEAST)
    return wrong


_STEEPEST = 30.0  # log ratios beyond this are as good as certain
_LEAST = 1e-4


def _points(values: NDArray[Any]) -> NDArray[np.float64]:
    points = values.astype(np.float64)
    return np.quantile(points, np.linspace(0, 1, _POINTS)) if len(points) > _POINTS else points
