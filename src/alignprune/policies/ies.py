"""IES: leave out every sample whose score is below a fixed threshold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from alignprune._checks import number
from alignprune.policies.contract import Evidence, Policy
from alignprune.selection import Selection

_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class IES(Policy):
    """Leave out every sample whose score is below a fixed threshold; recomputed from scratch each epoch.

    With `SecondDifference` as score a sample is left out once its loss runs straight. Nothing is rescaled or
    annealed. With the alignment score it is InfoBatch's rule with a fixed instead of the mean threshold (paper A.4).

    Attributes:
        threshold: samples that score below it are left out; 1e-3 on CIFAR-10, 2e-3 on CIFAR-100.

    Source: Yuan et al. (ICLR 2025).
    """

    by_parts: ClassVar[bool] = True

    threshold: float = 1e-3

    def __post_init__(self) -> None:
        number("threshold", self.threshold, low=-_LARGEST, high=_LARGEST, remedy="IES uses 1e-3 on CIFAR-10")

    def select(self, evidence: Evidence) -> Selection:
        return Selection.of_mask(~(evidence.score.numpy() < self.threshold), thresholds=(self.threshold,))
