"""The baselines: every sample, and a random part of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from alignprune._checks import floor, number
from alignprune._ranks import Draws
from alignprune.policies.contract import Evidence, Policy, refuse_empty, uniform
from alignprune.selection import Selection


@dataclass(frozen=True)
class Full(Policy):
    """Every sample in every epoch: the baseline that the others are measured against."""

    by_parts: ClassVar[bool] = True

    def select(self, evidence: Evidence) -> Selection:
        return Selection.full(evidence.size)


@dataclass(frozen=True)
class DynamicRandom(Policy):
    """A uniform subset of q = floor((1 - prune_ratio) * N) samples every epoch, no annealing.

    Without replacement the epochs deal out one random order of the data set, q samples each, so that nobody is seen
    again before all others were: a pass. Its last epoch is filled up with the samples that its first epoch began with,
    and the next pass has an order of its own.

    Attributes:
        prune_ratio: share of the data set left out, in [0, 1): exactly the share of forward passes saved.
        replacement: whether the samples of one epoch can be drawn in the next one too.

    Source: paper Table 1, the baseline "Dynamic Random"; Okanovic et al. (ICLR 2024), RS2, for both.
    """

    by_parts: ClassVar[bool] = True

    prune_ratio: float = 0.3
    replacement: bool = True

    def __post_init__(self) -> None:
        number("prune_ratio", self.prune_ratio, low=0, high=1, open_high=True, remedy="0.3 leaves out 30 %")

    def select(self, evidence: Evidence) -> Selection:
        return uniform(evidence, self.prune_ratio) if self.replacement else self._deal(evidence)

    def _deal(self, evidence: Evidence) -> Selection:
        size, pool = evidence.num_samples, evidence.pool
        count = floor((1 - self.prune_ratio) * size)
        turn = evidence.epoch % -(-size // count)
        draws = Draws(evidence.draws.seed, evidence.epoch - turn)  # of the pass: the first ones of an order by key
        dealt, before = (pool.choose(draws, "pass", None, min(bound * count, size)) for bound in (turn + 1, turn))
        mask = np.zeros(evidence.size, dtype=bool)
        mask[dealt] = True
        mask[before] = False
        mask[pool.choose(draws, "pass", None, max(0, (turn + 1) * count - size))] = True
        return Selection.of_mask(mask, uniform=True)

    def check(self, num_samples: int) -> None:
        refuse_empty("prune_ratio", self.prune_ratio, num_samples)
