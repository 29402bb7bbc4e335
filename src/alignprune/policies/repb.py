"""RePB: compare losses inside of one window of batches only, and weigh by how often a sample was selected so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from alignprune._checks import integer, number
from alignprune.memory import MemorySpec, Readings, ReadingsSpec
from alignprune.policies.contract import Evidence, Policy
from alignprune.selection import Selection


@dataclass(frozen=True)
class RePB(Policy):
    """Compare scores inside of one window of batches only, and weigh by how often a sample was selected so far.

    A sample that scored below the mean of those read in the same window of the last epoch stays with probability
    1 - prune_prob, and one that was left out of that epoch comes back with the same; all others stay. In the E-th epoch
    sample i has weight E / N_i, where N_i is the number of epochs that selected it, this one included: over the run
    every sample counts about as much as in full training. The first epoch takes all.

    A window is the same batches on every rank at the same time: what the ranks read together is what one process reads.

    Attributes:
        prune_prob: the authors' rho, in [0, 1).
        batches: successive batches in a window, the authors' W; within one the network stands still.

    Source: Zhou et al. (ICLR 2026), from a description. `docs/methods.md` says what that leaves open.
    """

    by_parts: ClassVar[bool] = True

    prune_prob: float = 0.5
    batches: int = 1

    def __post_init__(self) -> None:
        number("prune_prob", self.prune_prob, low=0, high=1, open_high=True, remedy="0.5 leaves out a third or so")
        integer("batches", self.batches, at_least=1, remedy="1 compares samples of the same batch")

    @property
    def memories(self) -> tuple[MemorySpec, ...]:
        return (ReadingsSpec(),)

    def select(self, evidence: Evidence) -> Selection:
        if not evidence.epoch:
            return Selection.full(evidence.size)
        readings, score = evidence.memory(Readings), evidence.score.numpy()
        known, steps = ~np.isnan(score), readings.steps.cpu().numpy()
        stays = ~known
        compared = np.flatnonzero(known & (steps >= 0))
        window = steps[compared] // self.batches
        ends = evidence.pool.extremes(window)
        windows = 0 if ends is None else int(ends[1]) + 1
        sums = np.stack([np.bincount(window, minlength=windows), np.bincount(window, score[compared], windows)])
        count, total = evidence.pool.total(sums)
        mean = total / np.maximum(count, 1)
        stays[compared[score[compared] >= mean[window]]] = True
        selection = Selection.of_mask(stays | (evidence.uniform("stay") >= self.prune_prob))
        times = readings.times.cpu()[selection.indices] + 1
        weights = ((evidence.epoch + 1) / times.double()).float()
        return Selection(selection.indices, weights if bool((weights != 1).any()) else None, len(score))
