"""SeTa: thin at random, group by score, and slide a window over the groups from easy to hard."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from alignprune._checks import choice, floor, integer, number
from alignprune._ranks import Draws, Indices
from alignprune.errors import MissingExtra, ValueMistake
from alignprune.policies.contract import Evidence, Policy, refuse_empty, uniform
from alignprune.policies.grouping import kmeans_1d
from alignprune.selection import Selection

Rounding = Literal["round", "ceil"]
Grouping = Literal["exact", "sklearn"]

_Array = NDArray[Any]


@dataclass(frozen=True)
class SeTa(Policy):
    """Thin at random, group by score, and slide a window over the groups from easy to hard.

    Every epoch keeps floor((1 - prune_prob) * N) samples at random, divides them into ``groups`` by one-dimensional
    k-means of their scores, and takes w = round(groups * alpha) neighbouring groups, starting at group
    ``epoch mod (groups - w + 1)``; epoch 0 takes all. Easy is the end of the scores that is not
    suspect: low losses, high alignment. No weights. Annealing draws floor((1 - prune_prob) * N) samples.

    Attributes:
        prune_prob: share thinned out at random, in [0, 1).
        groups: number of groups, the paper's k.
        alpha: the window's share of the groups, in (0, 1].
        rounding: "round" is half to even as in the authors' code (5 * 0.9 -> 4); "ceil" would take all 5.
        grouping: "exact" is the optimal grouping; "sklearn" is the authors' scikit-learn call.

    Source: Zhou et al. (CVPR 2025).
    """

    annealing: ClassVar[float] = 0.875

    prune_prob: float = 0.1
    groups: int = 5
    alpha: float = 0.9
    rounding: Rounding = "round"
    grouping: Grouping = "exact"

    def __post_init__(self) -> None:
        number("prune_prob", self.prune_prob, low=0, high=1, open_high=True, remedy="SeTa thins out 0.1 on CIFAR")
        integer("groups", self.groups, at_least=1, remedy="SeTa uses 5")
        number("alpha", self.alpha, low=0, high=1, remedy="the window's share of the groups; SeTa uses 0.9")
        choice("rounding", self.rounding, get_args(Rounding))
        choice("grouping", self.grouping, get_args(Grouping))
        if self._window(self.groups) < 1:
            raise ValueMistake(
                f"alpha={self.alpha!r} of groups={self.groups!r} rounds to a window of no group, expected one at "
                f"least: raise alpha to {1 / self.groups:g} or more"
            )

    def select(self, evidence: Evidence) -> Selection:
        values = evidence.suspicion.numpy()
        drawn = self._thinned(evidence)
        scored = ~np.isnan(values[drawn])
        ranked = drawn[scored]
        keep = np.zeros(len(values), dtype=bool)
        keep[drawn[~scored]] = True  # no score yet: not pruned by rank
        thresholds: tuple[float, ...] = ()
        if evidence.epoch == 0 or not len(ranked):
            keep[ranked] = True
        else:
            group, count = self._group(values[ranked], ranked, evidence.draws)
            window = max(1, self._window(count))
            start = evidence.epoch % (count - window + 1)
            inside = ranked[(group >= start) & (group < start + window)]
            keep[inside] = True
            ends = evidence.score.numpy()[inside]
            thresholds = (float(ends.min()), float(ends.max()))
        return Selection.of_mask(keep, thresholds=thresholds)

    def anneal(self, evidence: Evidence) -> Selection:
        return uniform(evidence, self.prune_prob)

    def check(self, num_samples: int) -> None:
        refuse_empty("prune_prob", self.prune_prob, num_samples)
        if self.groups > floor((1 - self.prune_prob) * num_samples):
            raise ValueMistake(
                f"groups={self.groups} is more than the {floor((1 - self.prune_prob) * num_samples)} samples that "
                f"prune_prob={self.prune_prob} leaves of num_samples={num_samples}, expected no more: ask for fewer "
                f"groups"
            )

    def _window(self, groups: int) -> int:
        product = round(groups * self.alpha, 9)
        return round(product) if self.rounding == "round" else int(np.ceil(product))

    def _thinned(self, evidence: Evidence) -> Indices:
        size = evidence.num_samples
        return evidence.draws.choose("select", size, floor((1 - self.prune_prob) * size))

    def _group(self, values: _Array, samples: Indices, draws: Draws) -> tuple[_Array, int]:
        """The group of every value, 0 = easiest, and the number of groups."""
        if values.min() == values.max():  # nothing to group by: equal parts of a random order, as the authors
            count = min(self.groups, len(values))
            turn = np.argsort(np.argsort(draws.keys("groups", samples), kind="stable"), kind="stable")
            return turn * count // len(values), count
        if self.grouping == "sklearn":
            return _sklearn_groups(values, self.groups)
        thresholds = kmeans_1d(values, self.groups)
        return np.searchsorted(thresholds, values, side="right"), len(thresholds) + 1


def _sklearn_groups(values: _Array, groups: int) -> tuple[_Array, int]:
    try:
        from sklearn.cluster import KMeans
    except ImportError as error:
        raise MissingExtra(
            "grouping='sklearn' needs scikit-learn: pip install scikit-learn, or use grouping='exact'"
        ) from error
    count = min(groups, len(np.unique(values)))
    # float64, as scikit-learn makes of the torch tensor that the authors pass
    means = KMeans(n_clusters=count, random_state=0).fit(values.reshape(-1, 1).astype(np.float64))
    ascending = np.empty(count, dtype=np.int64)
    ascending[np.argsort(means.cluster_centers_.ravel())] = np.arange(count)
    return ascending[means.labels_], count
