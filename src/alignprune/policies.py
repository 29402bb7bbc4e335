"""Policies: what to keep. A score (and a ledger) goes in, the next epoch's Selection comes out.

Pure: a policy is a frozen record of settings; all randomness comes from the generator it is given. Samples without a
score (NaN) are never pruned by rank. Nothing is ever removed for good: every epoch chooses from the whole data set.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alignprune._checks import choice, floor, integer, number
from alignprune.errors import MissingExtra, ValueMistake
from alignprune.grouping import kmeans_1d
from alignprune.ledger import Ledger

Rounding = Literal["round", "ceil"]
Order = Literal["ascending", "descending"]
Grouping = Literal["exact", "sklearn"]

_Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Selection:
    """The samples of one epoch.

    Attributes:
        indices: int64 [K], ascending, each sample at most once.
        weights: float32 [K] loss weights of these samples, or None where all are 1; 0 = only looked at.
        num_samples: size N of the data set they are chosen from.
        suspects: int64 [S], ascending: samples whose label the policy takes for wrong, whether they are looked at or
            left out; None for policies that do not tell.
        noise_rate: share of wrong labels in the data set as the policy estimates it; None where it does not, or cannot.
        uniform: whether the samples were drawn without regard to anything known of them but when they were seen.
    """

    indices: Tensor
    weights: Tensor | None
    num_samples: int
    suspects: Tensor | None = None
    noise_rate: float | None = None
    uniform: bool = False

    @classmethod
    def full(cls, num_samples: int) -> Selection:
        """All samples, weight 1."""
        return cls(torch.arange(num_samples), None, num_samples, uniform=True)

    @classmethod
    def of_mask(cls, keep: _Array, *, uniform: bool = False) -> Selection:
        """The samples whose entry in a boolean array [N] is true, weight 1."""
        return cls(torch.from_numpy(np.flatnonzero(keep)), None, len(keep), uniform=uniform)

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def pruned_share(self) -> float:
        """Share of the data set that is left out, in [0, 1]."""
        return 1.0 - len(self) / self.num_samples

    @cached_property
    def pruned(self) -> Tensor:
        """The samples left out, int64 [N - K], ascending."""
        keep = np.ones(self.num_samples, dtype=bool)
        keep[self.indices.numpy()] = False
        return torch.from_numpy(np.flatnonzero(keep))

    def dense_weights(self) -> Tensor | None:
        """Loss weights by sample, float32 [N], 1 for samples left out; None where all are 1."""
        if self.weights is None:
            return None
        return torch.ones(self.num_samples).index_copy_(0, self.indices, self.weights)


@dataclass(frozen=True)
class Policy(ABC):
    """What every policy offers; subclasses are frozen records of their settings."""

    annealing: ClassVar[float] = 1.0
    """Default of ``delta``: annealing starts at epoch floor(delta * epochs); 1 = never."""
    in_batch: ClassVar[bool] = False
    """Whether the policy chooses inside each batch (`Pruner.choose`) instead of between epochs."""
    needs_ledger: ClassVar[bool] = False
    """Whether it reads the ledger, which remembers the whole run."""

    @abstractmethod
    def select(self, score: Tensor, epoch: int, generator: torch.Generator, ledger: Ledger | None = None) -> Selection:
        """Choose the samples of an epoch.

        Args:
            score: float32 [num_samples] on the CPU, higher = kept, NaN = no score yet.
            epoch: the epoch chosen for, from 0.
            generator: the only source of randomness.
            ledger: what the whole run has told; for policies that need it.
        """

    def anneal(self, num_samples: int, generator: torch.Generator) -> Selection:
        """Choose the samples of an annealing epoch: all of them, unless the method says otherwise."""
        return Selection.full(num_samples)

    def check(self, num_samples: int) -> None:
        """Raise ValueError if the policy cannot work on a data set of this size."""
        return None


@dataclass(frozen=True)
class Full(Policy):
    """Every sample in every epoch: the baseline that the others are measured against."""

    def select(self, score: Tensor, epoch: int, generator: torch.Generator, ledger: Ledger | None = None) -> Selection:
        return Selection.full(len(score))


@dataclass(frozen=True)
class DynamicRandom(Policy):
    """A fresh uniform subset of floor((1 - prune_ratio) * N) samples every epoch, no annealing.

    Args:
        prune_ratio: share of the data set left out, in [0, 1): exactly the share of forward passes saved.

    Source: paper Table 1, the baseline "Dynamic Random".
    """

    prune_ratio: float = 0.3

    def __post_init__(self) -> None:
        number("prune_ratio", self.prune_ratio, low=0, high=1, open_high=True, remedy="0.3 leaves out 30 %")

    def select(self, score: Tensor, epoch: int, generator: torch.Generator, ledger: Ledger | None = None) -> Selection:
        return uniform(len(score), self.prune_ratio, generator)

    def check(self, num_samples: int) -> None:
        refuse_empty("prune_ratio", self.prune_ratio, num_samples)


@dataclass(frozen=True)
class InfoBatch(Policy):
    """Prune a share of the samples that score below the mean, and weigh up those of them that stay.

    Of L = {i: score_i < mean score}, floor((1 - prune_prob) * |L|) are kept, drawn without replacement, with weight
    1 / (1 - prune_prob): the expected gradient is that of the full data. With the loss as score L is what is learned
    well; with the alignment score it is what moves against the reference.

    Args:
        prune_prob: the paper's r, in [0, 1]; 1 drops all of L.
        rescale: whether kept low samples get their weight; without it pruned labels lose influence for good.

    Source: Qin et al. (ICLR 2024).
    """

    annealing: ClassVar[float] = 0.875

    prune_prob: float = 0.5
    rescale: bool = True

    def __post_init__(self) -> None:
        number("prune_prob", self.prune_prob, low=0, high=1, remedy="0.5 drops half of the low-score samples")

    def select(self, score: Tensor, epoch: int, generator: torch.Generator, ledger: Ledger | None = None) -> Selection:
        values = score.numpy()
        low = values < known_mean(values)
        candidates = np.flatnonzero(low)
        kept = _draw(candidates, floor((1 - self.prune_prob) * len(candidates)), generator)
        keep = ~low
        keep[kept] = True
        selection = Selection.of_mask(keep)
        if not self.rescale or not len(kept) or self.prune_prob == 0:
            return selection
        weights = np.where(low[selection.indices.numpy()], np.float32(1 / (1 - self.prune_prob)), np.float32(1))
        return Selection(selection.indices, torch.from_numpy(weights), len(values))


@dataclass(frozen=True)
class SeTa(Policy):
    """Thin at random, group by score, and slide a window over the groups from easy to hard.

    Every epoch keeps floor((1 - prune_prob) * N) samples at random, divides them into ``groups`` by one-dimensional
    k-means of their scores, and takes w = round(groups * alpha) neighbouring groups, starting at group
    ``epoch mod (groups - w + 1)``; epoch 0 takes all. No weights. Annealing draws floor((1 - prune_prob) * N) samples.

    Args:
        prune_prob: share thinned out at random, in [0, 1).
        groups: number of groups, the paper's k.
        alpha: the window's share of the groups, in (0, 1].
        order: which end is easy: "ascending" for the loss, "descending" for the alignment score (easy = aligned).
        rounding: "round" is half to even as in the authors' code (5 * 0.9 -> 4); "ceil" would take all 5.
        grouping: "exact" is the optimal grouping; "sklearn" is the authors' scikit-learn call.

    Source: Zhou et al. (CVPR 2025).
    """

    annealing: ClassVar[float] = 0.875

    prune_prob: float = 0.1
    groups: int = 5
    alpha: float = 0.9
    order: Order = "ascending"
    rounding: Rounding = "round"
    grouping: Grouping = "exact"

    def __post_init__(self) -> None:
        number("prune_prob", self.prune_prob, low=0, high=1, open_high=True, remedy="SeTa thins out 0.1 on CIFAR")
        integer("groups", self.groups, at_least=1, remedy="SeTa uses 5")
        number("alpha", self.alpha, low=0, high=1, remedy="the window's share of the groups; SeTa uses 0.9")
        choice("order", self.order, get_args(Order))
        choice("rounding", self.rounding, get_args(Rounding))
        choice("grouping", self.grouping, get_args(Grouping))
        if self._window(self.groups) < 1:
            raise ValueMistake(
                f"alpha={self.alpha!r} of groups={self.groups!r} rounds to a window of no group: raise alpha to at "
                f"least {1 / self.groups:g}"
            )

    def select(self, score: Tensor, epoch: int, generator: torch.Generator, ledger: Ledger | None = None) -> Selection:
        values = score.numpy()
        drawn = _draw(np.arange(len(values)), floor((1 - self.prune_prob) * len(values)), generator)
        scored = ~np.isnan(values[drawn])
        ranked = drawn[scored]
        keep = np.zeros(len(values), dtype=bool)
        keep[drawn[~scored]] = True  # no score yet: not pruned by rank
        if epoch == 0 or not len(ranked):
            keep[ranked] = True
        else:
            group, count = self._group(values[ranked])
            window = max(1, self._window(count))
            start = epoch % (count - window + 1)
            keep[ranked[(group >= start) & (group < start + window)]] = True
        return Selection.of_mask(keep)

    def anneal(self, num_samples: int, generator: torch.Generator) -> Selection:
        return uniform(num_samples, self.prune_prob, generator)

    def check(self, num_samples: int) -> None:
        refuse_empty("prune_prob", self.prune_prob, num_samples)
        if self.groups > floor((1 - self.prune_prob) * num_samples):
            raise ValueMistake(
                f"groups={self.groups} is more than the {floor((1 - self.prune_prob) * num_samples)} samples that "
                f"prune_prob={self.prune_prob} leaves of num_samples={num_samples}: ask for fewer groups"
            )

    def _window(self, groups: int) -> int:
        product = round(groups * self.alpha, 9)
        return round(product) if self.rounding == "round" else int(np.ceil(product))

    def _group(self, values: _Array) -> tuple[_Array, int]:
        """The group of every value, 0 = easiest, and the number of groups."""
        if values.min() == values.max():  # nothing to group by: equal parts of the random order, as the authors
            return np.arange(len(values)) * self.groups // len(values), self.groups
        if self.grouping == "sklearn":
            group, count = _sklearn_groups(values, self.groups)
        else:
            thresholds = kmeans_1d(values, self.groups)
            group, count = np.searchsorted(thresholds, values, side="right"), len(thresholds) + 1
        return (count - 1 - group if self.order == "descending" else group), count


@dataclass(frozen=True)
class IES(Policy):
    """Leave out every sample whose score is below a fixed threshold; recomputed from scratch each epoch.

    With `SecondDifference` as score a sample is left out once its loss runs straight. Nothing is rescaled or
    annealed. With the alignment score it is InfoBatch's rule with a fixed instead of the mean threshold (paper A.4).

    Args:
        threshold: samples that score below it are left out; 1e-3 on CIFAR-10, 2e-3 on CIFAR-100.

    Source: Yuan et al. (ICLR 2025).
    """

    threshold: float = 1e-3

    def __post_init__(self) -> None:
        number("threshold", self.threshold, low=-np.inf, high=np.inf, remedy="IES uses 1e-3 on CIFAR-10")

    def select(self, score: Tensor, epoch: int, generator: torch.Generator, ledger: Ledger | None = None) -> Selection:
        return Selection.of_mask(~(score.numpy() < self.threshold))


def uniform(num_samples: int, share_left_out: float, generator: torch.Generator) -> Selection:
    """floor((1 - share_left_out) * num_samples) samples, drawn without regard to anything."""
    keep = np.zeros(num_samples, dtype=bool)
    keep[_draw(np.arange(num_samples), floor((1 - share_left_out) * num_samples), generator)] = True
    return Selection.of_mask(keep, uniform=True)


def _draw(items: _Array, count: int, generator: torch.Generator) -> _Array:
    """``count`` of the items without replacement, in random order."""
    width = torch.int32 if len(items) < 2**31 else torch.int64  # half the memory traffic of a permutation
    drawn: _Array = items[torch.randperm(len(items), generator=generator, dtype=width).numpy()[:count]]
    return drawn


def known_mean(values: _Array) -> float:
    """The mean of the scores that there are, NaN if there are none: then no comparison with it is true."""
    known = values[~np.isnan(values)]
    return float(known.mean(dtype=np.float64)) if len(known) else np.nan


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


def refuse_empty(name: str, share: float, num_samples: int) -> None:
    """Raise ValueError where a share left out leaves no sample."""
    if floor((1 - share) * num_samples) < 1:
        raise ValueMistake(f"{name}={share} keeps none of num_samples={num_samples}: choose a smaller share")
