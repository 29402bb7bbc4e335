"""The baselines: every sample, and a random part of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from alignprune._checks import floor, number
from alignprune._ranks import Draws
from alignprune.policies.contract import Evidence, Policy, refuse_empty, uniform
from alignprune.selection import Selection


@dataclass(frozen=True)
class Full(Policy):
    """Every sample in every epoch: the baseline that the others are measured against."""

    def select(self, evidence: Evidence) -> Selection:
        return Selection.full(evidence.num_samples)


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

    prune_ratio: float = 0.3
    replacement: bool = True

    def __post_init__(self) -> None:
        number("prune_ratio", self.prune_ratio, low=0, high=1, open_high=True, remedy="0.3 leaves out 30 %")

    def select(self, evidence: Evidence) -> Selection:
        return uniform(evidence, self.prune_ratio) if self.replacement else self._deal(evidence)

    def _deal(self, evidence: Evidence) -> Selection:
        size = evidence.num_samples
        count = floor((1 - self.prune_ratio) * size)
        turn = evidence.epoch % -(-size // count)
        keys = Draws(evidence.draws.seed, evidence.epoch - turn).keys("pass", size)
        order = np.argsort(keys, kind="stable")
        dealt = np.sort(order[np.arange(turn * count, (turn + 1) * count) % size])
        return Selection(torch.from_numpy(dealt), None, size, uniform=True)

    def check(self, num_samples: int) -> None:
        refuse_empty("prune_ratio", self.prune_ratio, num_samples)
