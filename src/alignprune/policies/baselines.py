"""The baselines: every sample, and a random part of them."""

from __future__ import annotations

from dataclasses import dataclass

from alignprune._checks import number
from alignprune.policies.contract import Evidence, Policy, refuse_empty, uniform
from alignprune.selection import Selection


@dataclass(frozen=True)
class Full(Policy):
    """Every sample in every epoch: the baseline that the others are measured against."""

    def select(self, evidence: Evidence) -> Selection:
        return Selection.full(evidence.num_samples)


@dataclass(frozen=True)
class DynamicRandom(Policy):
    """A fresh uniform subset of floor((1 - prune_ratio) * N) samples every epoch, no annealing.

    Attributes:
        prune_ratio: share of the data set left out, in [0, 1): exactly the share of forward passes saved.

    Source: paper Table 1, the baseline "Dynamic Random".
    """

    prune_ratio: float = 0.3

    def __post_init__(self) -> None:
        number("prune_ratio", self.prune_ratio, low=0, high=1, open_high=True, remedy="0.3 leaves out 30 %")

    def select(self, evidence: Evidence) -> Selection:
        return uniform(evidence, self.prune_ratio)

    def check(self, num_samples: int) -> None:
        refuse_empty("prune_ratio", self.prune_ratio, num_samples)
