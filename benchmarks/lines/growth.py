"""How the end of an epoch grows with the number of samples."""

from __future__ import annotations

from functools import partial

import numpy as np

from lines.formula import Falling, Memorising
from lines.line import Found, Line, Sizes, seconds_of
from lines.process import alone

METHODS = ("infobatch+das", "robust")


def growth(method: str, sizes: Sizes) -> Found:
    """Slope of seconds over samples, both as logarithms; the smallest size, of which fixed costs are most, aside."""
    repeats = {samples: sizes.repeats if samples <= 1_000_000 else sizes.few_repeats for samples in sizes.growing}
    seconds = {samples: alone(_end_of_epoch, method, samples, sizes.window, repeats[samples]) for samples in repeats}
    slope = np.polyfit(np.log([*seconds])[1:], np.log([*seconds.values()])[1:], 1)[0]
    largest = sizes.growing[-1]
    return Found(
        float(slope), largest, repeats[largest], 1e3 * seconds[largest], details={"method": method, "seconds": seconds}
    )


def _end_of_epoch(method: str, samples: int, window: int, repeats: int) -> float:
    """Median seconds of `end_epoch`."""
    aligned = method != "robust"
    training = Falling.begin(method, samples, window, repeats) if aligned else Memorising.begin(samples, repeats)
    seconds = []
    for _ in range(repeats):
        training.read()
        seconds.append(seconds_of(training.end))
    return float(np.median(seconds))


LINES = tuple(
    Line(f"end_epoch, {method}: growth", "1 = as the samples, in log-log", 1.1, partial(growth, method))
    for method in METHODS
)
