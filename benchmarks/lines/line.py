"""A line of the benchmark: what is measured, against what, and how far it may go."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Sizes:
    """How large what is measured is.

    Attributes:
        samples: of a data set of ImageNet's size.
        few: of one of CIFAR's size.
        many: of one that is only begun.
        largest: of the bank on disk.
        owned: of the state that several ranks share.
        talking: of the state whose ranks are overheard; even a quarter of it is more than a panel holds.
        growing: of the growth, ascending.
        images: that a small network is trained on.
        batch: images a training step.
        window: epochs that an alignment looks back.
        repeats: turns a line; less where a turn takes seconds.
    """

    samples: int = 1_281_167
    few: int = 50_000
    many: int = 100_000_000
    largest: int = 10_000_000
    owned: int = 20_000_000
    talking: int = 2_000_000
    growing: tuple[int, ...] = (10_000, 100_000, 1_000_000, 10_000_000)
    images: int = 1_280
    batch: int = 128
    window: int = 25
    repeats: int = 15

    @property
    def few_repeats(self) -> int:
        """Turns of a line whose turn takes seconds."""
        return max(1, self.repeats // 4)


QUICK = Sizes(
    samples=4_000,
    few=2_000,
    many=20_000,
    largest=4_000,
    owned=2_000,
    talking=2_000,
    growing=(500, 1_000, 2_000),
    images=64,
    batch=8,
    window=5,
    repeats=2,
)
"""Sizes at which every line is measured in a moment, and says nothing."""


@dataclass(frozen=True)
class Found:
    """What a line's measurement found.

    Attributes:
        ratio: of what was measured to what it is measured against.
        samples: size of the data set.
        repeats: turns that the ratio is the median of.
        milliseconds: that it took, where time was measured.
        flaw: what was wrong, whatever the ratio; empty = nothing.
        details: numbers beside.
    """

    ratio: float
    samples: int
    repeats: int = 1
    milliseconds: float | None = None
    flaw: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Line:
    """One line of the table.

    Attributes:
        what: is measured.
        against: what it is measured against.
        goal: the largest ratio that is good enough.
        measure: finds the ratio at some sizes.
    """

    what: str
    against: str
    goal: float
    measure: Callable[[Sizes], Found]

    def is_met(self, found: Found) -> bool:
        """Whether the goal was reached; a ratio that is no number reaches none."""
        return not found.flaw and found.ratio <= self.goal


def seconds_of(work: Callable[[], object]) -> float:
    """The wall time of a call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def in_turns(
    work: Callable[[], object],
    unit: Callable[[], object],
    samples: int,
    repeats: int,
    prepare: Callable[[], object] = lambda: None,
    before: Callable[[], object] = lambda: None,
) -> Found:
    """Time ``work`` against ``unit``: they take turns, since a machine's mood changes, and the median of turns counts.

    Args:
        work: what is measured.
        unit: what it is measured against.
        samples: size of the data set.
        repeats: turns; one more comes before, which warms up.
        prepare: called before every turn, outside of the time.
        before: called before each of both, outside of the time.
    """
    ratios, times = [], []
    for _ in range(repeats + 1):
        prepare()
        before()
        against = seconds_of(unit)
        before()
        times.append(seconds_of(work))
        ratios.append(times[-1] / against)
    return Found(median(ratios[1:]), samples, repeats, 1e3 * median(times[1:]))
