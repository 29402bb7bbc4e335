"""A row in terms of others of its column: the difference to one, or the share of the gap between two that it closes.

Both go seed by seed, since the same seed has the same noise and the same samples in every row. With x the row's own
values and a, b those of the rows that it is compared with:

    against a            mean(x - a)                       Student's t-interval
    between a and b      mean(x - a) / mean(b - a)         Fieller's interval
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from alignprune._checks import choice
from alignprune.bench.grid.cells import Cell
from alignprune.bench.results.measures import Measure, Statistics, statistics, t_quantile
from alignprune.errors import ValueMistake


@dataclass(frozen=True)
class Comparison(ABC):
    """What both comparisons offer.

    Attributes:
        rows: those that every other row is compared with.
    """

    rows: tuple[str, ...]

    @abstractmethod
    def measure(self, measure: Measure) -> Measure:
        """How the comparison of this measure is shown."""

    @abstractmethod
    def number(self, own: float, *others: float) -> float | None:
        """The comparison of single numbers, such as the paper's; None where it is not defined."""

    @abstractmethod
    def over_seeds(self, values: Sequence[Sequence[float]]) -> Statistics:
        """The comparison of what several seeds measured: a sequence a seed, the own value and those of `rows`."""

    def group(self, cell: Cell, cells: Sequence[Cell]) -> list[Cell]:
        """A cell and what it is compared with: the cells of `rows` in its column, of its block or else of the first.

        Returns:
            the cell and one a row, in the order of `rows`; nothing for a cell of these rows themselves, and where its
            column lacks one of them.
        """
        columns = [[other for other in cells if (other.row, other.column) == (row, cell.column)] for row in self.rows]
        if cell.row in self.rows or not all(columns):
            return []
        return [cell, *(next((o for o in column if o.block == cell.block), column[0]) for column in columns)]


class Difference(Comparison):
    """The row minus another."""

    def measure(self, measure: Measure) -> Measure:
        title = f"{measure.title} minus that of {self.rows[0]}"
        unit = "points" if measure.unit == "%" else measure.unit
        return replace(measure, title=title, unit=unit, digits=measure.digits + 1, sign="+")

    def number(self, own: float, *others: float) -> float:
        (base,) = others
        return own - base

    def over_seeds(self, values: Sequence[Sequence[float]]) -> Statistics:
        return statistics([self.number(*of_seed) for of_seed in values])


class GapClosed(Comparison):
    """The share of the way from one row to a second, in percent: 0 is where the first stands, 100 the second."""

    def measure(self, measure: Measure) -> Measure:
        title = f"{measure.title}, gap closed from {self.rows[0]} to {self.rows[1]}"
        return replace(measure, title=title, unit="%", digits=1, ratio=True)

    def number(self, own: float, *others: float) -> float | None:
        low, high = others
        return None if high == low else 100 * (own - low) / (high - low)

    def over_seeds(self, values: Sequence[Sequence[float]]) -> Statistics:
        return ratio_of_means([(100 * (own - low), high - low) for own, low, high in values])


def comparison(
    rows: Sequence[str], measures: Sequence[Measure], against: str | None, between: tuple[str, str] | None
) -> Comparison | None:
    """The comparison that is asked for, if one is.

    Args:
        rows: that there are.
        measures: to be compared.
        against: the row to take the difference to.
        between: the two rows whose gap is closed.

    Raises:
        ValueError: for both at once, for a row that is not there or twice there, and for a measure without a value for
            a single seed.
    """
    if against is not None and between is not None:
        raise ValueMistake(
            f"against={against!r} and between={between!r} are both given, expected one: a table shows one comparison"
        )
    made: Comparison
    if against is not None:
        option, made = "against", Difference((against,))
    elif between is not None:
        option, made = "between", GapClosed(between)
    else:
        return None
    for row in made.rows:
        choice(option, row, rows)
    given = f"{option}={against or between!r}"
    if len(set(made.rows)) < len(made.rows):
        raise ValueMistake(f"{given} names one row twice, expected two rows: full training and an oracle")
    for measure in measures:
        if measure.spread:
            raise ValueMistake(
                f"{given} is given with {measure.name}, which has no value for a single seed, expected another "
                f"measure: choose one with --measures"
            )
    return made


def ratio_of_means(pairs: Sequence[tuple[float, float]]) -> Statistics:
    """The ratio of two means over the same seeds, with the interval of Fieller's theorem.

    The interval holds every ratio R for which the mean of u - R v does not differ from 0 by Student's t:
    mean(u - R v)^2 <= t^2 var(u - R v) / n, a quadratic in R. It is bounded where the interval of the denominator alone
    excludes 0; elsewhere none is given.

    Args:
        pairs: numerator u and denominator v, one pair a seed.

    Source: Fieller, "Some problems in interval estimation", J. R. Stat. Soc. B 16 (1954).
    """
    n = len(pairs)
    if n == 0:
        return Statistics(n, None)
    mean = np.mean(pairs, axis=0)
    if mean[1] == 0:
        return Statistics(n, None)
    value = float(mean[0] / mean[1])
    if n == 1:
        return Statistics(n, value)
    quadratic = np.outer(mean, mean) - t_quantile(n) ** 2 * np.cov(pairs, rowvar=False) / n
    (c, b), (_, a) = quadratic.tolist()  # a R^2 - 2 b R + c <= 0
    if a <= 0:
        return Statistics(n, value)
    half = math.sqrt(max(b * b - a * c, 0.0))  # 0 where rounding alone makes it negative
    return Statistics(n, value, (b - half) / a, (b + half) / a)
