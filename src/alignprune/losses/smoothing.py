"""Label smoothing whose rate may be negative.

    loss_i = (1 - r) (-log p_iy) + r mean over the classes c of (-log p_ic)

r > 0 keeps the network from being sure of any label. r < 0 does the reverse: it punishes the classes that are not
given, which undoes the uniform part of the noise. For r < 0 the loss has no lower bound: it falls as long as the logits
grow. The authors therefore train by cross-entropy first, and go on from there with r < 0 at a learning rate of 1e-6.

Source: Wei et al. (ICML 2022), equation 1, with r anywhere below 1; the authors' code
(UCSC-REAL/negative-label-smoothing, loss.py, commit 02bcc1a). Its rate is 0.1 by default; the paper chooses one by the
noise, out of 0.8, 0.6, 0.4, 0.2, 0, -0.2, ... -8. Which one it takes for which noise is open here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from alignprune._checks import number
from alignprune.losses.contract import LossSettings, SampleLoss


@dataclass(frozen=True)
class SmoothingSettings(LossSettings):
    """What label smoothing is tuned by.

    Attributes:
        rate: r, below 1; 0 is plain cross-entropy.
    """

    rate: float

    def __post_init__(self) -> None:
        remedy = "the authors try 0.8 to -8; 0.1 is usual"
        number("rate", self.rate, low=-math.inf, high=1, open_high=True, remedy=remedy)

    def make(self, num_samples: int, num_classes: int, *, seed: int = 0) -> Smoothing:
        """The loss; nothing in it is random."""
        return Smoothing(num_samples, num_classes, self)


class Smoothing(SampleLoss):
    """Cross-entropy with smoothed labels. It keeps nothing of the samples.

    Args:
        num_samples: as in `SampleLoss`.
        num_classes: as in `SampleLoss`.
        settings: as in `SampleLoss`.
    """

    made_with = SmoothingSettings
    settings: SmoothingSettings

    def compute(
        self, index: Tensor, labels: Tensor, logits: Tensor, strong_logits: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        rate = self.settings.rate
        given = F.cross_entropy(logits, labels, reduction="none")  # its own label_smoothing refuses rates below 0
        return (1 - rate) * given - rate * logits.log_softmax(1).mean(1), logits.new_zeros(())
