"""The policy of `robust`: leave out the labels that are probably wrong, thin out the others.

Pure, as every policy: what it knows of the run it reads from the scores and the ledger.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alignprune import mixture
from alignprune._checks import choice, floor, integer, number
from alignprune.errors import ValueMistake
from alignprune.ledger import APART, CLEAR, Ledger
from alignprune.policies import Policy, Selection, known_mean, refuse_empty

Thinning = Literal["random", "easy"]
End = Literal["high", "low"]

_Array = NDArray[Any]


@dataclass(frozen=True)
class Robust(Policy):
    """Leave out the samples whose label is probably wrong, thin out the others: 1 - prune_ratio of the data an epoch.

    Which labels may be wrong is read from a mixture of two normal distributions over the scores, from the onset on that
    the ledger senses: when the network memorises, since wrong labels do their harm by being learned by heart, or when
    two distributions are clearly apart. Where neither comes, hard and wrong look alike and nobody is left out. Some
    suspects are looked at in every epoch, in the same batches, with weight 0. These losses are of samples held out, and
    where the ledger has the labels they tell hard from wrong: who is found as probable as a right label should be, by
    Bayes' rule and the odds that explain all of them best, is acquitted and trained on again; and no class loses more
    than twice the share of all. Without labels nobody is acquitted but by a falling score. The other samples take
    turns, those first that were not seen for longest, and never do all come back for an annealing.

    Args:
        prune_ratio: share of the data set left out of every epoch, in [0, 1): the share of forward passes saved. With 0
            memorisation cannot be told, and the run is taken for one that does not memorise.
        noise_rate: share of wrong labels if it is known: as many are left out as soon as any are, fewer where a class
            would lose too many, and nobody is acquitted; None = estimated.
        refresh: share of an epoch's samples that are suspects looked at, in [0, 1).
        ramp: epochs over which the suspects left out grow to their full number, at least 1.
        confused: share of the wrong labels that are taken for confusions when suspects are acquitted, in [0, 1]; see
            `Ledger.against`.
        suspect: the end of the scores that wrong labels gather at: "high" for losses, "low" for alignment.
        thinning: whether the other samples are thinned out at "random", those first that were seen last, or the "easy"
            ones first, those on the right side of their mean score, and the rest of these weighs more, as in InfoBatch.

    Source: this library; `docs/beyond.md` has what each ingredient is worth.
    """

    needs_ledger: ClassVar[bool] = True

    prune_ratio: float = 0.5
    noise_rate: float | None = None
    refresh: float = 0.1
    ramp: int = 5
    confused: float = 0.25
    suspect: End = "high"
    thinning: Thinning = "random"

    def __post_init__(self) -> None:
        number("prune_ratio", self.prune_ratio, low=0, high=1, open_high=True, remedy="0.5 leaves out half")
        if self.noise_rate is not None:
            number("noise_rate", self.noise_rate, low=0, high=1, open_high=True, remedy="None estimates it")
        number("refresh", self.refresh, low=0, high=1, open_high=True, remedy="0.1 looks again at some suspects")
        integer("ramp", self.ramp, at_least=1, remedy="1 leaves out all suspects at once")
        number(
            "confused", self.confused, low=0, high=1, remedy="0.25 takes a quarter of the wrong labels for confusions"
        )
        choice("suspect", self.suspect, get_args(End))
        choice("thinning", self.thinning, get_args(Thinning))

    def check(self, num_samples: int) -> None:
        refuse_empty("prune_ratio", self.prune_ratio, num_samples)

    def select(self, score: Tensor, epoch: int, generator: torch.Generator, ledger: Ledger | None = None) -> Selection:
        if ledger is None:
            raise ValueMistake("ledger is missing, expected a Ledger: Robust reads what the whole run has told")
        suspicion = score.numpy() if self.suspect == "high" else -score.numpy()
        budget = floor((1 - self.prune_ratio) * len(suspicion))
        age = epoch - ledger.last_seen.cpu().numpy()
        if ledger.onset is None or epoch == ledger.onset + 1:
            chosen = _longest_unseen(np.arange(len(suspicion)), age, budget, generator)
            return Selection(torch.from_numpy(chosen), None, len(suspicion), uniform=True)
        waited = epoch - ledger.onset - 1
        share, noise_rate = self._judge(suspicion, waited, ledger.onset_separation or 0.0)
        suspect = _highest(suspicion, floor(min(1.0, waited / self.ramp) * share * len(suspicion)))
        if ledger.labels is not None:
            _spare_classes(suspect, suspicion, ledger.labels.cpu().numpy(), _CLASS_LIMIT * share)
        if self.noise_rate is None:
            wrong = _acquit(suspect, ledger.against(self.confused))
            noise_rate = None if noise_rate is None else wrong * noise_rate
        looked = _longest_unseen(np.flatnonzero(suspect), age, floor(self.refresh * budget), generator)
        trained, weights = self._thin(np.flatnonzero(~suspect), suspicion, age, budget - len(looked), generator)
        dense = np.zeros(len(suspicion), dtype=np.float32)
        dense[trained] = weights * ((len(trained) + len(looked)) / max(1, len(trained)))
        indices = np.sort(np.concatenate([trained, looked]))
        weights = dense[indices]
        return Selection(
            indices=torch.from_numpy(indices),
            weights=None if (weights == 1).all() else torch.from_numpy(weights),
            num_samples=len(suspicion),
            suspects=torch.from_numpy(np.flatnonzero(suspect)),
            noise_rate=noise_rate,
        )

    def _judge(self, suspicion: _Array, waited: int, onset_separation: float) -> tuple[float, float | None]:
        """Share of the data set to leave out as suspect, and the noise rate, or None where it cannot be told yet."""
        undecided = onset_separation < APART
        if self.noise_rate is not None:
            return self.noise_rate, self.noise_rate
        if undecided and waited < self.ramp + _PATIENCE:
            return _ASSUMED, None
        known = suspicion[~np.isnan(suspicion)]
        found = mixture.fit(known)
        if found is None or (found.share < _TAIL and found.separation < CLEAR and not undecided):
            return 0.0, 0.0
        return float((known > found.cut).sum()) / len(suspicion), found.share

    def _thin(
        self, others: _Array, suspicion: _Array, age: _Array, count: int, generator: torch.Generator
    ) -> tuple[_Array, _Array]:
        """``count`` of the samples that are no suspects, or all there are, and their weights."""
        weights = np.ones(len(others), dtype=np.float32)
        if self.thinning == "easy" and len(others) > count:
            values = suspicion[others]
            easy = values < known_mean(values)
            size = int(easy.sum())
            kept = max(size - (len(others) - count), size - floor(_EASIEST * size))
            stay = _longest_unseen(others[easy], age, kept, generator)
            weights = np.concatenate([np.ones(len(others) - size), np.full(kept, size / max(1, kept))])
            others = np.concatenate([others[~easy], stay])
        if len(others) > count:
            place = np.argsort(others, kind="stable")
            others, weights = others[place], weights[place]
            chosen = _longest_unseen(others, age, count, generator)
            weights = weights[np.searchsorted(others, chosen)]
            others = chosen
        return others, weights.astype(np.float32)


# Of Robust. Groups that were not apart at the onset say nothing: half of the labels are then taken for wrong, until the
# losses of those left out, for some epochs more than the ramp, have told the two apart.
_ASSUMED, _PATIENCE = 0.5, 4
_TAIL = 0.15  # an upper component smaller than this, and not clearly apart, is the tail of the hard samples

# A class may lose this many times the share of all: a rare one is hard, and would be left out as a whole.
_CLASS_LIMIT = 2.0
_FEWEST = 20  # suspects that were looked at, below which none is acquitted
_EASIEST = 0.9  # largest share of the easy samples that is thinned out
_JITTER = 1.7  # epochs by which chance may overtake the order of age


def _spare_classes(suspect: NDArray[np.bool_], suspicion: _Array, labels: _Array, limit: float) -> None:
    """Strike off the least suspicious of every class that would lose more than ``limit`` of its samples."""
    order = np.flatnonzero(suspect)
    order = order[np.lexsort((-suspicion[order], labels[order]))]  # by class, the most suspicious first
    sizes = np.bincount(labels)
    counts = np.bincount(labels[order], minlength=len(sizes))
    rank = np.arange(len(order)) - (np.cumsum(counts) - counts)[labels[order]]
    suspect[order[rank >= np.ceil(limit * sizes[labels[order]])]] = False


def _acquit(suspect: NDArray[np.bool_], against: Tensor | None) -> float:
    """Strike off the suspects whose label is probably right by Bayes' rule; returns the share of wrong ones before.

    The odds of a label to be wrong, before it is looked at, are those that make the labels of all suspects that were
    looked at most likely.

    Args:
        suspect: bool [N], edited in place.
        against: `Ledger.against`, float32 [N]; None = nothing is known, nobody is acquitted.
    """
    if against is None:
        return 1.0
    log_ratios = against.cpu().numpy()
    heard = np.flatnonzero(suspect & ~np.isnan(log_ratios))
    if len(heard) < _FEWEST:
        return 1.0
    wrong = mixture.share(log_ratios[heard])
    suspect[heard[log_ratios[heard] < math.log((1 - wrong) / wrong)]] = False
    return wrong


def _highest(values: _Array, count: int) -> NDArray[np.bool_]:
    """Which entries are among the ``count`` highest known ones."""
    chosen = np.zeros(len(values), dtype=bool)
    known = np.flatnonzero(~np.isnan(values))
    count = min(count, len(known))
    if count:
        chosen[known[np.argpartition(values[known], len(known) - count)[len(known) - count :]]] = True
    return chosen


def _longest_unseen(items: _Array, age: _Array, count: int, generator: torch.Generator) -> _Array:
    """``count`` of the items, or all, those first that were not seen for longest; chance among about equals; sorted."""
    if count >= len(items):
        return items
    turn = age[items] + _JITTER * torch.rand(len(items), generator=generator).numpy()
    return np.sort(items[np.argpartition(-turn, count)[:count]])
