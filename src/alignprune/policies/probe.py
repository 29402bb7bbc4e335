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
    """What the probe says of the most suspicious samples, slice by slice.

    Attributes:
        ends: int64 [slices], ranks at which the slices end that were looked at, ascending.
        bounds: float64 [slices], log odds of a label of the slice above which it is a suspect.
        open_end: the rank at which the slice ends that is to be looked at next; that of the last one where none is.
        noise_rate: share of wrong labels in the data set; None = the first slice has not been looked at.
    """

    ends: NDArray[np.int64]
    bounds: NDArray[np.float64]
    open_end: int
    noise_rate: float | None

    def judge(self, odds: NDArray[Any], places: NDArray[np.float64]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which samples are suspects, and which are held out to be looked at while nothing more is known of them.

        Args:
            odds: float [n], `robust.log_odds_of_wrong`, NaN = not looked at.
            places: float64 [n], where the samples stand among the ranks.

        Returns:
            two bool [n].
        """
        suspects, unknown = np.zeros(len(odds), dtype=bool), np.zeros(len(odds), dtype=bool)
        judged = np.flatnonzero(places < (self.ends[-1] if len(self.ends) else 0))
        bounds = self.bounds[np.searchsorted(self.ends, places[judged], side="right")]
        own = odds[judged]
        looked, most_are_wrong = ~np.isnan(own), bounds < 0  # a share above a half
        suspects[judged] = np.where(looked, own > bounds, most_are_wrong)
        unknown[judged] = ~looked & ~most_are_wrong
        unknown[(places < self.open_end) & (places >= (self.ends[-1] if len(self.ends) else 0))] = True
        return suspects, unknown


def probe(odds: NDArray[Any], num_samples: int) -> Probed:
    """Say which of the most suspicious samples are wrong, and which to look at next.

    The share of wrong labels in a slice is the most likely one. A sample is a suspect by Bayes' rule, with the share of
    its slice as the prior; one that was not looked at, if most of its slice are wrong.

    Args:
        odds: float [n] by rank, `robust.log_odds_of_wrong` of the held-out losses, NaN = not looked at.
        num_samples: size N of the data set, those without a suspicion included.
    """
    ends, bounds, open_end = [], [], 0
    wrong: float | None = None
    step = slice_size(num_samples)
    for start in range(0, len(odds), step):
        part = odds[start : start + step]
        looked = part[~np.isnan(part)]
        open_end = start + len(part)
        if len(looked) < min(FEWEST, len(part)):
            break
        share = mixture.share(looked)
        ends.append(open_end)
        bounds.append(math.log((1 - share) / share))
        wrong = (wrong or 0.0) + share * len(part) / num_samples
        if share <= 0.5 or 2 * len(looked) < len(part):
            break
    return Probed(np.array(ends, dtype=np.int64), np.array(bounds, dtype=np.float64), open_end, wrong)
