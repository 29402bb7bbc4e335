"""How probably each label is wrong: the posterior by held-out losses, predictions, and flips that go one way only.

Losses find labels that the network finds improbable. Where one class is often given for another the network learns to
expect it, and losses say little. But mistakes between look-alike classes go both ways about as often. So of the samples
that are given y while the network says a, those in excess of the samples that are given a while it says y are flips:
``1 - n(a, y) / n(y, a)`` of them, where the excess is larger than chance makes any of the pairs. Where nobody was held
out that is left alone: against probabilities that are too low it would decide the whole order, and it is often a class
that the network likes to say.

Where people confuse classes the network has learned to confuse them as well, and its losses find most of them right.
How few labels it meets while they are held out says how many are missing, and so far a label is also wrong as often as
it was not met (`policies.posterior.weight_of_predictions`), as `robust` judges itself.

Source: this library; `docs/label-issues.md` has how well it is calibrated, and what each part adds.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from alignprune.audit.facts import Facts
from alignprune.policies import mixture
from alignprune.policies.onset import CLEAR
from alignprune.policies.posterior import Posterior, contradicted, posterior, weight_of_predictions
from alignprune.policies.robust import log_odds_of_wrong

_Array = NDArray[Any]

_CONFUSED = 0.25  # as `Robust.confused`
_CHANCE = 0.05  # of an excess in any of the pairs where flips go both ways
_SIDES = 1.96  # standard deviations on either side that hold 95 %
_TIES = 1e-3  # of the label score, over which equally probable labels are spread by their suspicions, at most


class Judgement(NamedTuple):
    """How probably labels are wrong.

    Attributes:
        p_wrong: float64 [N], in [0, 1]; NaN for samples without a label, or never seen, and for all where the labels
            are of one class.
        label_score: float64 [N], in [0, 1], low = probably wrong: 1 - p_wrong, but for less than 0.002; it is in the
            order of p_wrong, ties in that of the suspicions. NaN as p_wrong.
        noise_rate: mean of p_wrong; NaN where there is none.
        low, high: the least and the largest of the estimates that there are, less and more what chance makes of labels
            that are as probably wrong as these, 95 % of the time.
        held_out: whether samples were judged by losses of samples that were held out; else, where there are too few
            of them, by their mean losses.
    """

    p_wrong: _Array
    label_score: _Array
    noise_rate: float
    low: float
    high: float
    held_out: bool


def judge(facts: Facts, codes: _Array, num_classes: int) -> Judgement:
    """Judge all labels.

    Args:
        facts: of the run.
        codes: int32 [N], given class ids as predictions name classes, -1 = unlabelled.
        num_classes: C.
    """
    suspicion = np.where(codes < 0, math.nan, facts.suspicion)
    judged, held_out = _by_losses(facts, suspicion, codes)
    if judged is None:
        nothing = np.full(len(facts), math.nan)
        return Judgement(nothing, nothing, math.nan, math.nan, math.nan, held_out)
    groups = mixture.fit(suspicion[~np.isnan(suspicion)])
    p_wrong = judged.p_wrong
    if held_out:
        against = _disagreement(facts)
        p_wrong = contradicted(p_wrong, facts.agreement, weight_of_predictions(p_wrong, facts.agreement))
        # Counted from a quarter of the predictions on, wholly from three quarters: what the network says early and
        # drops soon is no flip, though it may all go one way.
        counted = np.clip(2 * against - 0.5, 0, 1)
        one_way = excess_of_flips(codes, facts.alternative, counted, num_classes) * np.minimum(1, 2 * against)
        p_wrong = 1 - (1 - p_wrong) * (1 - one_way)
    rates = [float(np.nanmean(p_wrong))]
    if groups is not None and groups.separation >= CLEAR:
        rates.append(groups.share)
    chance = _SIDES * math.sqrt(float(np.nansum(p_wrong * (1 - p_wrong)))) / max(1, int((~np.isnan(p_wrong)).sum()))
    low, high = max(0.0, min(rates) - chance), min(1.0, max(rates) + chance)
    return Judgement(p_wrong, _label_score(p_wrong, suspicion), rates[0], low, high, held_out)


def _by_losses(facts: Facts, suspicion: _Array, codes: _Array) -> tuple[Posterior | None, bool]:
    """The posterior, None where there is nothing to judge by, and whether it is by losses of held-out samples."""
    labels = codes[codes >= 0]
    if not len(labels) or (labels == labels[0]).all():  # there is no other class that a label could be
        return None, False
    judged = posterior(suspicion, log_odds_of_wrong(facts.held_out, codes, _CONFUSED))
    if judged is not None:
        return judged, True
    return posterior(suspicion, log_odds_of_wrong(facts.mean_loss, codes, _CONFUSED)), False


def excess_of_flips(given: _Array, alternative: _Array, weight: _Array, num_classes: int) -> _Array:
    """Share of wrong labels among the samples of each pair of classes that are flipped one way only.

    An excess counts where chance would make one so large in any of the pairs one time in twenty at most (Bernstein's
    bound).

    Args:
        given: int32 [N], given class ids, -1 = unlabelled.
        alternative: int32 [N], class ids that the network says instead, -1 = none.
        weight: float [N], in [0, 1], how far a sample counts.
        num_classes: C.

    Returns:
        float64 [N], in [0, 1]; 0 where there is no excess.
    """
    found = np.zeros(len(given))
    told = np.flatnonzero((given >= 0) & (alternative >= 0) & (weight > 0))
    if num_classes < 2 or not len(told):
        return found
    pair = given[told].astype(np.int64) * num_classes + alternative[told]
    back = alternative[told].astype(np.int64) * num_classes + given[told]
    pairs, place = np.unique(pair, return_inverse=True)  # those that there are: of 20,000 classes there are 4e8
    place = place.reshape(-1)
    count, spread = np.bincount(place, weight[told]), np.bincount(place, weight[told] ** 2)
    reverse = np.zeros(len(pairs), dtype=np.int64)
    reverse[place] = np.searchsorted(pairs, back).clip(max=len(pairs) - 1)
    first = np.zeros(len(pairs), dtype=np.int64)
    first[place] = back
    exists = pairs[reverse] == first
    other, other_spread = (np.where(exists, values[reverse], 0.0) for values in (count, spread))
    z = math.sqrt(2 * math.log(num_classes * (num_classes - 1) / _CHANCE))
    certain = count - other > z * np.sqrt(spread + other_spread) + z * z / 3
    found[told] = np.where(certain, 1 - other / count, 0.0)[place]
    return found


def _disagreement(facts: Facts) -> _Array:
    """Share of the predictions that spoke against the given label, [N], drawn to a half where there were few."""
    against = (facts.predictions - facts.agreeing + 0.5) / (facts.predictions + 1.0)
    return np.where(facts.predictions > 0, against, 0.0)


def _label_score(p_wrong: _Array, suspicion: _Array) -> _Array:
    known = np.flatnonzero(~np.isnan(p_wrong))
    order = known[np.lexsort((suspicion[known], p_wrong[known]))]
    value, first, count = np.unique((1 - _TIES) * p_wrong[order], return_index=True, return_counts=True)
    rank = np.concatenate([[0], np.cumsum(np.diff(suspicion[order]) != 0)])  # within a group of ties: equal stay equal
    steps = 1 + rank[first + count - 1] - rank[first]
    # Each group of ties is spread over the room up to the next one, so that no group overtakes another.
    room = np.minimum(np.diff(value, append=1.0), _TIES)
    score = np.full(len(p_wrong), math.nan)
    score[order] = 1 - np.repeat(value, count) - np.repeat(room / steps, count) * (rank - np.repeat(rank[first], count))
    return score
