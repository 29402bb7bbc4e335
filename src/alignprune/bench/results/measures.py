"""What a stored column means, and what the values of several seeds say together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Measure:
    """How a stored column is shown, and what the paper's numbers beside it are in.

    Attributes:
        name: what a cell calls it.
        title: in words.
        unit: that it is shown in, "" for a bare number.
        factor: stored value times factor = shown value.
        digits: after the point.
        column: of the stored runs, a field of `alignprune.bench.run.record.RunRecord`, or of the rankings.
        spread: show the standard deviation over the seeds, n - 1 in the denominator, instead of the mean.
        ratio: it is a ratio of means: its interval is not symmetric, so both ends are written.
        sign: "+" to write it in front of what is not negative.
        view: where the column stands: "runs", or "rankings" for what is measured of a cell's ranking, a field of
            `alignprune.bench.results.detection.RankingRecord`.
    """

    name: str
    title: str
    unit: str
    factor: float
    digits: int
    column: str
    spread: bool = False
    ratio: bool = False
    sign: Literal["", "+"] = ""
    view: Literal["runs", "rankings"] = "runs"

    @property
    def heading(self) -> str:
        """Title and unit, as they stand above a column or beside an axis."""
        return f"{self.title} [{self.unit}]" if self.unit else self.title


def _measure(name: str, title: str, unit: str = "", factor: float = 1, digits: int = 1) -> Measure:
    return Measure(name, title, unit, factor, digits, column=name)


def _of_ranking(
    name: str, title: str, unit: str = "", factor: float = 1, digits: int = 3, sign: Literal["", "+"] = ""
) -> Measure:
    return Measure(name, title, unit, factor, digits, column=name, sign=sign, view="rankings")


MEASURES: dict[str, Measure] = {
    measure.name: measure
    for measure in (
        _measure("accuracy", "accuracy", "%", 100),
        Measure("accuracy_std", "standard deviation of the accuracy", "%", 100, 2, column="accuracy", spread=True),
        _measure("best_accuracy", "accuracy of the best epoch on the test set", "%", 100),
        _measure("train_accuracy", "given labels met in training", "%", 100),
        _measure("memorisation", "memorisation", digits=2),
        _measure("test_loss", "test loss", digits=3),
        _measure("forward_fraction", "forward passes", "% of full training", 100),
        _measure("trained_fraction", "samples trained on", "% of full training", 100),
        _measure("pruned_share", "pruned samples", "% of the data set", 100, digits=2),
        _measure("kept_noise", "wrong labels among the kept", "%", 100),
        _measure("score_auroc", "AUROC of the score for wrong labels", digits=3),
        _measure("noise_rate", "wrong labels", "%", 100),
        _measure("estimated_noise_rate", "wrong labels as estimated", "%", 100),
        Measure("minutes", "training time", "min", 1 / 60, 1, column="train_seconds"),
        _measure("train_seconds", "training time", "s", digits=0),
        _measure("seconds", "time with evaluation", "s", digits=0),
        _measure("samples_per_second", "throughput", "samples/s", digits=0),
        _measure("forward_passes", "forward passes", "millions", 1e-6, digits=2),
        _measure("reference_forward_passes", "forward passes of the reference", "millions", 1e-6, digits=2),
        _measure("proxy_forward_passes", "forward passes of the proxy", "millions", 1e-6, digits=2),
        _of_ranking("average_precision", "average precision"),
        _of_ranking("auroc", "AUROC"),
        _of_ranking("calibration_error", "expected calibration error"),
        _of_ranking("ranked_share", "samples that are ranked", "%", 100, 1),
        _of_ranking("estimated_rate_error", "estimated noise rate minus the true one", "points", 100, 1, "+"),
        _of_ranking("flagged_rate_error", "share of flagged samples minus the true noise rate", "points", 100, 1, "+"),
        _of_ranking("flagged_precision", "wrong labels among the flagged", "%", 100, 1),
        _of_ranking("flagged_recall", "flagged among the wrong labels", "%", 100, 1),
    )
}


@dataclass(frozen=True)
class Statistics:
    """What some seeds say together, in the unit of their measure.

    Attributes:
        n: number of seeds with a value.
        value: their mean, their standard deviation or a ratio of their means; None where there are too few.
        low, high: 95 % interval of the mean or ratio; None where there is none, as for fewer than two seeds.
    """

    n: int
    value: float | None
    low: float | None = None
    high: float | None = None

    def __format__(self, spec: str) -> str:
        """The value ± half of the interval, both by the specification: "89.3 ± 2.8" by ".1f"; "-" without a value."""
        if self.value is None:
            return "-"
        half = "" if self.low is None or self.high is None else f" ± {(self.high - self.low) / 2:{spec}}"
        return f"{self.value:{spec}}{half}"


def statistics(values: Sequence[float], *, spread: bool = False) -> Statistics:
    """The mean of a measurement over seeds, with the interval that Student's t gives it; or its standard deviation.

    Args:
        values: one a seed.
        spread: return the standard deviation, n - 1 in the denominator, in place of the mean.
    """
    n = len(values)
    if n == 0 or (spread and n == 1):
        return Statistics(n, None)
    mean = float(np.mean(values))
    if n == 1:
        return Statistics(n, mean)
    deviation = float(np.std(values, ddof=1))
    if spread:
        return Statistics(n, deviation)
    half = t_quantile(n) * deviation / math.sqrt(n)
    return Statistics(n, mean, mean - half, mean + half)


def t_quantile(n: int) -> float:
    """Half the width of the 95 % interval of a mean of ``n`` values, in standard errors."""
    from scipy.stats import t

    return float(t.ppf((1 + CONFIDENCE) / 2, n - 1))
