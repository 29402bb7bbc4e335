"""How probably a label is wrong, from the losses of samples that were held out.

Bayes' rule with one prior for all, the noise rate, which is what the posteriors average to. A network that is unsure of
everything starves that prior: where two groups of suspicions are clearly apart and the prior falls below half of the
upper one, each slice of the suspicions has a prior of its own, the most likely one. And a network is too sure of single
samples, so a posterior is averaged with the mean of its slice, which never rises from one slice to the next and is
smoothed.

Source: this library; `docs/label-issues.md` has how well it is calibrated.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from alignprune._checks import floor
from alignprune.policies import mixture
from alignprune.policies.onset import CLEAR

SLICE = 0.025
"""Share of the data set in a slice."""

FEWEST = 20
"""Samples with a held-out loss, below which nothing is said of a group, and the smallest slice."""

_Array = NDArray[Any]

_LOOKED = 0.1  # share of a slice that has to have been looked at
_QUANTILES = 100  # that stand for the odds of a slice
_STEPS = 100  # of the search for the noise rate, each bringing it nearer to what the posteriors average to
_STARVED = 0.5  # of the upper group: a prior below it does not hold
_LEAST = 1e-4  # bounds of the noise rate, from both ends: odds of 0 would never move
_KERNEL = np.exp(-0.5 * np.arange(-3, 4) ** 2)  # a slice on either side counts 0.6, two 0.1


class Posterior(NamedTuple):
    """How probably labels are wrong.

    Attributes:
        p_wrong: float64 [N], in [0, 1]; NaN where a sample has no suspicion.
        noise_rate: what they average to, over the samples that have one.
        judged: samples, the most suspicious first, whose slices were looked at; below them p fades to 0.
    """

    p_wrong: _Array
    noise_rate: float
    judged: int


def slices(suspicion: _Array) -> list[_Array]:
    """The samples that have a suspicion in slices of `SLICE` of all, the most suspicious first.

    Args:
        suspicion: float [N], higher = more probably wrong, NaN = no score.

    Returns:
        int64 indices of each slice; the last one may be shorter.
    """
    known = np.flatnonzero(~np.isnan(suspicion))
    order = known[np.argsort(-suspicion[known], kind="stable")]
    step = max(FEWEST, floor(SLICE * len(suspicion)))
    return [order[start : start + step] for start in range(0, len(order), step)]


def posterior(suspicion: _Array, odds: _Array) -> Posterior | None:
    """Judge all samples by those that were looked at.

    Args:
        suspicion: float [N], higher = more probably wrong, NaN = no score.
        odds: float [N], `robust.log_odds_of_wrong` of the held-out losses, NaN = not looked at.

    Returns:
        the posterior; None where not even the most suspicious slice was looked at.
    """
    parts = _judged(slices(suspicion), odds)
    seen = [odds[part][~np.isnan(odds[part])] for part in parts]
    if not seen:
        return None
    sizes = np.array([len(part) for part in parts])
    points = np.stack([np.quantile(looked, (np.arange(_QUANTILES) + 0.5) / _QUANTILES) for looked in seen])
    known = int((~np.isnan(suspicion)).sum())
    shares, rate = _with_one_prior(points, sizes, known)
    priors = np.full(len(parts), rate)
    groups = mixture.fit(suspicion[~np.isnan(suspicion)])
    if groups is not None and groups.separation >= CLEAR and rate < _STARVED * groups.share:
        priors = shares = _falling(np.array([mixture.share(looked) for looked in seen]), sizes)
    p_wrong = np.full(len(suspicion), math.nan)
    order = np.concatenate(slices(suspicion))
    p_wrong[order] = _curve(shares, sizes, known)
    for part, prior in zip(parts, priors.tolist(), strict=True):
        looked = part[~np.isnan(odds[part])]
        p_wrong[looked] = (p_wrong[looked] + _sigmoid(odds[looked] + math.log(prior / (1 - prior)))) / 2
    return Posterior(p_wrong, float(np.nanmean(p_wrong)), int(sizes.sum()))


def _judged(parts: list[_Array], odds: _Array) -> list[_Array]:
    """The slices of which enough were looked at; one that has too few is joined with those that follow it."""
    found, held = [], np.zeros(0, dtype=np.int64)
    for part in parts:
        held = np.concatenate([held, part])
        if np.count_nonzero(~np.isnan(odds[held])) >= max(min(FEWEST, len(held)), _LOOKED * len(held)):
            found.append(held)
            held = held[:0]
    return found


def _with_one_prior(points: _Array, sizes: _Array, known: int) -> tuple[_Array, float]:
    """The mean posteriors of the slices with the noise rate as the prior, and that rate."""
    rate = 0.5
    for _ in range(_STEPS):
        shares = _falling(_sigmoid(points + math.log(rate / (1 - rate))).mean(1), sizes)
        rate = min(max(float(shares @ sizes) / known, _LEAST), 1 - _LEAST)
    return shares, rate


def _falling(values: _Array, weights: _Array) -> _Array:
    """The nearest sequence that never rises, in the mean square (pool adjacent violators)."""
    pools: list[tuple[float, float, int]] = []  # mean, weight, members
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        mean, total, count = value, float(weight), 1
        while pools and pools[-1][0] < mean:
            before, held, members = pools.pop()
            mean, total, count = (mean * total + before * held) / (total + held), total + held, count + members
        pools.append((mean, total, count))
    return np.concatenate([np.full(count, mean) for mean, _, count in pools])


def _curve(shares: _Array, sizes: _Array, known: int) -> _Array:
    """The shares as a smooth function of the rank, [known]: from slice to slice, and down to 0 behind the last one."""
    step = max(1, int(sizes.min()))
    centres = np.arange(step / 2, known + step, step)
    steps = np.where(
        centres < sizes.sum(), shares[np.searchsorted(sizes.cumsum(), centres).clip(max=len(shares) - 1)], 0
    )
    padded = np.pad(steps, len(_KERNEL) // 2, mode="edge")
    smooth = np.convolve(padded, _KERNEL / _KERNEL.sum(), mode="valid")
    curve: _Array = np.interp(np.arange(known) + 0.5, centres, smooth)
    return curve


def _sigmoid(x: _Array) -> _Array:
    return 0.5 * (1 + np.tanh(0.5 * x))
