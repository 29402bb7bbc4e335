"""What holds for every policy: its evidence, its signature, its draws, and which end of a score is suspect."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import alignprune as ap
from alignprune import errors
from alignprune._ranks import Draws
from alignprune.memory import LedgerSpec, Observed, Readings, ReadingsSpec, Room
from alignprune.policies import (
    IES,
    RCAP,
    BatchEvidence,
    BatchPolicy,
    DivBS,
    DynamicRandom,
    Evidence,
    Full,
    InfoBatch,
    OrderDP,
    Policy,
    RePB,
    Robust,
    SeTa,
)
from alignprune.scores import Alignment, ExposureLoss, History, Loss, Score, SecondDifference
from alignprune.selection import Onset, Selection

NAN = math.nan
EPOCHS = 20
EVERY_POLICY = [
    Full(),
    DynamicRandom(prune_ratio=0.4),
    DynamicRandom(prune_ratio=0.4, replacement=False),
    InfoBatch(prune_prob=0.5),
    InfoBatch(prune_prob=1.0, rescale=False),
    SeTa(prune_prob=0.1),
    SeTa(prune_prob=0.2, groups=3, alpha=0.5, rounding="ceil"),
    SeTa(prune_prob=0.0, grouping="sklearn"),
    IES(threshold=0.5),
    DivBS(),
    OrderDP(prune_ratio=0.4),
    RePB(prune_prob=0.4),
    RCAP(prune_ratio=0.4),
    RCAP(prune_ratio=0.8, temperature=0.25, aggregate="sum"),
    Robust(),
    Robust(noise_rate=0.4, thinning="easy"),
]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def evidence(policy: Policy, score: Tensor, epoch: int = 1, seed: int = 0, **more: Any) -> Evidence:
    """Evidence with the memories that the policy declares; a ledger has its onset in epoch 0, readings three steps."""
    room = Room(len(score), EPOCHS)
    memories = tuple(spec.make(room) for spec in policy.memories)
    for memory in memories:
        if isinstance(memory, ap.Ledger) and epoch:
            memory.onset = Onset(0, 5.0)
        if isinstance(memory, Readings) and epoch:
            memory.steps.copy_(torch.arange(len(score)) % 4 - 1)
    how: dict[str, Any] = {"suspect": "high", "epoch": epoch, "epochs": EPOCHS, "draws": Draws(seed, epoch)}
    if policy.needs_labels:
        how["labels"] = torch.arange(len(score), dtype=torch.int32) % 3 - (torch.arange(len(score)) % 7 == 0).int()
    return Evidence(score=score, memories=memories, **(how | more))


def chosen(policy: Policy, score: Tensor, epoch: int = 1, seed: int = 0, **more: Any) -> Selection:
    return policy.select(evidence(policy, score, epoch, seed, **more))


# The classes.


def test_the_samples_of_each_class_are_counted_unless_they_were() -> None:
    labels = torch.tensor([2, -1, 0, 2, 2], dtype=torch.int32)
    made = {"suspect": "high", "epoch": 0, "epochs": 2, "draws": Draws(0, 0)}
    assert Evidence(torch.zeros(5), labels=labels, **made).class_sizes.tolist() == [1, 0, 3]
    assert Evidence(torch.zeros(5), **made).class_sizes.tolist() == []
    known = np.array([1, 0, 3])
    assert Evidence(torch.zeros(5), labels=labels, class_sizes=known, **made).class_sizes is known


def test_a_pruner_counts_the_samples_of_each_class_once_for_the_whole_training() -> None:
    seen = []

    @dataclass(frozen=True)
    class Watching(Full):
        def select(self, evidence: Evidence) -> Selection:
            seen.append(evidence.class_sizes)
            return super().select(evidence)

    pruner = ap.Pruner(6, 3, Loss(), Watching(), labels=["b", "a", None, "b", "b", "a"])
    while pruner.epoch < pruner.epochs:
        pruner.reduce(torch.arange(6), torch.ones(6))
        pruner.end_epoch()
    assert len(seen) == 4
    assert all(sizes is seen[0] for sizes in seen)
    assert seen[0].tolist() == [2, 3]


def random_scores(seed: int, samples: int, unknown: float = 0.0) -> Tensor:
    score = torch.randn(samples, generator=generator(seed))
    score[torch.rand(samples, generator=generator(seed + 1)) < unknown] = NAN
    return score


def listed(selection: Selection) -> tuple[list[int], list[float] | None, list[int] | None]:
    weights, suspects = selection.weights, selection.suspects
    return (
        selection.indices.tolist(),
        None if weights is None else weights.tolist(),
        None if suspects is None else suspects.tolist(),
    )


# What comes out.


@pytest.mark.parametrize("policy", EVERY_POLICY, ids=str)
@given(
    seed=st.integers(0, 10_000),
    samples=st.integers(20, 120),
    epoch=st.integers(0, 12),
    unknown=st.sampled_from([0.0, 0.3, 1.0]),
    ties=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_a_selection_is_ascending_unique_and_within_range(
    policy: Policy, seed: int, samples: int, epoch: int, unknown: float, ties: bool
) -> None:
    score = random_scores(seed, samples, unknown)
    score = score.round() if ties else score
    before = score.clone()
    given_evidence = evidence(policy, score, epoch, seed)
    for selection in (policy.select(given_evidence), policy.anneal(given_evidence)):
        indices = selection.indices
        assert indices.dtype == torch.int64
        assert len(indices) <= samples == selection.num_samples
        assert len(indices) > 0 or isinstance(policy, IES)  # its fixed threshold may leave out all
        assert (indices.diff() > 0).all()
        assert set(indices.tolist()) <= set(range(samples))
        if selection.weights is not None:
            assert selection.weights.shape == indices.shape
            assert selection.weights.dtype == torch.float32
            assert (selection.weights >= 0).all()
            assert (selection.weights > 0).all() or isinstance(policy, Robust)  # it looks at some without training
            assert selection.weights.isfinite().all()
    assert torch.equal(score.nan_to_num(nan=9.0), before.nan_to_num(nan=9.0))


@pytest.mark.parametrize("policy", EVERY_POLICY, ids=str)
def test_the_draws_alone_decide(policy: Policy) -> None:
    score = random_scores(0, 200, 0.1)
    assert listed(chosen(policy, score, 3, seed=5)) == listed(chosen(policy, score, 3, seed=5))


@pytest.mark.parametrize("policy", [DynamicRandom(), InfoBatch(), SeTa(), OrderDP(), RCAP(), RePB(), Robust()], ids=str)
def test_another_seed_or_epoch_draws_another_selection(policy: Policy) -> None:
    score = random_scores(0, 200)
    for draws in ([Draws(seed, 3) for seed in range(5)], [Draws(0, epoch) for epoch in range(5)]):
        assert len({tuple(chosen(policy, score, 3, draws=each).indices.tolist()) for each in draws}) == 5


@pytest.mark.parametrize("policy", EVERY_POLICY, ids=str)
def test_the_global_random_states_are_never_touched(policy: Policy) -> None:
    def states() -> tuple[object, ...]:
        name, keys, *rest = np.random.get_state()
        return torch.get_rng_state().tolist(), name, keys.tolist(), rest, random.getstate()

    score = random_scores(0, 100, 0.1)
    before = states()
    chosen(policy, score)
    chosen(policy, torch.full((100,), 0.3))
    policy.anneal(evidence(policy, score))
    if isinstance(policy, BatchPolicy):
        logits, features, labels = torch.randn(8, 3, generator=generator()), torch.ones(8, 2), torch.zeros(8).long()
        policy.choose(BatchEvidence(logits, features, labels, generator(), lambda: torch.ones(8)))
    assert states() == before


def scores_after(score: Score, epochs: int) -> Tensor:
    memories = tuple(spec.make(Room(60, EPOCHS)) for spec in score.memories)
    for epoch in range(epochs):
        losses = torch.rand(60, generator=generator(epoch)) * (1 - epoch / 20)
        losses[torch.rand(60, generator=generator(100 + epoch)) < 0.2] = NAN
        for memory in memories:
            memory.write(Observed(epoch, losses, Selection.full(60)))
    return score(History(3 - torch.arange(EPOCHS + 1).double().sqrt(), memories))


EVERY_SCORE = [Loss(), Alignment(window=8), Alignment(gaps="last_obs", flat="exempt"), SecondDifference()]


@pytest.mark.parametrize("score, policy", list(product([*EVERY_SCORE, ExposureLoss()], EVERY_POLICY)), ids=str)
def test_every_policy_takes_every_score(score: Score, policy: Policy) -> None:
    for epochs in (1, 4, 12):
        values = scores_after(score, epochs)
        selection = chosen(policy, values, epochs, suspect=score.suspect)
        assert len(selection) <= 60
        assert len(selection) > 0 or isinstance(policy, IES)
        if not isinstance(policy, DynamicRandom | SeTa | OrderDP | RCAP | Robust):  # these also thin out at random
            assert set(values.isnan().nonzero().flatten().tolist()) <= set(selection.indices.tolist())


# Evidence.


def test_suspicion_is_the_score_turned_by_the_scores_own_word() -> None:
    score = torch.tensor([1.0, -2.0, NAN])
    high, low = (evidence(Full(), score, suspect=end) for end in ("high", "low"))
    assert high.suspicion.tolist() == pytest.approx([1, -2, NAN], nan_ok=True)
    assert low.suspicion.tolist() == pytest.approx([-1, 2, NAN], nan_ok=True)
    assert score[:2].tolist() == [1, -2]
    assert high.num_samples == 3


def test_a_policy_gets_the_memories_that_it_declared_and_no_others() -> None:
    given_evidence = evidence(Robust(), torch.zeros(5))
    assert given_evidence.memory(ap.Ledger) is given_evidence.memories[0]
    with pytest.raises(errors.CallMistake, match="the policy reads a TrajectoryBank that it did not declare"):
        given_evidence.memory(ap.TrajectoryBank)
    with pytest.raises(
        errors.CallMistake, match="the policy reads a Ledger that it did not declare, expected it among"
    ):
        evidence(Full(), torch.zeros(5)).memory(ap.Ledger)


def test_only_robust_and_repb_declare_a_memory() -> None:
    assert {type(policy) for policy in EVERY_POLICY if policy.memories} == {Robust, RePB}
    assert Robust().memories == (LedgerSpec(),)
    assert RePB().memories == (ReadingsSpec(),)


def test_annealing_is_for_infobatch_and_seta_and_takes_all_unless_a_policy_says_otherwise() -> None:
    assert {type(policy) for policy in EVERY_POLICY if policy.annealing < 1} == {InfoBatch, SeTa}
    assert InfoBatch().annealing == SeTa().annealing == 0.875
    for policy in EVERY_POLICY:
        selection = policy.anneal(evidence(policy, random_scores(0, 50)))
        assert len(selection) == (math.floor((1 - policy.prune_prob) * 50) if isinstance(policy, SeTa) else 50)
        assert selection.weights is None


# Signatures.


def test_a_select_of_another_signature_is_refused_when_the_class_is_made() -> None:
    message = r"Old\.select\(score, epoch, generator\) has another signature, expected select\(self, evidence\)"
    with pytest.raises(errors.TypeMistake, match=message):

        class Old(Policy):
            def select(self, score: Tensor, epoch: int, generator: torch.Generator) -> Selection:  # type: ignore[override]
                return Selection.full(len(score))


def test_a_select_that_takes_nothing_is_refused_too() -> None:
    with pytest.raises(errors.TypeMistake, match=r"Blind\.select\(nothing\) has another signature"):

        class Blind(Policy):
            def select(self) -> Selection:  # type: ignore[override]
                return Selection.full(1)


def test_an_anneal_of_another_signature_is_refused_when_the_class_is_made() -> None:
    message = r"Old\.anneal\(num_samples, generator\) has another signature, expected anneal\(self, evidence\)"
    with pytest.raises(errors.TypeMistake, match=message):

        class Old(Full):
            def anneal(self, num_samples: int, generator: torch.Generator) -> Selection:  # type: ignore[override]
                return Selection.full(num_samples)


def test_a_choose_of_another_signature_is_refused_when_the_class_is_made() -> None:
    message = r"Old\.choose\(logits, features, labels\) has another signature, expected choose\(self, batch\)"
    with pytest.raises(errors.TypeMistake, match=message):

        class Old(BatchPolicy):
            def choose(self, logits: Tensor, features: Tensor, labels: Tensor) -> Tensor:  # type: ignore[override]
                return torch.arange(len(logits))


def test_the_select_of_a_batch_policy_is_checked_as_well() -> None:
    with pytest.raises(errors.TypeMistake, match=r"Old\.select\(score, epoch\) has another signature"):

        class Old(DivBS):
            def select(self, score: Tensor, epoch: int) -> Selection:  # type: ignore[override]
                return Selection.full(len(score))


def test_a_select_that_can_do_with_evidence_alone_is_accepted() -> None:
    class Other(Policy):
        def select(self, what_is_known: Evidence) -> Selection:
            return Selection.full(what_is_known.num_samples)

    class Default(Policy):
        def select(self, evidence: Evidence, strict: bool = False) -> Selection:
            return Selection.full(evidence.num_samples)

    class Anything(Policy):
        def select(self, *given: Any) -> Selection:
            return Selection.full(given[0].num_samples)

    class Wrapped(Policy):
        def select(self, evidence: Evidence, *rest: Any, **more: Any) -> Selection:
            return Selection.full(evidence.num_samples)

    for policy in (Other(), Default(), Anything(), Wrapped()):
        assert len(chosen(policy, torch.zeros(4))) == 4


def test_a_select_that_takes_evidence_by_name_only_is_refused() -> None:
    with pytest.raises(errors.TypeMistake, match=r"expected select\(self, evidence\)"):

        class Named(Policy):
            def select(self, *, evidence: Evidence) -> Selection:  # type: ignore[override]
                return Selection.full(evidence.num_samples)


def test_a_select_that_a_class_takes_over_from_elsewhere_is_checked_as_well() -> None:
    class Elsewhere:
        def select(self, score: Tensor, epoch: int, generator: torch.Generator) -> Selection:
            return Selection.full(len(score))

    with pytest.raises(errors.TypeMistake, match=r"Mixed\.select\(score, epoch, generator\) has another signature"):

        class Mixed(Elsewhere, Policy):
            pass


def test_a_policy_is_told_from_a_batch_policy_by_its_type() -> None:
    assert {type(policy) for policy in EVERY_POLICY if isinstance(policy, BatchPolicy)} == {DivBS}


def test_a_batch_policy_keeps_every_sample_between_epochs() -> None:
    selection = chosen(DivBS(), random_scores(0, 9))
    assert selection.indices.tolist() == list(range(9))
    assert not selection.uniform  # what is trained on is chosen later, and not at random


def test_how_far_a_sample_is_trusted_is_asked_only_where_it_is_read() -> None:
    def refuse() -> Tensor:
        raise AssertionError("not to be asked")

    inputs = torch.randn(6, 3, generator=generator()), torch.ones(6, 2), torch.zeros(6).long()
    assert len(DivBS(0.5).choose(BatchEvidence(*inputs, generator(), refuse))) == 3
    with pytest.raises(AssertionError, match="not to be asked"):
        DivBS(0.5, trust=True).choose(BatchEvidence(*inputs, generator(), refuse))


# Which end of a score is suspect.


@pytest.mark.parametrize("policy", [*EVERY_POLICY, SeTa(0.0, 3, 0.4), Robust(noise_rate=0.2)], ids=str)
@given(seed=st.integers(0, 10_000), epoch=st.integers(0, 12), unknown=st.sampled_from([0.0, 0.2]))
@settings(max_examples=20, deadline=None)
def test_what_reads_suspicion_does_not_care_by_which_end_a_score_says_it(
    policy: Policy, seed: int, epoch: int, unknown: float
) -> None:
    score = random_scores(seed, 90, unknown)
    score[:30] += 6
    high = chosen(policy, score, epoch, seed, suspect="high")
    low = chosen(policy, -score, epoch, seed, suspect="low")
    if isinstance(policy, InfoBatch | IES | OrderDP | RCAP | RePB):
        # These rank by the score as it is: low goes first, whatever it means.
        assert listed(high) == listed(chosen(policy, score, epoch, seed, suspect="low"))
    else:
        assert listed(high) == listed(low)
        assert high.noise_rate == low.noise_rate


@dataclass(frozen=True)
class Confidence(Score):
    """The loss with its sign turned: low is suspect."""

    suspect: ClassVar[Any] = "low"

    @property
    def memories(self) -> tuple[ap.MemorySpec, ...]:
        return Loss().memories

    def __call__(self, history: History) -> Tensor:
        return -Loss()(history)


N, WRONG = 300, torch.arange(300) % 3 == 0


def losses_of(epoch: int) -> Tensor:
    """Losses that fall with the reference, and high ones of wrong labels that rise against it."""
    noise = 0.02 * torch.rand(N, generator=generator(epoch))
    return torch.where(WRONG, 4 + 0.2 * epoch, 3 - 0.2 * epoch) + noise


def run(score: Score, policy: Policy, epochs: int = 12, by_heart: float = 0.0) -> tuple[ap.Pruner, list[Selection]]:
    """A pruner after all but the last of its epochs, and the selections it made.

    Samples that the epoch before trained on have losses that are lower by the share ``by_heart``.
    """
    pruner = ap.Pruner(N, epochs + 1, score, policy, delta=1.0, seed=4)
    selections = []
    for epoch in range(epochs):
        losses = losses_of(epoch)
        if selections:
            losses[selections[-1].trained] *= 1 - by_heart
        selections.append(pruner.selection)
        for index in torch.tensor(list(pruner.sampler)).split(64):
            if isinstance(policy, BatchPolicy):
                index = index[pruner.choose(index, **batch_of(len(index)))]
            pruner.reduce(index, losses[index])
        pruner.end_epoch(reference_loss=3 - 0.2 * epoch if score.needs_reference else None)
    return pruner, selections


def batch_of(size: int) -> dict[str, Tensor]:
    """A batch in which the gradients of the samples are of one length and stand at right angles."""
    return {"logits": torch.zeros(size, 2), "features": torch.eye(size), "labels": torch.zeros(size).long()}


# Two losses have to do for an alignment here, and the last ones to be kept: a suspect is seldom looked at again.
SAME = [Loss(), Alignment(window=6, gaps="last_obs", min_observations=2), Confidence(), ExposureLoss()]


@pytest.mark.parametrize("score", SAME, ids=str)
def test_robust_flags_the_wrong_labels_by_any_score_that_shows_them(score: Score) -> None:
    pruner, _ = run(score, Robust(prune_ratio=0.5), by_heart=0.05)
    assert pruner.suspects is not None
    assert pruner.suspects.tolist() == WRONG.nonzero().flatten().tolist()
    assert pruner.noise_rate == pytest.approx(1 / 3, abs=0.02)
    assert pruner.suspicion[WRONG].min() > pruner.suspicion[~WRONG].max()


@pytest.mark.parametrize("score", SAME, ids=str)
def test_seta_begins_with_the_right_labels_by_any_score_that_shows_them(score: Score) -> None:
    _, selections = run(score, SeTa(prune_prob=0.0, groups=2, alpha=0.5))
    for epoch in range(4, 12):  # by then alignment has two losses of every sample
        easy = selections[epoch].mask()
        assert np.array_equal(easy, (~WRONG if epoch % 2 == 0 else WRONG).numpy()), epoch


@pytest.mark.parametrize("score", SAME, ids=str)
def test_divbs_trusts_the_right_labels_by_any_score_that_shows_them(score: Score) -> None:
    pruner, _ = run(score, DivBS(prune_ratio=0.0, pick="argmax", trust=True), epochs=5)
    index = torch.arange(90)
    picks = pruner.choose(index, **batch_of(90))
    assert WRONG[index[picks]].tolist() == [False] * 60 + [True] * 30


def test_two_scores_that_say_the_same_by_opposite_ends_select_the_same_in_every_epoch() -> None:
    for policy in (Robust(), Robust(thinning="easy"), SeTa(), DivBS(trust=True)):
        (one, chosen_by_one), (other, chosen_by_other) = (run(score, policy) for score in (Loss(), Confidence()))
        assert [listed(a) for a in chosen_by_one] == [listed(b) for b in chosen_by_other]
        assert torch.equal(one.scores, -other.scores)
        assert torch.equal(one.suspicion, other.suspicion)
