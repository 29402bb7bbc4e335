"""The ways to rank the labels of a finished run by how probably they are wrong.

A ranker is a name and a function from what the run's folder holds to a `Ranking`; one that is added to `RANKERS` stands
in the store of every run that has what it reads. Runs with --trace have their losses and margins, the pruner's journal
and scores; a cross-validation has the probabilities that cleanlab works on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from alignprune import audit
from alignprune._state import STATE_VERSION
from alignprune.bench.results import suspicion
from alignprune.bench.results.detection import Ranking, RankingRecord, judge
from alignprune.bench.results.suspicion import STATISTICS, History
from alignprune.bench.run import confident_learning, out_of_fold, trace
from alignprune.bench.run.config import default_config
from alignprune.bench.run.folder import NOISE, read_checkpoint, read_config
from alignprune.bench.run.out_of_fold import OutOfFold
from alignprune.noise import NoisyLabels
from alignprune.selection import Selection

Reads = Literal["trace", "plain losses", "reference", "journal", "state", "scores", "probabilities"]

_Array = NDArray[Any]


class FinishedRun:
    """What the folder of a complete run holds, each read once, when it is asked for.

    Args:
        folder: the run's.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def has(self, reads: Reads) -> bool:
        """Whether it holds what a ranker reads."""
        if reads == "probabilities":
            return (self.folder / out_of_fold.FILE).exists()
        if not (self.folder / trace.FILE).exists():
            return False
        match reads:
            case "plain losses":
                return self.records_plain_losses
            case "reference":
                return self.history.reference is not None
            case "journal":
                return self.journal is not None
            case "state":
                return self.journal is not None and (self.pruner or {}).get("version") == STATE_VERSION
            case "scores":
                return self.pruner is not None and bool(self.pruner["scores"].isfinite().any())
        return True

    @cached_property
    def is_noisy(self) -> _Array | None:
        """Whether each given label is wrong, bool [N]; None where that is not known, or all are of one kind."""
        traced = (self.folder / trace.FILE).exists()
        truth = (trace.load(self.folder / trace.FILE) if traced else OutOfFold.load(self.folder)).is_noisy
        return truth.numpy() if truth is not None and truth.any() and not truth.all() else None

    @cached_property
    def records_plain_losses(self) -> bool:
        """Whether its losses are cross-entropies without label smoothing."""
        config = read_config(self.folder)
        return config["loss"] is not None or config["recipe"]["label_smoothing"] == 0

    @cached_property
    def history(self) -> History:
        """What the run saw of its samples, by epoch."""
        return suspicion.load(self.folder / trace.FILE)

    @cached_property
    def pruner(self) -> dict[str, Any] | None:
        """The pruner's state at the end; None where the checkpoint is gone."""
        state = read_checkpoint(self.folder)
        return None if state is None else state["pruner"]

    @cached_property
    def journal(self) -> dict[str, _Array] | None:
        """The pruner's journal, by table: arrays [N]; None where it kept none."""
        memories = [] if self.pruner is None else self.pruner["memories"]
        found = [memory for memory in memories if "held_out_loss" in memory]
        return {name: table.numpy() for name, table in found[0].items()} if found else None

    @cached_property
    def out_of_fold(self) -> OutOfFold:
        """What the networks of a cross-validation see in the samples that they were not trained on."""
        return OutOfFold.load(self.folder)


@dataclass(frozen=True)
class Ranker:
    """A way to rank.

    Attributes:
        name: in words, once among all.
        rank: from a run that holds what is read.
        reads: what that is: "trace" of a run with --trace, "reference", "journal" and "scores" of one that has these
            too, "state" of one whose pruner's state is of this version, "probabilities" of a cross-validation.
    """

    name: str
    rank: Callable[[FinishedRun], Ranking]
    reads: Reads = "trace"


def can_be_ranked(folder: Path) -> bool:
    """Whether the folder holds what rankers read."""
    return any((folder / file).exists() for file in (trace.FILE, out_of_fold.FILE))


def judged(folder: Path) -> list[RankingRecord]:
    """How each ranker that finds what it reads does on a run; nothing where the truth is not known.

    Args:
        folder: of a complete run.

    Raises:
        ImportError: if the run is a cross-validation and cleanlab is not installed.
    """
    run = FinishedRun(folder)
    if run.is_noisy is None:
        return []
    return [judge(ranker.name, ranker.rank(run), run.is_noisy) for ranker in RANKERS.values() if run.has(ranker.reads)]


# -- one training ------------------------------------------------------------------------------------------


def _last(statistic: suspicion.Statistic) -> Callable[[FinishedRun], Ranking]:
    """The statistic after the last epoch."""

    def rank(run: FinishedRun) -> Ranking:
        (row,) = deque(statistic.by_epoch(run.history), maxlen=1)
        return Ranking(row, is_probability=statistic.name in _PROBABILITIES)

    return rank


def _what_it_reads(statistic: suspicion.Statistic) -> Reads:
    if statistic.needs_reference:
        return "reference"
    return "plain losses" if statistic.needs_plain_losses else "trace"


