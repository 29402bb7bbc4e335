"""RCAP: give every class its share by its loss, and draw inside of a class, high losses first."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from alignprune._checks import choice, floor, number
from alignprune.policies.contract import Evidence, Policy, refuse_empty
from alignprune.selection import Selection

Aggregate = Literal["mean", "sum"]

_Array = NDArray[Any]

_LEAST = 1e-12  # of a class's loss: one that is learned to the last sample keeps a share, and 0 / 0 is none


@dataclass(frozen=True)
class RCAP(Policy):
    """Give every class its share by its loss, and draw inside of a class, high losses first.

    Of floor((1 - prune_ratio) * N) samples class c gets a part in proportion to sqrt(p_c L_c), p_c being its share of
    the data and L_c its loss; what a class does not have goes to the others. Inside of a class samples are drawn one
    after the other without replacement, in proportion to exp(loss / temperature). Losses are clipped to [0, log C], the
    loss of a guess among C classes, which a sample without a score has too. Unlabelled samples are a class of their
    own. No weights, no annealing.

    Attributes:
        prune_ratio: share of the data set left out, in [0, 1): exactly the share of forward passes saved.
        temperature: the authors' beta: the smaller, the more the highest losses are preferred.
        aggregate: what L_c is, the "mean" of the losses of a class, or their "sum". In the authors' code it is a sum of
            numbers that are normalised within each class, so that the size of a class enters by p_c alone, as with the
            mean.

    Source: Hassan et al. (UAI 2025), by the authors' code. `docs/methods.md` says what that leaves open.
    """

    needs_labels: ClassVar[bool] = True
    by_parts: ClassVar[bool] = True

    prune_ratio: float = 0.3
    temperature: float = 1.0
    aggregate: Aggregate = "mean"

    def __post_init__(self) -> None:
        number("prune_ratio", self.prune_ratio, low=0, high=1, open_high=True, remedy="0.3 leaves out 30 %")
        number("temperature", self.temperature, low=1e-3, high=1e3, remedy="the authors try 1/3 to 3")
        choice("aggregate", self.aggregate, get_args(Aggregate))

    def select(self, evidence: Evidence) -> Selection:
        assert evidence.labels is not None  # `needs_labels`
        pool, classes = evidence.pool, evidence.labels.numpy() + 1  # 0 = unlabelled, a class of its own
        most = int(pool.highest(np.array([classes.max(initial=0)]))[0])
        guess = math.log(max(2, most))
        losses = np.nan_to_num(evidence.score.numpy().astype(np.float64), nan=guess).clip(0, guess)
        counts = pool.total(np.bincount(classes, minlength=most + 1))
        level = pool.total(np.bincount(classes, losses, most + 1))[counts > 0]
        names, counts = np.flatnonzero(counts), counts[counts > 0]
        level = np.maximum(level / counts if self.aggregate == "mean" else level, _LEAST)
        quotas = np.zeros(most + 1, dtype=np.int64)
        quotas[names] = divide(
            floor((1 - self.prune_ratio) * evidence.num_samples), np.sqrt(counts * level), counts, _ties(evidence)
        )
        values = (-losses / self.temperature - _gumbel(evidence)).astype(np.float32)
        kept = pool.least_of_each(values, np.arange(evidence.size), classes, quotas, evidence.draws, "level")
        return Selection(torch.from_numpy(kept), None, evidence.size)

    def check(self, num_samples: int) -> None:
        refuse_empty("prune_ratio", self.prune_ratio, num_samples)


def divide(total: int, weight: _Array, counts: _Array, ties: _Array) -> _Array:
    """Divide a number of samples among classes in proportion to their weights, no class more than it has.

    Args:
        total: to divide, at most the sum of the counts.
        weight: float64 [C], positive.
        counts: int64 [C], the samples of every class.
        ties: [C], which of equal remainders is rounded up first: the smallest.

    Returns:
        int64 [C], summing to ``total``. It does not depend on the order of the classes: sums are exactly rounded.
    """
    share, short = counts.astype(np.float64), np.ones(len(counts), dtype=bool)
    while short.any():  # of the classes that may not be wanted as a whole
        rest = total - int(counts[~short].sum())
        share[short] = (rest * weight[short] / math.fsum(weight[short])).round(9)
        full = short & (share >= counts)
        share[full] = counts[full]
        if not full.any():
            break
        short &= ~full
    whole = np.floor(share).astype(np.int64)
    order = np.lexsort((ties, -(share - whole).round(9)))
    whole[order[: total - int(whole.sum())]] += 1
    return whole


def _ties(evidence: Evidence) -> _Array:
    """A key for every class that there is, that of its first sample: what classes are called changes nothing."""
    assert evidence.labels is not None
    classes = evidence.labels.numpy() + 1
    size = int(evidence.pool.highest(np.array([classes.max(initial=0)]))[0]) + 1
    samples = evidence.pool.samples_of(np.arange(evidence.size))
    last = np.full(size, -evidence.num_samples, dtype=np.int64)
    np.maximum.at(last, classes, -samples)
    last = evidence.pool.highest(last)
    return evidence.draws.keys("classes", -last[last > -evidence.num_samples])


def _gumbel(evidence: Evidence) -> _Array:
    """Gumbel noise by the key of each sample: the highest of log-weight + noise are draws without replacement."""
    uniform = (evidence.keys("within").astype(np.float64) + 0.5) / 2.0**32
    noise: _Array = -np.log(-np.log(uniform))
    return noise
