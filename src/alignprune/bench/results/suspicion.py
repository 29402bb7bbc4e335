"""How suspect the losses of a run make its samples, epoch by epoch, by ten statistics of them.

A statistic gives every sample a suspicion after every epoch, from what the run has seen up to then. All of them run
forward through the epochs once. Diagnosis against the truth; never fed back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from alignprune.alignment import FLAT_VARIANCE, dynamic_alignment_score
from alignprune.bench.run import trace
from alignprune.errors import ValueMistake

MIN_OBSERVATIONS = 3
"""Samples seen in fewer epochs than this have no alignment, as in `alignprune.alignment`."""

_Array = NDArray[Any]
_Rows = Iterator[_Array]


@dataclass(frozen=True, eq=False)
class History:
    """What a run saw of its samples, and the truth about their labels.

    Attributes:
        losses: float [E, N], NaN where a sample was not seen.
        margins: float [E, N], logit of the given label minus the largest other logit; NaN where it is not known.
        reference: float [E], the reference loss after every epoch; None without one.
        is_noisy: bool [N], whether the given label is wrong.

    Raises:
        ValueError: for shapes that do not fit, and where all labels are right or all are wrong.
    """

    losses: _Array
    margins: _Array
    reference: _Array | None
    is_noisy: _Array

    def __post_init__(self) -> None:
        if self.losses.ndim != 2:
            raise ValueMistake(f"losses has shape {self.losses.shape}, expected [E, N]: a row an epoch")
        epochs, samples = self.losses.shape
        for name, shape in (("margins", (epochs, samples)), ("reference", (epochs,)), ("is_noisy", (samples,))):
            given = getattr(self, name)
            if given is not None and given.shape != shape:
                raise ValueMistake(f"{name} has shape {given.shape}, expected {shape}: losses has {self.losses.shape}")
        if self.is_noisy.all() or not self.is_noisy.any():
            kind = "wrong" if self.is_noisy.all() else "right"
            raise ValueMistake(f"is_noisy says that all labels are {kind}, expected both kinds: take a run with noise")


def load(path: Path) -> History:
    """Read the trace of a run.

    Args:
        path: trace.npz, as `alignprune.bench.run.trace` writes it.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if an array is missing, the truth included, or they do not fit together.
    """
    stored = trace.load(path)
    if stored.is_noisy is None:
        raise ValueMistake(
            f"path={str(path)!r} is without the array 'is_noisy', expected the trace of a run whose wrong labels are "
            f"known: draw noise with --noise and --noise-rate"
        )
    losses, margins, reference = (part.float().numpy() for part in (stored.losses, stored.margins, stored.reference))
    return History(losses, margins, None if np.isnan(reference).all() else reference, stored.is_noisy.numpy())


@dataclass(frozen=True)
class Statistic:
    """A way to suspect samples.

    Attributes:
        name: in words.
        by_epoch: from a history one row an epoch, float64 [N]: high = suspect, NaN = nothing known yet.
        needs_reference: whether the history must have a reference.
        needs_plain_losses: whether it reads the probability of the given label off its loss, so that the losses must
            be cross-entropies without label smoothing, which never lets them fall to 0.
    """

    name: str
    by_epoch: Callable[[History], _Rows]
    needs_reference: bool = False
    needs_plain_losses: bool = False


def _mean(values: _Array, decay: float = 1.0) -> _Rows:
    """After each row the mean of each column so far; an observation k observations back has the weight decay^k."""
    total, weight = np.zeros((2, values.shape[1]))
    for row in values:
        seen = ~np.isnan(row)
        total = np.where(seen, decay * total + row, total)
        weight = np.where(seen, decay * weight + 1, weight)
        yield _ratio(total, weight)


def _mean_in_window(values: _Array, window: int) -> _Rows:
    """After each row the mean of each column over the last rows."""
    for rows in _windows(values, window):
        seen = ~np.isnan(rows)
        yield _ratio(np.where(seen, rows, 0.0).sum(axis=0), seen.sum(axis=0))


def _windows(values: _Array, window: int) -> Iterator[_Array]:
    return (values[max(0, end - window) : end] for end in range(1, len(values) + 1))


def _ratio(total: _Array, weight: _Array) -> _Array:
    return np.divide(total, weight, out=np.full(len(total), math.nan), where=weight > 0)


def _wrong_events(losses: _Array) -> _Array:
    """1 where the given label has less than half of the probability, 0 where it has more, NaN where not seen."""
    return np.where(np.isnan(losses), losses, np.exp(-losses) < 0.5)


def _misalignment_in_window(history: History, window: int) -> _Rows:
    """Minus the dynamic alignment score."""
    pairs = zip(_windows(history.losses, window), _windows(_reference(history), window), strict=True)
    for losses, reference in pairs:
        score = dynamic_alignment_score(
            torch.from_numpy(losses), torch.from_numpy(reference), min_observations=MIN_OBSERVATIONS
        )
        yield -score.double().numpy()


def _misalignment(history: History) -> _Rows:
    """Minus the alignment since the start, from running sums of centred products (Welford, 1962)."""
    count, mean, mean_reference, xx, rr, xr = np.zeros((6, len(history.is_noisy)))
    for row, reference in zip(history.losses, _reference(history), strict=True):
        seen = ~np.isnan(row + reference)
        count += seen
        observations = np.maximum(count, 1)
        x, r = (np.where(seen, new - old, 0.0) for new, old in ((row, mean), (reference, mean_reference)))
        mean += x / observations
        mean_reference += r / observations
        share = (observations - 1) / observations
        xx, rr, xr = xx + share * x * x, rr + share * r * r, xr + share * x * r
        trend = np.minimum(xx, rr) >= FLAT_VARIANCE * observations  # without one the alignment is 0
        correlation = np.divide(xr, np.sqrt(xx * rr), out=np.zeros_like(xr), where=trend)
        yield np.where(count < MIN_OBSERVATIONS, math.nan, -np.clip(correlation, -1, 1))


def _reference(history: History) -> _Array:
    if history.reference is None:
        raise ValueMistake("reference=None, but alignment needs one: take a run with a reference, or other statistics")
    return history.reference


def _mean_rank(*statistics: _Rows) -> _Rows:
    """The mean of a sample's ranks by several statistics, among the samples that have a value by all of them."""
    from scipy.stats import rankdata

    for rows in zip(*statistics, strict=True):
        known: _Array = ~np.isnan(np.stack(rows)).any(axis=0)
        ranks = np.full(len(known), math.nan)
        ranks[known] = np.mean([rankdata(row[known]) for row in rows], axis=0)
        yield ranks


STATISTICS: dict[str, Statistic] = {
    statistic.name: statistic
    for statistic in (
        Statistic("last loss", lambda history: _mean(history.losses, decay=0)),
        Statistic("mean loss, window 5", lambda history: _mean_in_window(history.losses, 5)),
        Statistic("mean loss since the start", lambda history: _mean(history.losses)),
        Statistic("exponential mean, 0.9", lambda history: _mean(history.losses, decay=0.9)),
        Statistic(
            "share of wrong events", lambda history: _mean(_wrong_events(history.losses)), needs_plain_losses=True
        ),
        Statistic("mean error probability", lambda history: _mean(-np.expm1(-history.losses)), needs_plain_losses=True),
        Statistic("area under the margin", lambda history: _mean(-history.margins)),  # Pleiss et al., NeurIPS 2020
        Statistic("alignment, window 25", lambda history: _misalignment_in_window(history, 25), needs_reference=True),
        Statistic("alignment since the start", _misalignment, needs_reference=True),
        Statistic(
            "rank of mean loss + rank of alignment since the start",
            lambda history: _mean_rank(_mean(history.losses), _misalignment(history)),
            needs_reference=True,
        ),
    )
}
"""By name every statistic, in the order in which they are shown."""
