"""How probably a label is wrong, from the losses of samples that were held out.

Bayes' rule with one prior for all, the noise rate, which is what the posteriors average to. A network that is unsure of
everything starves that prior: where two groups of suspicions are clearly apart and the prior falls below half of the
upper one, each slice of the suspicions has a prior of its own, the most likely one. And a network is too sure of single
samples, so a posterior is averaged with the mean of its slice, which never rises from one slice to the next and is
smoothed.

Where people confuse classes the losses find too few labels wrong, since the network has learned to confuse them as
well. What it predicts tells how many are missing, and `weight_of_predictions` lets predictions speak as far as makes up
for them.

Source: this library; `docs/label-issues.md` has how well it is calibrated.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from alignprune.policies import mixture
from alignprune.policies.mixture import Mixture
from alignprune.policies.onset import CLEAR
from alignprune.policies.ranking import FEWEST, by_suspicion, slice_size

_Array = NDArray[Any]

_LOOKED = 0.1  # share of a slice that has to have been looked at
_QUANTILES = (np.arange(100) + 0.5) / 100  # that stand for the odds of a slice
_STEPS = 100  # of the search for the noise rate, each bringing it nearer to what the posteriors average to
_STILL = 1e-12  # a step that moves the rate by no more is the last one
_STARVED = 0.5  # of the upper group: a prior below it does not hold
_LEAST = 1e-4  # bounds of the noise rate, from both ends: odds of 0 would never move
_LARGEST = 600.0  # odds, in nats, whose ratio a float64 holds, a prior's included
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


class Rule(NamedTuple):
    """What the samples that were looked at say of all, as a function of the rank and of a sample's own odds.

    Attributes:
        centres, shares: float64 [k], ranks and the probability there, without a look; linear between them.
        ends: int64 [slices], ranks at which the slices end that were looked at, ascending.
        priors: float32 [slices], log odds of a label there to be wrong, before it is looked at.
    """

    centres: _Array
    shares: _Array
    ends: _Array
    priors: _Array

    @property
    def judged(self) -> int:
        """Ranks that were looked at; below them p fades to 0."""
        return int(self.ends[-1])

    def p_wrong(self, odds: _Array, places: _Array | None = None) -> _Array:
        """How probably labels are wrong.

        Args:
            odds: float [n], of the samples, NaN = not looked at.
            places: float64 [n], where they stand among the ranks; None = the odds are by rank.

        Returns:
            float64 [n].
        """
        places = np.arange(len(odds)) + 0.5 if places is None else places
        p: _Array = np.interp(places, self.centres, self.shares)
        looked = np.flatnonzero(~np.isnan(odds) & (places < self.judged))
        priors = self.priors[np.searchsorted(self.ends, places[looked], side="right")]
        p[looked] = (p[looked] + _sigmoid(odds[looked] + priors)) / 2
        return p


def weight_of_predictions(p_wrong: _Array, agreement: _Array) -> float:
    """How far predictions speak beside losses: as far as explains how few labels the network meets.

    Of hard samples with right labels about half are met while they are held out, of wrong labels hardly any. So of L
    samples that were looked at, M of which are met, L - 2 M at least are wrong. Where losses find fewer, the weight w
    lets `contradicted` find as many: with p and the agreement a of the samples that were looked at,

        sum of 1 - (1 - p) (1 - w (1 - a)) = L - 2 M,    M = sum of a.

    Args:
        p_wrong: float [n], how probably labels are wrong, by losses.
        agreement: float [n], `Ledger.agreement`, how often a sample was met while it was held out; NaN = not looked at.

    Returns:
        w in [0, 1]; 0 where losses explain it, or too few samples were looked at.
    """
    looked = np.flatnonzero(~np.isnan(agreement) & ~np.isnan(p_wrong))
    if len(looked) < FEWEST:
        return 0.0
    p, met = p_wrong[looked].astype(np.float64), agreement[looked].astype(np.float64)
    missing, gained = len(looked) - 2 * float(met.sum()) - float(p.sum()), float(((1 - p) * (1 - met)).sum())
    return min(1.0, missing / gained) if missing > 0 and gained > 0 else 0.0


def contradicted(p_wrong: _Array, agreement: _Array, weight: float) -> _Array:
    """How probably labels are wrong by losses or, with some weight, by predictions: 1 - (1 - p) (1 - w (1 - a)).

    Args:
        p_wrong: float [n], by losses.
        agreement: float [n], as in `weight_of_predictions`; a sample that was not looked at keeps its p.
        weight: of the predictions.
    """
    if not weight:
        return p_wrong
    combined: _Array = p_wrong + (1 - p_wrong) * weight * np.where(np.isnan(agreement), 0.0, 1.0 - agreement)
    return combined


def posterior(suspicion: _Array, odds: _Array) -> Posterior | None:
    """Judge all samples by those that were looked at.

    Args:
        suspicion: float [N], higher = more probably wrong, NaN = no score.
        odds: float [N], `robust.log_odds_of_wrong` of the held-out losses, NaN = not looked at.

    Returns:
        the posterior; None where not even the most suspicious slice was looked at.
    """
    order = by_suspicion(suspicion)
    found = rule(odds[order], len(suspicion), mixture.fit(suspicion[order]))
    if found is None:
        return None
    p_wrong = np.full(len(suspicion), math.nan)
    p_wrong[order] = found.p_wrong(odds[order])
    return Posterior(p_wrong, float(np.nanmean(p_wrong)), found.judged)


def rule(odds: _Array, num_samples: int, groups: Mixture | None) -> Rule | None:
    """Find what the samples that were looked at say of all.

    Args:
        odds: float [n] by rank, `robust.log_odds_of_wrong` of the held-out losses, NaN = not looked at.
        num_samples: size N of the data set, those without a suspicion included.
        groups: `mixture.fit` of the suspicions.

    Returns:
        the rule; None where not even the most suspicious slice was looked at.
    """
    looked = np.flatnonzero(~np.isnan(odds))
    ends = _ends(looked, len(odds), slice_size(num_samples))
    if not len(ends):
        return None
    sizes = np.diff(ends, prepend=0)
    seen = [np.sort(part) for part in np.split(odds[looked], np.searchsorted(looked, ends))[:-1]]
    points = np.stack([mixture.quantiles(part, _QUANTILES) for part in seen])
    shares, rate = _with_one_prior(points, sizes, len(odds))
    priors = np.full(len(seen), rate)
    if groups is not None and groups.separation >= CLEAR and rate < _STARVED * groups.share:
        priors = shares = _falling(mixture.shares(seen), sizes)
    return Rule(*_curve(shares, sizes, len(odds)), ends, np.log(priors / (1 - priors)).astype(odds.dtype))


def _ends(looked: _Array, known: int, step: int) -> _Array:
    """Where the slices end of which enough were looked at; one that has too few is joined with those that follow it."""
    edges = np.append(np.arange(step, known, step), known)
    ends, start, before = [], 0, 0
    for end, count in zip(edges.tolist(), np.searchsorted(looked, edges).tolist(), strict=True):
        if count - before >= max(min(FEWEST, end - start), _LOOKED * (end - start)) and end > start:
            ends.append(end)
            start, before = end, count
    return np.array(ends, dtype=np.int64)


def _with_one_prior(points: _Array, sizes: _Array, known: int) -> tuple[_Array, float]:
    """The mean posteriors of the slices with the noise rate as the prior, and that rate."""
    ratios = np.exp(points.clip(-_LARGEST, _LARGEST)).ravel()
    weights = np.repeat(sizes / (known * len(_QUANTILES)), len(_QUANTILES))
    likely, rate = np.empty_like(ratios), 0.5
    for _ in range(_STEPS):
        np.divide(ratios, np.add(ratios, 1 / rate - 1, out=likely), out=likely)
        before, rate = rate, min(max(float(likely @ weights), _LEAST), 1 - _LEAST)
        if abs(rate - before) < _STILL:
            break
    return _falling(likely.reshape(points.shape).mean(1), sizes), rate


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


def _curve(shares: _Array, sizes: _Array, known: int) -> tuple[_Array, _Array]:
    """The knots of the shares as a smooth function of the rank, which goes down to 0 behind the last slice."""
    step = max(1, int(sizes.min()))
    centres = np.arange(step / 2, known + step, step)
    steps = np.where(
        centres < sizes.sum(), shares[np.searchsorted(sizes.cumsum(), centres).clip(max=len(shares) - 1)], 0
    )
    padded = np.pad(steps, len(_KERNEL) // 2, mode="edge")
    return centres, np.convolve(padded, _KERNEL / _KERNEL.sum(), mode="valid")


def _sigmoid(x: _Array) -> _Array:
    return 0.5 * (1 + np.tanh(0.5 * x))
