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
from alignprune.policies.ranking import FEWEST, slice_size


class Probed(NamedTuple):
    """What the probe says of the most suspicious samples, by rank.

    Attributes:
        suspects: bool [n], those whose label is probably wrong.
        unknown: bool [n], those that are held out to be looked at, and nothing more is known of.
        noise_rate: share of wrong labels in the data set; None = the first slice has not been looked at.
    """

    suspects: NDArray[np.bool_]
    unknown: NDArray[np.bool_]
    noise_rate: float | None


def probe(odds: NDArray[Any], num_samples: int) -> Probed:
    """Say which of the most suspicious samples are wrong, and which to look at next.

    The share of wrong labels in a slice is the most likely one. A sample is a suspect by Bayes' rule, with the share of
    its slice as the prior; one that was not looked at, if most of its slice are wrong.

    Args:
        odds: float [n] by rank, `robust.log_odds_of_wrong` of the held-out losses, NaN = not looked at.
        num_samples: size N of the data set, those without a suspicion included.
    """
    suspects, unknown = np.zeros(len(odds), dtype=bool), np.zeros(len(odds), dtype=bool)
    wrong: float | None = None
    step = slice_size(num_samples)
    for start in range(0, len(odds), step):
        part = odds[start : start + step]
        suspected, to_look_at = suspects[start : start + step], unknown[start : start + step]
        looked = ~np.isnan(part)
        if looked.sum() < min(FEWEST, len(part)):
            to_look_at[:] = True
            break
        share = mixture.share(part[looked])
        suspected[looked] = part[looked] > math.log((1 - share) / share)
        (suspected if share > 0.5 else to_look_at)[~looked] = True
        wrong = (wrong or 0.0) + share * len(part) / num_samples
        if share <= 0.5 or 2 * looked.sum() < len(part):
            break
    return Probed(suspects, unknown, wrong)
