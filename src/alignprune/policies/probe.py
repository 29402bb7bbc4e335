"""The probe: where few labels are wrong, the most suspicious samples are held out and looked at, a slice at a time.

Few wrong labels lie in the tail of the hard samples, and no two groups of suspicions are apart there. But the loss of a
sample that is held out separates them: its label is then as probable as the network finds it, and not as often as it
was trained on. A slice that was found mostly wrong lets the probe go on to the next one; one that was not ends it.

Source: this library; `docs/beyond.md` has the measurements.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignprune._checks import floor
from alignprune.policies import mixture

_SLICE = 0.025  # share of the data set in a slice
FEWEST = 20
"""Samples with a held-out loss, below which nothing is said of a group, and the smallest slice."""


@dataclass(frozen=True)
class Probed:
    """What the probe says of the most suspicious samples.

    Attributes:
        suspects: bool [N], those whose label is probably wrong.
        held_out: bool [N], those that are held out to be looked at, and nothing more is known of.
        noise_rate: share of wrong labels in the data set; None = the first slice has not been looked at.
    """

    suspects: NDArray[np.bool_]
    held_out: NDArray[np.bool_]
    noise_rate: float | None


def probe(suspicion: NDArray[Any], odds: NDArray[Any]) -> Probed:
    """Say which of the most suspicious samples are wrong, and which to look at next.

    The share of wrong labels in a slice is the most likely one. A sample is a suspect by Bayes' rule, with the share of
    its slice as the prior; one that was not looked at, if most of its slice are wrong.

    Args:
        suspicion: float [N], higher = more probably wrong, NaN = no score.
        odds: float [N], `robust.log_odds_of_wrong` of the held-out losses, NaN = not looked at.
    """
    size = len(suspicion)
    suspects, held_out = np.zeros(size, dtype=bool), np.zeros(size, dtype=bool)
    known = np.flatnonzero(~np.isnan(suspicion))
    order = known[np.argsort(-suspicion[known], kind="stable")]
    step = max(FEWEST, floor(_SLICE * size))
    wrong: float | None = None
    for start in range(0, len(order), step):
        part = order[start : start + step]
        looked = part[~np.isnan(odds[part])]
        if len(looked) < min(FEWEST, len(part)):
            held_out[part] = True
            break
        share = mixture.share(odds[looked])
        suspects[looked] = odds[looked] > math.log((1 - share) / share)
        (suspects if share > 0.5 else held_out)[np.setdiff1d(part, looked)] = True
        wrong = (wrong or 0.0) + share * len(part) / size
        if share <= 0.5 or 2 * len(looked) < len(part):
            break
    return Probed(suspects, held_out, wrong)
