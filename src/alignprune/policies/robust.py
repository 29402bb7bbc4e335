"""Robust: leave out the labels that are probably wrong, thin out the others.

Pure, as every policy: what it knows of the run it reads from the score and the ledger.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from alignprune._checks import choice, floor, integer, number
from alignprune._ranks import Draws, Indices
from alignprune.memory.contract import MemorySpec
from alignprune.memory.ledger import Ledger, LedgerSpec
from alignprune.policies import mixture, onset, posterior
from alignprune.policies.contract import Evidence, Policy, known_mean, refuse_empty
from alignprune.policies.mixture import Mixture
from alignprune.policies.probe import probe
from alignprune.policies.ranking import FEWEST, by_suspicion
from alignprune.selection import Onset, Selection

Thinning = Literal["random", "easy"]

_Array = NDArray[Any]
_Mask = NDArray[np.bool_]

# A class may lose this many times the share of all: a rare one is hard, and would be left out as a whole.
_CLASS_LIMIT = 2.0
_EASIEST = 0.9  # largest share of the easy samples that is thinned out
_JITTER = 1.7  # epochs by which chance may overtake the order of age


class _Flagged(NamedTuple):
    """What becomes of the samples of an epoch, by their rank.

    Attributes:
        left_out: bool [n], those that are not trained on.
        suspects: bool [n], those of them whose label is probably wrong.
        unknown: bool [n], those of them of which nothing is known before they have been looked at.
        noise_rate: share of wrong labels in the data set; None = it cannot be said yet.
    """

    left_out: _Mask
    suspects: _Mask
    unknown: _Mask
    noise_rate: float | None


@dataclass(frozen=True)
class Robust(Policy):
    """Leave out the samples whose label is probably wrong, thin out the others: 1 - prune_ratio of the data an epoch.

    Which labels may be wrong is read from a mixture of two normal distributions over the suspicions, from the onset on
    (`alignprune.policies.onset`). Where none comes, hard and wrong look alike and nobody is left out. Some suspects are
    looked at in every epoch, in the same batches, with weight 0. These losses are of samples held out, and where the
    labels are known they tell hard from wrong: a suspect found as probable as a right label should be, by Bayes' rule
    and the odds that explain all of them best, is re-admitted, unless the network, where it meets few of the suspects'
    labels at all, does not meet this one either (`Pruner.reduce`, ``predictions``); and no class loses more than twice
    the share of all.
    Without labels a suspect comes back only by a falling score. A few wrong labels in the tail of the hard samples are
    looked for among the most suspicious (`alignprune.policies.probe`). The other samples take turns, those first that
    were not seen for longest, and never do all come back for an annealing. The recorded losses have to be plain
    cross-entropies: with label smoothing pass them as ``record`` to `Pruner.reduce`.

    Attributes:
        prune_ratio: share of the data set left out of every epoch, in [0, 1): the share of forward passes saved. With 0
            memorisation cannot be measured, and the run is taken for one that does not memorise.
        noise_rate: share of wrong labels if it is known: as many are flagged as soon as any are, fewer where a class
            would lose too many, and nobody is re-admitted; None = estimated.
        refresh: share of an epoch's samples that are suspects looked at, in [0, 1).
        ramp: epochs over which the suspects grow to their full number, at least 1.
        confused: share of the wrong labels that are taken for confusions when suspects are re-admitted, in [0, 1]; see
            `log_odds_of_wrong`.
        least_agreement: share of the suspects looked at that the network has to meet, in [0, 1]; where it meets fewer,
            only those come back that it meets. 0 leaves that to Bayes' rule.
        thinning: whether the other samples are thinned out at "random", those first that were seen last, or the "easy"
            ones first, those on the right side of their mean score, and the rest of these weighs more, as in InfoBatch.

    Source: this library; `docs/robust.md` has what each ingredient is worth.
    """

    reads_probabilities: ClassVar[bool] = True

    prune_ratio: float = 0.5
    noise_rate: float | None = None
    refresh: float = 0.1
    ramp: int = 5
    confused: float = 0.25
    least_agreement: float = 1 / 3
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
        number("least_agreement", self.least_agreement, low=0, high=1, remedy="1 / 3 where in doubt")
        choice("thinning", self.thinning, get_args(Thinning))

    @property
    def memories(self) -> tuple[MemorySpec, ...]:
        return (LedgerSpec(),)

    def check(self, num_samples: int) -> None:
        refuse_empty("prune_ratio", self.prune_ratio, num_samples)

    def select(self, evidence: Evidence) -> Selection:
        ledger, size = evidence.memory(Ledger), evidence.num_samples
        suspicion = evidence.suspicion.numpy()
        budget = floor((1 - self.prune_ratio) * size)
        age = evidence.epoch - ledger.last_seen.cpu().numpy()
        began = ledger.onset
        if began is None:
            # The epoch after the onset is uniform still: the ledger then has two epochs in a row to compare.
            began = onset.sensed(evidence, suspicion[~np.isnan(suspicion)], ledger.memorisation)
            chosen = _longest_unseen("others", np.arange(size), age, budget, evidence.draws)
            memorises = onset.learns_by_heart(ledger.memorisation)
            return Selection(torch.from_numpy(chosen), None, size, uniform=True, onset=began, memorises=memorises)
        order = by_suspicion(suspicion)
        flagged = self._flag(evidence, ledger, began, order)
        looked = self._look(flagged, order, age, floor(self.refresh * budget), evidence.draws)
        others = np.ones(size, dtype=bool)
        others[order[flagged.left_out]] = False
        trained, weights = self._thin(np.flatnonzero(others), suspicion, age, budget - len(looked), evidence.draws)
        suspects = order[flagged.suspects]
        # The step divides by all samples of a batch, those only looked at included: the others make up for them.
        dense = np.full(size, np.nan, dtype=np.float32)
        dense[trained] = weights * ((len(trained) + len(looked)) / max(1, len(trained)))
        dense[looked] = 0
        indices = np.flatnonzero(~np.isnan(dense))
        weights = dense[indices]
        return Selection(
            indices=torch.from_numpy(indices),
            weights=None if (weights == 1).all() else torch.from_numpy(weights),
            num_samples=size,
            suspects=torch.from_numpy(np.sort(suspects)),
            noise_rate=flagged.noise_rate,
            onset=began,
            memorises=True,
            thresholds=tuple(evidence.score.numpy()[suspects[-1:]].tolist()),
        )

    def anneal(self, evidence: Evidence) -> Selection:
        """All samples with weight 1; the suspects stay flagged."""
        judged = self.select(evidence)
        return replace(
            Selection.full(evidence.num_samples),
            suspects=judged.suspects,
            noise_rate=judged.noise_rate,
            onset=judged.onset,
            memorises=judged.memorises,
            thresholds=judged.thresholds,
        )

    def _flag(self, evidence: Evidence, ledger: Ledger, began: Onset, order: Indices) -> _Flagged:
        """Which samples are left out, which of these are suspects, and the noise rate."""
        suspicion, waited = evidence.suspicion.numpy()[order], evidence.epoch - began.epoch - 1
        groups = None if self.noise_rate is not None else mixture.fit(suspicion)
        share, noise_rate, few = self._share(suspicion, groups, evidence.num_samples, began, waited)
        out, unknown = np.zeros(len(order), dtype=bool), np.zeros(len(order), dtype=bool)
        out[: floor(min(1.0, waited / self.ramp) * share * evidence.num_samples)] = True
        if evidence.labels is None:
            return _Flagged(out, out, unknown, noise_rate)
        labels = evidence.labels.numpy()
        if self.noise_rate is not None:
            _spare_classes(out, order, labels, _CLASS_LIMIT * share)
            return _Flagged(out, out, unknown, noise_rate)
        odds, met = log_odds_of_wrong(ledger.held_out.cpu().numpy(), labels, self.confused)[order], True
        if few and self.refresh > 0:
            suspects, unknown, noise_rate = probe(odds, evidence.num_samples)
            _spare_classes(suspects, order, labels, _CLASS_LIMIT * suspects.sum() / evidence.num_samples)
            out = suspects | unknown
        else:
            _spare_classes(out, order, labels, _CLASS_LIMIT * share)
            looked = np.flatnonzero(out & ~np.isnan(odds))
            agreement = ledger.agreement.cpu().numpy()[order[looked]]
            met = self._are_met(agreement)
            back, wrong = self._readmitted(odds[looked], agreement, met)
            out[looked[back]] = False
            suspects, noise_rate = out, None if noise_rate is None else wrong * noise_rate
        rule = posterior.rule(odds, evidence.num_samples, groups) if waited >= self.ramp else None
        if rule is None or 2 * rule.judged < out.sum():  # too few were looked at to judge them all
            return _Flagged(out, suspects, unknown, noise_rate)
        # Some hard samples are left out beside the wrong ones, and a network does as well without them; but a label
        # that is probably right is no suspect.
        p_wrong = rule.p_wrong(odds)
        suspects = out & (p_wrong > 0.5)
        if not met and 2 * suspects.sum() < out.sum():
            # Most of them are wrong by what the network predicts: one that confuses the classes as people do believes
            # too much, and its losses tell neither whose label is wrong nor how many are.
            return _Flagged(out, out, unknown, float(out.sum() / evidence.num_samples))
        return _Flagged(out, suspects, unknown, float(p_wrong.mean()))

    def _share(
        self, suspicion: _Array, groups: Mixture | None, num_samples: int, began: Onset, waited: int
    ) -> onset.Share:
        """How many samples to flag, as it is given or as it is estimated."""
        if self.noise_rate is not None:
            return onset.Share(self.noise_rate, self.noise_rate)
        return onset.share_of_suspects(suspicion, groups, num_samples, began, waited, self.ramp)

    def _are_met(self, agreement: _Array) -> bool:
        """Whether the suspects that were looked at are met as often as hard samples with right labels would be.

        Where people confuse classes the losses believe too much, since the network has learned to confuse them as well.
        What it predicts tells better: of hard samples with right labels about half are met while they are held out, of
        wrong labels hardly any. So where less than a third of the suspects are met, most of them are wrong.

        Args:
            agreement: `Ledger.agreement` of the suspects looked at, float32 [l].

        Returns:
            True, too, where too few predictions are known to say.
        """
        predicted = agreement[~np.isnan(agreement)]
        return len(predicted) < FEWEST or bool(predicted.mean() >= self.least_agreement)

    def _readmitted(self, odds: _Array, agreement: _Array, met: bool) -> tuple[_Mask, float]:
        """Which of the suspects looked at come back, by Bayes' rule, and the share of wrong ones among all of them.

        The odds of a label to be wrong, before it is looked at, are those that make the labels of all suspects that
        were looked at most likely.

        Args:
            odds: `log_odds_of_wrong` of the suspects looked at, float32 [l].
            agreement: `Ledger.agreement` of them, float32 [l].
            met: as `_are_met` says; otherwise only those that are met themselves come back.
        """
        if len(odds) < FEWEST:
            return np.zeros(len(odds), dtype=bool), 1.0
        wrong = mixture.share(odds)
        right = odds < math.log((1 - wrong) / wrong)
        return (right if met else right & ~(agreement <= 0.5)), wrong

    def _look(self, flagged: _Flagged, order: Indices, age: _Array, count: int, draws: Draws) -> Indices:
        """At most ``count`` of those left out to look at, those first of which nothing is known."""
        unknown = np.sort(order[flagged.unknown])
        first = _longest_unseen("held out", unknown, age, count, draws)
        known = np.sort(order[flagged.left_out & ~flagged.unknown])
        rest = _longest_unseen("suspects", known, age, count - len(first), draws)
        return np.concatenate([first, rest])

    def _thin(self, others: _Array, suspicion: _Array, age: _Array, count: int, draws: Draws) -> tuple[_Array, _Array]:
        """``count`` of the samples that are no suspects, or all there are, and their weights."""
        weights = np.ones(len(others), dtype=np.float32)
        if self.thinning == "easy" and len(others) > count:
            values = suspicion[others]
            easy = values < known_mean(values)
            size = int(easy.sum())
            kept = max(size - (len(others) - count), size - floor(_EASIEST * size))
            stay = _longest_unseen("easy", others[easy], age, kept, draws)
            weights = np.concatenate([np.ones(len(others) - size), np.full(kept, size / max(1, kept))])
            others = np.concatenate([others[~easy], stay])
        if len(others) > count:
            place = np.argsort(others, kind="stable")
            others, weights = others[place], weights[place]
            chosen = _longest_unseen("others", others, age, count, draws)
            weights = weights[np.searchsorted(others, chosen)]
            others = chosen
        return others, weights.astype(np.float32)


def log_odds_of_wrong(losses: _Array, labels: _Array, confused: float = 0.25) -> _Array:
    """How much an input speaks against its label, by its loss while it is held out, in nats.

    The log of the probability to be given this label wrongly over that to be given it rightly, p = exp(-loss), which is
    the network's while it is not trained on the sample. Behind a wrong label there is another class, 1 - p, and it is
    drawn by the frequency f of the classes, f / (1 - f), or, in ``confused`` of the cases, as the network itself would
    confuse the two, p.

    Args:
        losses: float32 [N], held-out cross-entropies; NaN = never looked at.
        labels: int32 [N], class codes, -1 = unlabelled.
        confused: share of the wrong labels that are confusions, in [0, 1].

    Returns:
        float32 [N], NaN where there is no loss or no label, and for all where the labels are of one class: there is no
        other that could stand behind one.
    """
    odds = np.full(len(losses), np.nan, dtype=np.float32)
    counts = _class_sizes(labels).astype(np.float32)
    if np.count_nonzero(counts) < 2:
        return odds
    share = np.minimum(counts / counts.sum(), np.float32(1 - 1e-6))
    looked = np.flatnonzero(~np.isnan(losses) & (labels >= 0))
    losses, labels = np.maximum(losses[looked], np.float32(1e-6)), labels[looked]
    drawn = (1 - confused) * (share / (1 - share))[labels] + confused * np.exp(-losses)
    odds[looked] = np.log(-np.expm1(-losses)) + np.log(drawn) + losses
    return odds


def _class_sizes(labels: _Array) -> _Array:
    """How many samples each class has, int64 [C], by codes of which -1 is none."""
    return np.bincount(labels + 1)[1:]


def _spare_classes(suspect: _Mask, order: Indices, labels: _Array, limit: float) -> None:
    """Re-admit the least suspicious of every class that would lose more than ``limit`` of its samples.

    Args:
        suspect: bool [n] by rank, edited in place.
        order: int64 [n], the samples by rank.
        labels: int32 [N], class codes, -1 = unlabelled.
        limit: share of a class.
    """
    flagged = np.flatnonzero(suspect)
    classes = labels[order[flagged]]
    most = np.ceil(limit * _class_sizes(labels))
    counts = np.bincount(classes + 1, minlength=len(most) + 1)[1:]
    losing = np.append(counts > most, False)[classes]
    if not losing.any():
        return
    ranks = np.sort(classes[losing].astype(np.int64) << 32 | flagged[losing])  # by class, the most suspicious first
    classes, ranks = ranks >> 32, ranks & 0xFFFFFFFF
    first = np.append(0, np.cumsum(np.where(counts > most, counts, 0)))
    suspect[ranks[np.arange(len(ranks)) - first[classes] >= most[classes]]] = False


def _longest_unseen(purpose: str, items: Indices, age: _Array, count: int, draws: Draws) -> Indices:
    """``count`` of the items, or all, those first that were not seen for longest; chance among about equals.

    Args:
        items: int64 [n], ascending.

    Returns:
        int64 [min(count, n)], ascending.
    """
    if count >= len(items):
        return items
    if count <= 0:
        return items[:0]
    turn = age[items] + _JITTER * draws.uniform(purpose, items)
    bound = np.partition(turn, len(items) - count)[len(items) - count]
    chosen = np.flatnonzero(turn >= bound)
    if len(chosen) > count:  # equal turns: the later ones wait
        ties = np.flatnonzero(turn[chosen] == bound)
        chosen = np.delete(chosen, ties[len(ties) - (len(chosen) - count) :])
    return items[chosen]
