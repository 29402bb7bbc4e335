"""RCAP: give every class its share by its loss, and draw inside of a class, high losses first."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from alignprune._checks import choice, floor, number
from alignprune._ranks import Draws
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

    prune_ratio: float = 0.3
    temperature: float = 1.0
    aggregate: Aggregate = "mean"

    def __post_init__(self) -> None:
        number("prune_ratio", self.prune_ratio, low=0, high=1, open_high=True, remedy="0.3 leaves out 30 %")
        number("temperature", self.temperature, low=1e-3, high=1e3, remedy="the authors try 1/3 to 3")
        choice("aggregate", self.aggregate, get_args(Aggregate))

    def select(self, evidence: Evidence) -> Selection:
        assert evidence.labels is not None  # `needs_labels`
        size = evidence.num_samples
        _, first, group, counts = np.unique(
            evidence.labels.numpy(), return_index=True, return_inverse=True, return_counts=True
        )
        guess = math.log(max(2, int(evidence.labels.max()) + 1))
        losses = np.nan_to_num(evidence.score.numpy().astype(np.float64), nan=guess).clip(0, guess)
        level = np.bincount(group, losses)
        level = np.maximum(level / counts if self.aggregate == "mean" else level, _LEAST)
        ties = evidence.draws.keys("classes", first)
        quotas = divide(floor((1 - self.prune_ratio) * size), np.sqrt(counts * level), counts, ties)
        order = np.lexsort((-losses / self.temperature - _gumbel(evidence.draws, size), group))
        place = np.arange(size) - (np.cumsum(counts) - counts)[group[order]]
        keep = np.zeros(size, dtype=bool)
        keep[order[place < quotas[group[order]]]] = True
        return Selection.of_mask(keep)

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


def _gumbel(draws: Draws, size: int) -> _Array:
    """Gumbel noise by the key of each sample: the highest of log-weight + noise are draws without replacement."""
    uniform = (draws.keys("within", size).astype(np.float64) + 0.5) / 2.0**32
    noise: _Array = -np.log(-np.log(uniform))
    return noise
