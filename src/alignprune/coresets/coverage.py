"""Coverage: leave out the hardest samples, and keep some of every difficulty that remains."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from alignprune._checks import floor, integer, number
from alignprune.coresets.proxy import Proxy
from alignprune.coresets.ranking import first_of_each, largest
from alignprune.coresets.settings import Settings
from alignprune.errors import ValueMistake


def area_under_margin(margins: Tensor) -> Tensor:
    """How far the proxy preferred the given label to every other class, averaged over the epochs.

    Args:
        margins: float [T, N], p_y less the largest other probability.

    Returns:
        float64 [N], in [-1, 1]; the lower, the harder.

    Source: Pleiss et al. (NeurIPS 2020), who take logits; Zheng et al. (ICLR 2023) take probabilities.
    """
    return margins.double().mean(0)


def strata(score: Tensor, count: int) -> Tensor:
    """The stratum of every sample: its place among ``count`` intervals of one length from the least to the greatest.

    Args:
        score: float [N].
        count: of intervals, at least 1.

    Returns:
        int64 [N], 0 to count - 1; 0 for all where all scores are equal.
    """
    least, greatest = score.min(), score.max()
    if least == greatest:
        return torch.zeros(len(score), dtype=torch.int64, device="cpu")
    return ((score - least) / (greatest - least) * count).long().clamp(max=count - 1)


def budgets(counts: Tensor, size: int) -> Tensor:
    """Divide ``size`` evenly among strata; what a small one does not have goes to the larger ones.

    Args:
        counts: int64 [K], samples of every stratum, together at least ``size``.
        size: what to divide.

    Returns:
        int64 [K], summing to ``size``.
    """
    held, out = counts.tolist(), [0] * len(counts)
    for place, stratum in enumerate(counts.argsort(stable=True).tolist()):
        out[stratum] = min(held[stratum], size // (len(out) - place))
        size -= out[stratum]
    return torch.tensor(out, dtype=torch.int64, device="cpu")


@dataclass(frozen=True)
class CCS(Settings):
    """Leave out the hardest samples by area under the margin, and keep as many of each stratum of the others.

    Attributes:
        beta: share of the data left out as too hard, in [0, 1), at most what is left out altogether. None = a third of
            that, a rule of ours: 0.3 where a tenth is kept, as in the authors' command for CIFAR-10.
        strata: intervals of the score, the paper's k.

    Source: Zheng et al. (ICLR 2023), and the authors' code.
    """

    beta: float | None = None
    strata: int = 50

    def __post_init__(self) -> None:
        if self.beta is not None:
            number("beta", self.beta, low=0, high=1, open_high=True, remedy="0.3 where a tenth is kept; None = by size")
        integer("strata", self.strata, at_least=1, remedy="CCS uses 50")

    @property
    def needs(self) -> tuple[str, ...]:
        return ("margins",)

    def select(self, proxy: Proxy, size: int, generator: torch.Generator) -> Tensor:
        assert proxy.margins is not None  # `needs`
        samples = len(proxy)
        beta = (1 - size / samples) / 3 if self.beta is None else self.beta
        rest = samples - floor(beta * samples)
        if rest < size:
            raise ValueMistake(
                f"beta={self.beta} leaves {rest} of {samples} samples, expected at least size={size} of them: choose a "
                f"smaller beta"
            )
        score = area_under_margin(proxy.margins)
        kept = largest(score, rest, generator)
        stratum = strata(score[kept], self.strata)
        counts = torch.bincount(stratum, minlength=self.strata)
        order = torch.randperm(rest, generator=generator, device="cpu")
        return kept[first_of_each(order, stratum, counts, budgets(counts, size))]
