"""Generalised cross-entropy (GCE): between cross-entropy and the mean absolute error.

    loss_i = (1 - p_iy^q) / q        q -> 0: -log p_iy;  q = 1: 1 - p_iy

Its gradient is that of cross-entropy times p_iy^q: a label that the network finds improbable pulls less. This is the
form without truncation, which needs no memory of the samples; pruning leaves samples out instead.

Source: Zhang and Sabuncu (NeurIPS 2018), section 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from alignprune._checks import number
from alignprune.losses.contract import LossSettings, SampleLoss


@dataclass(frozen=True)
class GCESettings(LossSettings):
    """What GCE is tuned by.

    Attributes:
        q: how robust, in [0.01, 1]: near 0 as cross-entropy, 1 as the absolute error, which learns slowly.
    """

    q: float

    def __post_init__(self) -> None:
        number("q", self.q, low=0.01, high=1, remedy="the authors use 0.7; leave the loss out for cross-entropy")

    def make(self, num_samples: int, num_classes: int, *, seed: int = 0) -> GCE:
        """The loss; nothing in it is random."""
        return GCE(num_samples, num_classes, self)


class GCE(SampleLoss):
    """Generalised cross-entropy. It keeps nothing of the samples.

    Args:
        num_samples: as in `SampleLoss`.
        num_classes: as in `SampleLoss`.
        settings: as in `SampleLoss`.
    """

    made_with = GCESettings
    settings: GCESettings

    def compute(
        self, index: Tensor, labels: Tensor, logits: Tensor, strong_logits: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        # by the logarithm: a power of a probability that is 0 has no gradient that is finite
        log_p = -F.cross_entropy(logits, labels, reduction="none")
        return -torch.expm1(self.settings.q * log_p) / self.settings.q, logits.new_zeros(())
