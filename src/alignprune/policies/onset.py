"""The onset: from when on a run may flag suspects, and how many of them.

Wrong labels do their harm by being learned by heart, so samples are flagged when the network memorises, or when two
groups of samples lie clearly apart. Before, hard and wrong look alike and nobody is left out; nor where a network
learns nothing by heart, since two groups are then the samples that it has learned and those that it has not.

Source: this library; `docs/how-it-was-chosen.md` has what is behind the thresholds.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from numpy.typing import NDArray

from alignprune.memory.ledger import Ledger
from alignprune.policies import mixture
from alignprune.policies.contract import Evidence
from alignprune.policies.mixture import Mixture
from alignprune.selection import Onset

HARDLY, MEMORISING, STRONGLY = 0.015, 0.04, 0.1
"""`Ledger.memorisation` below which a network learns nothing by heart, from which on it memorises, and strongly so."""

APART, CLEAR = 1.0, 2.0
"""Ashman's D from which on two groups of samples are apart at all, and clearly apart."""

_SETTLED = 0.25  # share of the epochs after which the scores have settled: the third sign of an onset
_LATE = 0.5  # share of the epochs after which groups that are apart are enough, where anything is learned by heart
_RAMPS_LEFT = 3  # as long as so many are left: one to hold the suspects out, two to look at them
_FEWEST = 40  # scores, below which no two groups are looked for

# Groups that were not apart at the onset say nothing: half of the labels are then taken for wrong, until the losses of
# those left out, for some epochs more than the ramp, have moved the two groups apart.
_ASSUMED, _PATIENCE = 0.5, 4
_TAIL = 0.15  # an upper group smaller than this, and not clearly apart, is the tail of the hard samples


class Share(NamedTuple):
    """How many samples to flag.

    Attributes:
        flagged: share of the data set.
        noise_rate: share of wrong labels; None = it cannot be said yet.
        few: whether that is none because the upper group is the tail of the hard samples, in which a few wrong labels
            may lie.
    """

    flagged: float
    noise_rate: float | None
    few: bool = False


def memorises(memorisation: float) -> bool | None:
    """Whether a network memorises, by its `Ledger.memorisation`; None = unknown, False = hardly."""
    return None if math.isnan(memorisation) else memorisation > MEMORISING


def sensed(evidence: Evidence, known: NDArray[Any], ledger: Ledger, ramp: int) -> Onset | None:
    """Whether the epoch that ended last is the onset.

    It is when the network memorises strongly, and that is confirmed; when it memorises and the samples fall into two
    groups that are clearly apart; and, after a quarter of the epochs, when they are clearly apart, or are apart and the
    network memorises. After half of them, while three ramps are left, it is when they are apart and the network learns
    anything by heart at all. A network that is known to learn nothing by heart has no onset.

    Args:
        evidence: of the coming epoch.
        known: float [n], the suspicions that there are.
        ledger: of the run so far.
        ramp: epochs over which the suspects grow to their full number.
    """
    memorisation = ledger.memorisation
    if evidence.epoch == 0 or not len(known) or memorisation < HARDLY:
        return None
    memorising, settled = memorises(memorisation) is True, evidence.epoch >= _SETTLED * evidence.epochs
    if not memorising and not settled:
        return None
    fitted = mixture.fit(known) if len(known) >= _FEWEST else None
    separation = 0.0 if fitted is None else fitted.separation
    clear, apart = separation >= CLEAR, separation >= APART
    late = evidence.epoch >= _LATE * evidence.epochs and evidence.epochs - evidence.epoch >= _RAMPS_LEFT * ramp
    two_signs = (memorising and clear) or (settled and (clear or (memorising and apart)))
    strongly = memorisation > STRONGLY and ledger.confirmed
    if strongly or two_signs or (late and memorisation >= HARDLY and apart):
        return Onset(evidence.epoch - 1, None if fitted is None else fitted.separation)
    return None


def share_of_suspects(
    known: NDArray[Any], groups: Mixture | None, num_samples: int, onset: Onset, waited: int, ramp: int
) -> Share:
    """How many samples to flag.

    Args:
        known: float [n], the suspicions that there are.
        groups: `mixture.fit` of them.
        num_samples: size N of the data set.
        onset: that was sensed.
        waited: epochs since.
        ramp: epochs over which the suspects grow to their full number.
    """
    undecided = (onset.separation or 0.0) < APART
    if undecided and waited < ramp + _PATIENCE:
        return Share(_ASSUMED, None)
    if groups is None:
        return Share(0.0, 0.0)
    if groups.share < _TAIL and groups.separation < CLEAR and not undecided:
        return Share(0.0, 0.0, few=True)
    return Share(float((known > groups.cut).sum()) / num_samples, groups.share)
