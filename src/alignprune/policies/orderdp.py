"""OrderDP: draw a pool at random, and keep those of it that score highest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from alignprune._checks import floor, number
from alignprune.policies.contract import Evidence, Policy, refuse_empty
from alignprune.selection import Selection


@dataclass(frozen=True)
class OrderDP(Policy):
    """Draw a pool at random, and keep those of it that score highest, floor((1 - prune_ratio) * N) samples exactly.

    The pool is uniform, s = floor((1 - prune_ratio) ** chance * N) samples, so that everybody has a chance; the score
    decides inside of it only. No weights: the expected gradient is that of another loss, in which a sample counts by
    the rank of its score (the authors' surrogate), and by design not that of the full data. No annealing.

    A sample without a score comes before all others of the pool, and of equal scores chance decides.

    Attributes:
        prune_ratio: share of the data set left out, in [0, 1): exactly the share of forward passes saved.
        chance: how much of the pruning is left to chance, in [0, 1], in logarithms: 1 draws at random and reads no
            score, 0 takes the highest scores of all. The authors name pools, not a rule: s / N = 0.5 at a prune ratio
            of 0.7, 0.75 at 0.4 and 0.8 at 0.28, which are 0.58, 0.56 and 0.68 in this measure. The measure is ours, for
            it gives a pool at every prune ratio.

    Source: Jin et al. (ICLR 2026), and the authors' code, where the last loss is the score.
    """

    by_parts: ClassVar[bool] = True

    prune_ratio: float = 0.3
    chance: float = 0.6

    def __post_init__(self) -> None:
        number("prune_ratio", self.prune_ratio, low=0, high=1, open_high=True, remedy="0.3 leaves out 30 %")
        number("chance", self.chance, low=0, high=1, remedy="0.6 comes close to the pools of the paper")

    def select(self, evidence: Evidence) -> Selection:
        size = evidence.num_samples
        count = floor((1 - self.prune_ratio) * size)
        drawn = evidence.choose("pool", None, max(count, floor((1 - self.prune_ratio) ** self.chance * size)))
        score = np.nan_to_num(evidence.score.numpy(), nan=np.inf)
        kept = evidence.pool.least(-score[drawn], drawn, count, evidence.draws, "level")
        ends = evidence.pool.extremes(score[kept])
        thresholds = (ends[0],) if ends is not None and np.isfinite(ends[0]) else ()
        return Selection(torch.from_numpy(kept), None, evidence.size, thresholds=thresholds)

    def check(self, num_samples: int) -> None:
        refuse_empty("prune_ratio", self.prune_ratio, num_samples)
