"""Symmetric cross-entropy (SCE): cross-entropy, and the same with label and prediction exchanged.

    loss_i = α (-log p_iy) + β sum over the classes c of (-p_ic log y_ic)        with log 0 := A < 0
           = α (-log p_iy) - β A (1 - p_iy)

The second term is bounded, so a wrong label costs little by it; the first one learns the hard classes.

Source: Wang et al. (ICCV 2019), section 3; A, α and β by the authors' code
(YisenWang/symmetric_cross_entropy_for_noisy_labels, loss.py and train_models.py, commit 235d93b), which bounds the
labels at 1e-4, so A = log 1e-4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from alignprune._checks import number
from alignprune.losses.contract import LossSettings, SampleLoss

LOG_ZERO = math.log(1e-4)
"""A, what stands for log 0."""


@dataclass(frozen=True)
class SCESettings(LossSettings):
    """What SCE is tuned by.

    Attributes:
        alpha: α, weight of cross-entropy, >= 0.
        beta: β, weight of the reverse, >= 0.
    """

    alpha: float
    beta: float

    def __post_init__(self) -> None:
        remedies = {"alpha": "0.1 on CIFAR-10, 6 on CIFAR-100", "beta": "1 on CIFAR-10, 0.1 on CIFAR-100"}
        for name, remedy in remedies.items():
            number(name, getattr(self, name), low=0, high=math.inf, open_high=True, remedy=remedy)

    def make(self, num_samples: int, num_classes: int, *, seed: int = 0) -> SCE:
        """The loss; nothing in it is random."""
        return SCE(num_samples, num_classes, self)


class SCE(SampleLoss):
    """Symmetric cross-entropy. It keeps nothing of the samples.

    Args:
        num_samples: as in `SampleLoss`.
        num_classes: as in `SampleLoss`.
        settings: as in `SampleLoss`.
    """

    made_with = SCESettings
    settings: SCESettings

    def compute(
        self, index: Tensor, labels: Tensor, logits: Tensor, strong_logits: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        cross_entropy = F.cross_entropy(logits, labels, reduction="none")
        reverse = LOG_ZERO * (-cross_entropy).expm1()  # -A (1 - p)
        return self.settings.alpha * cross_entropy + self.settings.beta * reverse, logits.new_zeros(())