_PROBABILITIES = ("mean error probability",)  # of the statistics: one minus what the network gives the given label


def _forgetting(run: FinishedRun) -> Ranking:
    """How often the network said the given label and, when the sample was seen next, another; inf: it never said it.

    Source: Toneva et al. (ICLR 2019).
    """
    margins = run.history.margins
    events, before, learned = np.zeros((3, margins.shape[1]))
    for row in margins:
        seen, right = ~np.isnan(row), row > 0
        events += seen & ~right & (before > 0)
        before = np.where(seen, right, before)
        learned += seen & right
    unseen = np.isnan(margins).all(axis=0)
    return Ranking(np.where(unseen, np.nan, np.where(learned > 0, events, np.inf)))


def _held_out(run: FinishedRun) -> Ranking:
    assert run.journal is not None
    return Ranking(run.journal["held_out_loss"])


def _other_predictions(run: FinishedRun) -> Ranking:
    assert run.journal is not None
    said, agreeing = run.journal["predictions"], run.journal["agreeing"]
    share = np.divide(said - agreeing, said, out=np.full(len(said), np.nan), where=said > 0)
    return Ranking(share, is_probability=True)


def _label_report(run: FinishedRun) -> Ranking:
    """What `alignprune.audit` reports: the probability that a label is wrong, and the issues."""
    assert run.pruner is not None
    labels = NoisyLabels.load(run.folder / NOISE).labels.numpy()
    known = audit.facts(run.pruner)
    found = audit.judge(known, labels.astype(np.int32), int(max(labels.max(), known.alternative.max())) + 1)
    # The label score is the probability with its ties in the order of the suspicions, to a thousandth.
    flagged = np.nan_to_num(found.p_wrong) > audit.ISSUE
    told = found.held_out  # else the report ranks, and says that it can tell no rate
    rate = found.noise_rate if told else None
    return Ranking(1 - found.label_score, is_probability=told, flagged=flagged if told else None, noise_rate=rate)


def _own_score(run: FinishedRun) -> Ranking:
    """The score that the run prunes by, with the suspects that it ended with."""
    assert run.pruner is not None
    config = read_config(run.folder)
    high = default_config(config["dataset"], config["method"]).pruning.score.suspect == "high"
    values, selection = run.pruner["scores"].numpy(), Selection.from_state_dict(run.pruner["selection"])
    flagged = None
    if selection.suspects is not None:
        flagged = np.zeros(len(values), dtype=bool)
        flagged[selection.suspects.numpy()] = True
    return Ranking(values if high else -values, flagged=flagged, noise_rate=selection.noise_rate)


# -- cross-validation: cleanlab ----------------------------------------------------------------------------


def _quality(run: FinishedRun, probabilities: Tensor, rule: str) -> _Array:
    """One minus a label quality of cleanlab's, float64 [N].

    Source: Northcutt, Jiang and Chuang (JAIR 2021); Kuan and Mueller (2022) for the rules.
    """
    labels, cleanlab = run.out_of_fold.labels.numpy(), confident_learning.cleanlab()
    found = cleanlab.rank.get_label_quality_scores(labels, confident_learning.distributions(probabilities), method=rule)
    return 1 - found


def _by_rule(rule: str) -> Callable[[FinishedRun], Ranking]:
    return lambda run: Ranking(_quality(run, run.out_of_fold.probabilities, rule))


def _self_confidence(of: Callable[[OutOfFold], Tensor]) -> Callable[[FinishedRun], Ranking]:
    """By cleanlab's default rule; with it what its filter flags, and the noise rate of its confident joint."""

    def rank(run: FinishedRun) -> Ranking:
        probabilities, labels = of(run.out_of_fold), run.out_of_fold.labels
        flagged = confident_learning.flagged(labels, probabilities)
        joint = confident_learning.cleanlab().count.estimate_joint(
            labels.numpy(), confident_learning.distributions(probabilities)
        )
        suspicion = _quality(run, probabilities, "self_confidence")
        return Ranking(suspicion, is_probability=True, flagged=flagged, noise_rate=1 - float(np.trace(joint)))

    return rank


RANKERS: dict[str, Ranker] = {
    ranker.name: ranker
    for ranker in (
        *(Ranker(statistic.name, _last(statistic), _what_it_reads(statistic)) for statistic in STATISTICS.values()),
        Ranker("forgetting events", _forgetting),
        Ranker("share of other predictions", _other_predictions, "journal"),
        Ranker("held-out loss", _held_out, "journal"),
        Ranker("score of the run", _own_score, "scores"),
        Ranker("label report", _label_report, "state"),
        Ranker("self-confidence", _self_confidence(lambda found: found.probabilities), "probabilities"),
        Ranker("normalized margin", _by_rule("normalized_margin"), "probabilities"),
        Ranker("confidence-weighted entropy", _by_rule("confidence_weighted_entropy"), "probabilities"),
        Ranker("self-confidence, last epoch", _self_confidence(lambda found: found.last), "probabilities"),
    )
}
"""By name every ranker. A cell of an experiment shows one of them by its name."""
