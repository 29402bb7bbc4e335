"""How well a ranking of the samples finds wrong labels, by the truth.

A ranking is a suspicion a sample, high = probably wrong, and, where its maker says so, that it is a probability, which
samples are flagged, and how many labels are wrong. Of a sample without a suspicion nothing is known: it comes last.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignprune.bench.run.diagnosis import auroc
from alignprune.errors import ValueMistake

BINS = 15
"""Groups of equally many samples in which probabilities are compared with what came true."""

_Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Ranking:
    """What a way of looking for wrong labels says.

    Attributes:
        suspicion: float [N], high = suspect, NaN = nothing known.
        is_probability: whether the suspicion is the probability that the given label is wrong, in [0, 1].
        flagged: bool [N], the samples that it calls suspects; None where it flags none.
        noise_rate: share of wrong labels as it estimates it; None where it does not.

    Raises:
        ValueError: for shapes that do not fit, and probabilities outside of [0, 1].
    """

    suspicion: _Array
    is_probability: bool = False
    flagged: _Array | None = None
    noise_rate: float | None = None

    def __post_init__(self) -> None:
        shape = self.suspicion.shape
        if len(shape) != 1:
            raise ValueMistake(f"suspicion has shape {shape}, expected [N]: one number a sample")
        if self.flagged is not None and (self.flagged.shape != shape or self.flagged.dtype != np.bool_):
            raise ValueMistake(
                f"flagged is {self.flagged.dtype} {self.flagged.shape}, expected bool {shape}: whether each sample is "
                f"called a suspect"
            )
        seen = self.suspicion[~np.isnan(self.suspicion)]
        if self.is_probability and len(seen) and not 0 <= seen.min() <= seen.max() <= 1:
            raise ValueMistake(
                f"suspicion reaches from {seen.min():g} to {seen.max():g}, expected [0, 1] with is_probability=True: "
                f"leave is_probability out for numbers that only rank"
            )


@dataclass(frozen=True, kw_only=True)
class RankingRecord:
    """How a ranking did: a row of the stored rankings.

    Attributes:
        ranking: its name.
        ranked_share: share of the samples that it has a suspicion of.
        average_precision: mean, over the wrong labels, of the share of wrong ones among those at least as suspect.
        auroc: share of pairs of a wrong and a right label in which the wrong one is more suspect; a tie counts half.
        calibration_error: expected calibration error of its probabilities; None where it gives none.
        estimated_rate_error: estimated noise rate minus the true one; None where it estimates none.
        flagged_rate_error: share of flagged samples minus the true noise rate; None where it flags none.
        flagged_precision: share of wrong labels among the flagged; None where none is flagged.
        flagged_recall: share of flagged ones among the wrong labels; None where it flags none.
    """

    ranking: str
    ranked_share: float
    average_precision: float
    auroc: float
    calibration_error: float | None
    estimated_rate_error: float | None
    flagged_rate_error: float | None
    flagged_precision: float | None
    flagged_recall: float | None


def judge(name: str, ranking: Ranking, is_noisy: _Array) -> RankingRecord:
    """Compare a ranking with the truth.

    Args:
        name: of the ranking.
        ranking: of N samples.
        is_noisy: bool [N], whether the given label is wrong; both kinds occur.

    Raises:
        ValueError: for another number of samples, and where all labels are right or all are wrong.
    """
    suspicion, flagged = ranking.suspicion, ranking.flagged
    if suspicion.shape != is_noisy.shape or is_noisy.all() or not is_noisy.any():
        raise ValueMistake(
            f"is_noisy has shape {is_noisy.shape} and {int(is_noisy.sum())} wrong labels, expected shape "
            f"{suspicion.shape}, with right and wrong ones: take a run with noise"
        )
    rate = float(is_noisy.mean())
    found = None if flagged is None else float((flagged & is_noisy).sum())
    last = np.where(np.isnan(suspicion), -math.inf, suspicion)
    return RankingRecord(
        ranking=name,
        ranked_share=float((~np.isnan(suspicion)).mean()),
        average_precision=average_precision(last, is_noisy),
        auroc=auroc(last, is_noisy),
        calibration_error=calibration_error(suspicion, is_noisy) if ranking.is_probability else None,
        estimated_rate_error=None if ranking.noise_rate is None else ranking.noise_rate - rate,
        flagged_rate_error=None if flagged is None else float(flagged.mean()) - rate,
        flagged_precision=None if flagged is None or found is None or not flagged.any() else found / flagged.sum(),
        flagged_recall=None if found is None else found / float(is_noisy.sum()),
    )


def average_precision(suspicion: _Array, is_noisy: _Array) -> float:
    """The mean, over the wrong labels, of the share of wrong ones among the samples that are at least as suspect.

    Args:
        suspicion: float [N], without NaN; equal ones have one place.
        is_noisy: bool [N], at least one true.

    Returns:
        in (0, 1]; about the share of wrong labels for a ranking by chance.
    """
    order = np.argsort(-suspicion, kind="stable")
    values, wrong = suspicion[order], is_noisy[order]
    ends = np.searchsorted(-values, -values, side="right")  # by sample, how many are at least as suspect
    precision = np.cumsum(wrong)[ends - 1] / ends
    return float(precision[wrong].mean())


def calibration_error(probability: _Array, is_noisy: _Array) -> float:
    """The expected calibration error: by how much probabilities and frequencies differ, in groups of like probability.

    The groups hold equally many samples, so that none is decided by a few; equal probabilities stay together.

    Args:
        probability: float [N], that the given label is wrong; NaN = unknown: such samples are left out.
        is_noisy: bool [N].

    Returns:
        in [0, 1], 0 = calibrated; NaN where nothing is known.

    Source: Naeini, Cooper and Hauskrecht (AAAI 2015), with groups of equal size as Nixon et al. (CVPR Workshops 2019).
    """
    known = ~np.isnan(probability)
    p, wrong = probability[known].astype(np.float64), is_noisy[known]
    if not len(p):
        return math.nan
    edges = np.quantile(p, np.linspace(0, 1, BINS + 1)[1:-1], method="lower")
    group = np.searchsorted(edges, p, side="left")
    gaps = np.bincount(group, weights=p - wrong, minlength=BINS)
    return float(np.abs(gaps).sum() / len(p))
