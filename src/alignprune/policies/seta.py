"""SeTa: thin at random, group by score, and slide a window over the groups from easy to hard."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from alignprune._checks import choice, floor, integer, number
from alignprune._ranks import Indices
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
    by_parts: ClassVar[bool] = True

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
        ends = evidence.pool.extremes(values[ranked])
        if evidence.epoch == 0 or ends is None:
            keep[ranked] = True
            return Selection.of_mask(keep)
        group, count = self._at_random(evidence, ranked) if ends[0] == ends[1] else self._group(evidence, ranked)
        window = max(1, self._window(count))
        start = evidence.epoch % (count - window + 1)
        inside = ranked[(group >= start) & (group < start + window)]
        keep[inside] = True
        return Selection.of_mask(keep, thresholds=evidence.pool.extremes(evidence.score.numpy()[inside]) or ())

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
        return evidence.choose("select", None, floor((1 - self.prune_prob) * evidence.num_samples))

    def _at_random(self, evidence: Evidence, ranked: Indices) -> tuple[_Array, int]:
        """Equal parts of a random order, as the authors, where there is nothing to group by."""
        size = evidence.pool.count(ranked)
        count = min(self.groups, size)
        group = np.full(len(ranked), count - 1, dtype=np.int64)
        for part in range(count - 1, 0, -1):
            first = evidence.choose("groups", ranked, -(-part * size // count))
            group[np.searchsorted(ranked, first)] = part - 1
        return group, count

    def _group(self, evidence: Evidence, ranked: Indices) -> tuple[_Array, int]:
        """The group of every ranked sample, 0 = easiest, and the number of groups."""
        values, taken = evidence.suspicion.numpy(), np.zeros(evidence.size, dtype=bool)
        taken[ranked] = True
        panel, in_panel = evidence.pool.panel(values, taken)
        find = _sklearn_thresholds if self.grouping == "sklearn" else kmeans_1d
        thresholds = find(panel[in_panel], self.groups)
        return np.searchsorted(thresholds, values[ranked], side="right"), len(thresholds) + 1


def _sklearn_thresholds(values: _Array, groups: int) -> _Array:
    try:
        from sklearn.cluster import KMeans
    except ImportError as error:
        raise MissingExtra(
            "grouping='sklearn' needs scikit-learn: pip install scikit-learn, or use grouping='exact'"
        ) from error
    count = min(groups, len(np.unique(values)))
    # float64, as scikit-learn makes of the torch tensor that the authors pass
    means = KMeans(n_clusters=count, random_state=0).fit(values.reshape(-1, 1).astype(np.float64))
    centres = np.sort(means.cluster_centers_.ravel())
    middles: _Array = (centres[1:] + centres[:-1]) / 2
    return middles
