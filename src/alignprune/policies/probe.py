"""The probe: where few labels are wrong, the most suspicious samples are held out and looked at, a slice at a time.

Few wrong labels lie in the tail of the hard samples, and no two groups of suspicions are apart there. But the loss of a
sample that is held out separates them: its label is then as probable as the network finds it, and not as often as it
was trained on. A slice that was found mostly wrong lets the probe go on to the next one; one that was not ends it.

Source: this library; `docs/robust.md`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from alignprune.policies import mixture
from alignprune.policies.posterior import FEWEST, slices


class Probed(NamedTuple):
    """What the probe says of the most suspicious samples.

    Attributes:
        suspects: bool [N], those whose label is probably wrong.
        unknown: bool [N], those that are held out to be looked at, and nothing more is known of.
        noise_rate: share of wrong labels in the data set; None = the first slice has not been looked at.
    """

    suspects: NDArray[np.bool_]
    unknown: NDArray[np.bool_]
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
    suspects, unknown = np.zeros(size, dtype=bool), np.zeros(size, dtype=bool)
    wrong: float | None = None
    for part in slices(suspicion):
        looked = part[~np.isnan(odds[part])]
        if len(looked) < min(FEWEST, len(part)):
            unknown[part] = True
            break
        share = mixture.share(odds[looked])
        suspects[looked] = odds[looked] > math.log((1 - share) / share)
        (suspects if share > 0.5 else unknown)[np.setdiff1d(part, looked)] = True
        wrong = (wrong or 0.0) + share * len(part) / size
        if share <= 0.5 or 2 * len(looked) < len(part):
            break
    return Probed(suspects, unknown, wrong)
