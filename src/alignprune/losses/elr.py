"""Early-learning regularisation (ELR): hold on to what the network believed of a sample before it memorised its label.

Sample i owns a target t_i [C], an average of its own predictions. With p = softmax(z), clamped to [1e-4, 1 - 1e-4],
and p' = p / sum of p, each time that the sample is trained on

    t_i <- β t_i + (1 - β) p'_i
    loss_i = -log softmax(z)_iy + λ log(1 - <p_i, t_i>)

No gradient flows through t. The second term is least where the prediction agrees with the target, so it pulls away from
a label that contradicts what was learned first. Targets start at 0, where the term is 0: the first epochs are plain
cross-entropy. Only the rows of the batch move: the target of a pruned sample does not decay while it is not seen.

The targets are N x C numbers, 20 MB for CIFAR-100 and 5.1 GB for ImageNet-1K in float32, half of that in float16.

Source: Liu et al. (NeurIPS 2020), section 4; what is clamped and where by the authors' code (shengliu66/ELR,
model/loss.py, commit 513693e).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from alignprune._checks import choice, number
from alignprune.losses.contract import LossSettings
from alignprune.losses.rows import RowLoss

LEAST = 1e-4
"""Lower bound of p, and of 1 - p."""

TargetType = Literal["float32", "float16"]


@dataclass(frozen=True)
class ELRSettings(LossSettings):
    """What ELR is tuned by.

    Attributes:
        beta: β, how much of a target stays in one step, in [0, 1).
        weight: λ, weight of the agreement with the targets, >= 0; 0 is plain cross-entropy.
        targets: in what the targets are stored. float16 is half the size, and a target does not move any more where the
            prediction differs from it by less than about 0.00025 / (1 - β).
    """

    beta: float
    weight: float
    targets: TargetType = "float32"

    def __post_init__(self) -> None:
        number("beta", self.beta, low=0, high=1, open_high=True, remedy="0.7 on CIFAR-10, 0.9 on CIFAR-100")
        remedy = "3 on CIFAR-10, 7 on CIFAR-100"
        number("weight", self.weight, low=0, high=math.inf, open_high=True, remedy=remedy)
        choice("targets", self.targets, get_args(TargetType))

    def make(self, num_samples: int, num_classes: int, *, seed: int = 0) -> ELR:
        """The loss; nothing in it is random."""
        return ELR(num_samples, num_classes, self)


class ELR(RowLoss):
    """The loss of ELR, with the target of every sample.

    A prediction that is not finite, as of a step that a GradScaler skips, leaves the target as it was.

    Args:
        num_samples: as in `SampleLoss`.
        num_classes: as in `SampleLoss`.
        settings: as in `SampleLoss`.

    Attributes:
        targets: float32 or float16 [N, C].
    """

    made_with = ELRSettings
    settings: ELRSettings
    targets: Tensor

    def __init__(self, num_samples: int, num_classes: int, settings: ELRSettings) -> None:
        super().__init__(num_samples, num_classes, settings)
        dtype = getattr(torch, settings.targets)
        self.register_buffer("targets", torch.zeros(self.num_samples, self.num_classes, dtype=dtype))

    @property
    def rows(self) -> tuple[Tensor, ...]:
        return (self.targets,)

    def compute(
        self, index: Tensor, labels: Tensor, logits: Tensor, strong_logits: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        prediction = logits.softmax(1).clamp(LEAST, 1 - LEAST)
        targets = moved_targets(self.targets[index].to(logits.dtype), prediction.detach(), self.settings.beta)
        if torch.is_grad_enabled():
            self.targets[index] = targets.to(self.targets.dtype)
        losses = F.cross_entropy(logits, labels, reduction="none")
        return losses + self.settings.weight * elr_terms(prediction, targets), logits.new_zeros(())


def moved_targets(targets: Tensor, prediction: Tensor, beta: float) -> Tensor:
    """The targets after a step; those whose prediction is not finite as before.

    Args:
        targets: float [B, C], the samples' rows.
        prediction: float [B, C], clamped probabilities, without gradient.
        beta: β.

    Returns:
        float [B, C].
    """
    moved = beta * targets + (1 - beta) * prediction / prediction.sum(1, keepdim=True)
    return torch.where(moved.isfinite().all(1, keepdim=True), moved, targets)


def elr_terms(prediction: Tensor, targets: Tensor) -> Tensor:
    """log(1 - <p, t>) of each sample: 0 for a target of 0, the less the better both agree.

    Args:
        prediction: float [B, C], clamped probabilities.
        targets: float [B, C].

    Returns:
        float [B].
    """
    return torch.log1p(-(prediction * targets).sum(1))
