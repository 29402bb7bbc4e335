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
from alignprune._ranks import Indices
from alignprune.memory.contract import MemorySpec
from alignprune.memory.ledger import Ledger, LedgerSpec
from alignprune.policies import mixture, onset, posterior
from alignprune.policies.contract import Evidence, Policy, refuse_empty
from alignprune.policies.mixture import Mixture
from alignprune.policies.probe import probe
from alignprune.policies.ranking import FEWEST, Ranking
from alignprune.selection import Onset, Selection

Thinning = Literal["random", "easy"]

_Array = NDArray[Any]
_Mask = NDArray[np.bool_]

# A class may lose this many times the share of all: a rare one is hard, and would be left out as a whole.
_CLASS_LIMIT = 2.0
_EASIEST = 0.9  # largest share of the easy samples that is thinned out
_DOUBTFUL = 0.25  # probability to be wrong above which a label is left out by a network that hardly memorises
_JITTER = 1.7  # epochs by which chance may overtake the order of age


class _Flagged(NamedTuple):
    """What becomes of the samples of an epoch.

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
    the share of all. Where the network hardly memorises, hard samples are not left out beside the wrong ones.
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
    by_parts: ClassVar[bool] = True

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
        ledger, size = evidence.memory(Ledger), evidence.size
        suspicion = evidence.suspicion.numpy()
        budget = floor((1 - self.prune_ratio) * evidence.num_samples)
        age = evidence.epoch - ledger.last_seen.cpu().numpy()
        began = ledger.onset
        if began is None:
            # The epoch after the onset is uniform still: the ledger then has two epochs in a row to compare.
            (panel,) = evidence.pool.panel(suspicion)
            began = onset.sensed(evidence, panel[~np.isnan(panel)], ledger, self.ramp)
            chosen = _longest_unseen(evidence, "others", np.arange(size), age, budget)
            memorises = onset.memorises(ledger.memorisation)
            return Selection(torch.from_numpy(chosen), None, size, uniform=True, onset=began, memorises=memorises)
        flagged = self._flag(evidence, ledger, began)
        looked, looks = self._look(evidence, flagged, age, floor(self.refresh * budget))
        others = np.flatnonzero(~flagged.left_out)
        trained, weights, trains = self._thin(evidence, others, suspicion, age, budget - looks)
        # The step divides by all samples of a batch, those only looked at included: the others make up for them.
        dense = np.full(size, np.nan, dtype=np.float32)
        dense[trained] = weights * ((trains + looks) / max(1, trains))
        dense[looked] = 0
        indices = np.flatnonzero(~np.isnan(dense))
        weights = dense[indices]
        suspects = np.flatnonzero(flagged.suspects)
        least = evidence.pool.extremes(suspicion[suspects])
        return Selection(
            indices=torch.from_numpy(indices),
            weights=None if (weights == 1).all() else torch.from_numpy(weights),
            num_samples=size,
            suspects=torch.from_numpy(suspects),
            noise_rate=flagged.noise_rate,
            onset=began,
            memorises=onset.memorises(ledger.memorisation),
            thresholds=() if least is None else (least[0] if evidence.suspect == "high" else -least[0],),
        )

    def anneal(self, evidence: Evidence) -> Selection:
        """All samples with weight 1; the suspects stay flagged."""
        judged = self.select(evidence)
        return replace(
            Selection.full(evidence.size),
            suspects=judged.suspects,
            noise_rate=judged.noise_rate,
            onset=judged.onset,
            memorises=judged.memorises,
            thresholds=judged.thresholds,
        )

    def _flag(self, evidence: Evidence, ledger: Ledger, began: Onset) -> _Flagged:
        """Which samples are left out, which of these are suspects, and the noise rate."""
        waited, pool = evidence.epoch - began.epoch - 1, evidence.pool
        odds, agreement = _held_out(evidence, ledger, self.confused)
        ranking = Ranking(evidence, odds, agreement)
        groups = None if self.noise_rate is not None else mixture.fit(ranking.suspicion)
        share, noise_rate, few = self._share(ranking.suspicion, groups, ranking.size, began, waited)
        out = ranking.first(floor(min(1.0, waited / self.ramp) * share * evidence.num_samples))
        unknown = np.zeros_like(out)
        if evidence.labels is None:
            return _Flagged(out, out, unknown, noise_rate)
        if self.noise_rate is not None:
            _spare_classes(evidence, out, _CLASS_LIMIT * share)
            return _Flagged(out, out, unknown, noise_rate)
        by_rank, met_by_rank = ranking.columns
        if few and self.refresh > 0:
            probed = probe(by_rank, ranking.size)
            suspects, unknown = probed.judge(odds, ranking.places(np.arange(len(out))))
            noise_rate = probed.noise_rate
            _spare_classes(evidence, suspects, _CLASS_LIMIT * pool.count(suspects) / evidence.num_samples)
            out = suspects | unknown
        else:
            _spare_classes(evidence, out, _CLASS_LIMIT * share)
            in_panel, odds_there, agreement_there = pool.panel(out, odds, agreement)
            looked = in_panel & ~np.isnan(odds_there)
            met = self._are_met(agreement_there[looked])
            wrong = 1.0
            if looked.sum() >= FEWEST:
                wrong = mixture.share(odds_there[looked])
                out[self._readmitted(out, odds, agreement, wrong, met)] = False
            suspects, noise_rate = out, None if noise_rate is None else wrong * noise_rate
        rule = posterior.rule(by_rank, ranking.size, groups) if waited >= self.ramp else None
        left_out = np.flatnonzero(out)
        many = pool.count(left_out)
        if rule is None or 2 * rule.judged * ranking.scale < many:  # too few were looked at to judge them all
            return _Flagged(out, suspects, unknown, noise_rate)
        # A label that is probably right is no suspect.
        suspects, p_by_rank = np.zeros_like(out), rule.p_wrong(by_rank)
        weight = posterior.weight_of_predictions(p_by_rank, met_by_rank)
        p_wrong = rule.p_wrong(odds[left_out], ranking.places(left_out))
        p_wrong = posterior.contradicted(p_wrong, agreement[left_out], weight)
        suspects[left_out] = p_wrong > 0.5
        noise_rate = float(posterior.contradicted(p_by_rank, met_by_rank, weight).mean())
        if onset.memorises(ledger.memorisation) is False:
            # Some hard samples are left out beside the wrong ones. A network that hardly memorises misses them more
            # than it suffers from a wrong label.
            unknown |= out & np.isnan(odds)
            out[left_out] = unknown[left_out] | (p_wrong > _DOUBTFUL)
        return _Flagged(out, suspects, unknown, noise_rate)

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

    def _readmitted(self, out: _Mask, odds: _Array, agreement: _Array, wrong: float, met: bool) -> Indices:
        """Which of the suspects that were looked at come back, by Bayes' rule: their slots.

        The odds of a label to be wrong, before it is looked at, are those that make the labels of all suspects that
        were looked at most likely.

        Args:
            out: bool [n], the suspects.
            odds: `log_odds_of_wrong`, float32 [n], NaN = not looked at.
            agreement: `Ledger.agreement`, float32 [n].
            wrong: share of wrong labels among the suspects.
            met: as `_are_met` says; otherwise only those that are met themselves come back.
        """
        right = out & (odds < math.log((1 - wrong) / wrong))
        return np.flatnonzero(right if met else right & ~(agreement <= 0.5))

    def _look(self, evidence: Evidence, flagged: _Flagged, age: _Array, count: int) -> tuple[Indices, int]:
        """At most ``count`` of those left out to look at, those first of which nothing is known; how many in all."""
        unknown = np.flatnonzero(flagged.unknown)
        first = _longest_unseen(evidence, "held out", unknown, age, count)
        looks = min(count, evidence.pool.count(unknown))
        known = np.flatnonzero(flagged.left_out & ~flagged.unknown)
        rest = _longest_unseen(evidence, "suspects", known, age, count - looks)
        return np.concatenate([first, rest]), min(count, looks + evidence.pool.count(known))

    def _thin(
        self, evidence: Evidence, others: Indices, suspicion: _Array, age: _Array, count: int
    ) -> tuple[Indices, _Array, int]:
        """``count`` of the samples that are no suspects, or all there are, their weights, and how many in all."""
        weights, many = np.ones(evidence.size, dtype=np.float32), evidence.pool.count(others)
        if self.thinning == "easy" and many > count:
            values = suspicion[others]
            easy = values < evidence.pool.mean(values)
            size = evidence.pool.count(easy)
            kept = max(size - (many - count), size - floor(_EASIEST * size))
            stay = _longest_unseen(evidence, "easy", others[easy], age, kept)
            weights[stay] = size / max(1, kept)
            others = np.sort(np.concatenate([others[~easy], stay]))
            many -= size - kept
        chosen = _longest_unseen(evidence, "others", others, age, count)
        return chosen, weights[chosen], min(many, count)


def _held_out(evidence: Evidence, ledger: Ledger, confused: float) -> tuple[_Array, _Array]:
    """What is known of samples while they are held out: `log_odds_of_wrong` and `Ledger.agreement`, float32 [n]."""
    if evidence.labels is None:
        nothing = np.full(evidence.size, np.nan, dtype=np.float32)
        return nothing, nothing
    losses, labels = ledger.held_out.cpu().numpy(), evidence.labels.numpy()
    return log_odds_of_wrong(losses, labels, confused, evidence.class_sizes), ledger.agreement.cpu().numpy()


def log_odds_of_wrong(
    losses: _Array, labels: _Array, confused: float = 0.25, class_sizes: _Array | None = None
) -> _Array:
    """How much an input speaks against its label, by its loss while it is held out, in nats.

    The log of the probability to be given this label wrongly over that to be given it rightly, p = exp(-loss), which is
    the network's while it is not trained on the sample. Behind a wrong label there is another class, 1 - p, and it is
    drawn by the frequency f of the classes, f / (1 - f), or, in ``confused`` of the cases, as the network itself would
    confuse the two, p.

    Args:
        losses: float32 [N], held-out cross-entropies; NaN = never looked at.
        labels: int32 [N], class codes, -1 = unlabelled.
        confused: share of the wrong labels that are confusions, in [0, 1].
        class_sizes: int64 [C], samples of each class; None = as the labels say.

    Returns:
        float32 [N], NaN where there is no loss or no label, and for all where the labels are of one class: there is no
        other that could stand behind one.
    """
    odds = np.full(len(losses), np.nan, dtype=np.float32)
    counts = (np.bincount(labels + 1)[1:] if class_sizes is None else class_sizes).astype(np.float32)
    if np.count_nonzero(counts) < 2:
        return odds
    share = np.minimum(counts / counts.sum(), np.float32(1 - 1e-6))
    looked = np.flatnonzero(~np.isnan(losses) & (labels >= 0))
    losses, labels = np.maximum(losses[looked], np.float32(1e-6)), labels[looked]
    p = np.exp(-losses.astype(np.float64))  # in float32 1 - p of the least losses would be a few steps
    drawn = (1 - confused) * (share / (1 - share))[labels] + confused * p
    odds[looked] = np.log((1 - p) * drawn) + losses
    return odds


def _spare_classes(evidence: Evidence, suspect: _Mask, limit: float) -> None:
    """Re-admit the least suspicious of every class that would lose more than ``limit`` of its samples.

    Args:
        evidence: of the epoch, with labels.
        suspect: bool [n], edited in place.
        limit: share of a class.
    """
    assert evidence.labels is not None
    labels, most = evidence.labels.numpy(), np.ceil(limit * evidence.class_sizes)
    flagged = np.flatnonzero(suspect)
    classes = labels[flagged]
    counts = evidence.pool.total(np.bincount(classes + 1, minlength=len(most) + 1)[1:])
    losing = counts > most
    if not losing.any():
        return
    flagged = flagged[np.append(losing, False)[classes]]  # -1, no class, loses none
    stay = np.where(losing, most, 0).astype(np.int64)
    suspicion = evidence.suspicion.numpy()[flagged]
    kept = evidence.pool.least_of_each(-suspicion, flagged, labels[flagged], stay)
    suspect[flagged] = False
    suspect[kept] = True


def _longest_unseen(evidence: Evidence, purpose: str, slots: Indices, age: _Array, count: int) -> Indices:
    """``count`` of the samples at some slots over all ranks, or all: those first that were not seen for longest.

    Chance decides among about equals. Returns slots, int64, ascending.
    """
    if not evidence.pool.shared and count >= len(slots):
        return slots
    turn = age[slots] + _JITTER * evidence.uniform(purpose, slots)
    return evidence.pool.least(-turn, slots, count)
