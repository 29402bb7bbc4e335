"""Scores against plain Python lists and scipy, over random histories of pruning."""

from __future__ import annotations

import math
import warnings
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from alignprune import Ledger, TrajectoryBank, scores
from alignprune.errors import CallMistake, TypeMistake
from alignprune.memory import AverageSpec, BankSpec, LedgerSpec, MemorySpec, Observed, Room
from alignprune.scores import Alignment, BatchLoss, ExposureLoss, History, Loss, Score, SecondDifference
from alignprune.selection import Onset, Selection

NAN = math.nan
SAMPLES = 7
TOLERANCE = 1e-3  # documented of the score of a bank


def history(seed: int, epochs: int, pruned: float = 0.4, low: float = 0.05) -> list[list[float]]:
    """Losses by epoch, NaN where a sample was pruned; in epoch 0 all are seen."""
    rng = np.random.default_rng(seed)
    losses = rng.uniform(low, 3, size=(epochs, SAMPLES)).astype(np.float32).astype(np.float64)
    gaps = rng.random(losses.shape) < pruned
    gaps[0] = False
    return np.where(gaps, NAN, losses).tolist()


def references(seed: int, epochs: int) -> list[float]:
    """Reference losses before training and after every epoch."""
    return (np.random.default_rng(seed + 1).uniform(0.5, 1, size=epochs + 1) * 2).tolist()


def scored(score: Score, losses: list[list[float]], reference: list[float]) -> Tensor:
    """The score of the memories that it declares, after these epochs."""
    memories = tuple(spec.make(Room(SAMPLES, len(losses))) for spec in score.memories)
    for epoch, row in enumerate(losses):
        for memory in memories:
            memory.write(Observed(epoch, torch.tensor(row), Selection.full(SAMPLES)))
    return score(History(torch.tensor(reference, dtype=torch.float64), memories))


def correlation(x: list[float], r: list[float], least: int) -> float:
    if len(x) < least:
        return NAN
    if np.var(x) < 1e-12 or np.var(r) < 1e-12:
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(stats.pearsonr(x, r).statistic)


def paired(column: list[float], after: list[float], window: int) -> tuple[list[float], list[float]]:
    pairs = [(loss, ref) for loss, ref in zip(column, after, strict=True)][-window:]
    pairs = [(loss, ref) for loss, ref in pairs if not math.isnan(loss)]
    return [loss for loss, _ in pairs], [ref for _, ref in pairs]


def carried(column: list[float], after: list[float], window: int) -> tuple[list[float], list[float]]:
    last, full = NAN, []
    for loss in column:
        last = last if math.isnan(loss) else loss
        full.append(last)
    return paired(full, after, window)


def last_observed(column: list[float], after: list[float], window: int) -> tuple[list[float], list[float]]:
    pairs = [(loss, ref) for loss, ref in zip(column, after, strict=True) if not math.isnan(loss)][-window:]
    return [loss for loss, _ in pairs], [ref for _, ref in pairs]


RULES = {"paired": paired, "carry": carried, "last_obs": last_observed}


def expected_alignment(gaps: str, losses: list[list[float]], after: list[float], window: int, least: int) -> np.ndarray:
    columns = [list(column) for column in zip(*losses, strict=True)]
    return np.array([correlation(*RULES[gaps](column, after, window), least) for column in columns])


def test_loss_is_the_last_loss_even_of_pruned_samples() -> None:
    losses = history(0, 12, pruned=0.6)
    for epochs in range(1, 13):
        expected = [[x for x in column if not math.isnan(x)][-1] for column in zip(*losses[:epochs], strict=True)]
        assert scored(Loss(), losses[:epochs], []).tolist() == pytest.approx(expected, rel=1e-6)


def test_a_sample_never_seen_has_no_loss() -> None:
    losses = [[NAN, 1.0, 0.0] + [2.0] * 4, [NAN, NAN, NAN] + [3.0] * 4]
    assert scored(Loss(), losses, []).tolist() == pytest.approx([NAN, 1.0, 0.0] + [3.0] * 4, nan_ok=True)


@pytest.mark.parametrize("gaps", list(RULES))
@given(
    seed=st.integers(0, 10_000),
    window=st.integers(2, 8),
    epochs=st.integers(1, 30),
    pruned=st.sampled_from([0.0, 0.3, 0.6, 0.9]),
    least=st.integers(2, 5),
)
@settings(max_examples=60, deadline=None)
def test_alignment_is_the_correlation_over_the_epochs_that_the_gap_rule_names(
    gaps: Any, seed: int, window: int, epochs: int, pruned: float, least: int
) -> None:
    losses, reference = history(seed, epochs, pruned), references(seed, epochs)
    score = scored(Alignment(window=window, gaps=gaps, min_observations=least), losses, reference)
    expected = expected_alignment(gaps, losses, reference[1:], window, min(least, window))
    np.testing.assert_allclose(score.numpy(), expected, atol=TOLERANCE)


@given(seed=st.integers(0, 10_000), epochs=st.integers(1, 20))
@settings(max_examples=30, deadline=None)
def test_last_obs_is_paired_when_nothing_was_skipped(seed: int, epochs: int) -> None:
    losses, reference = history(seed, epochs, pruned=0.0), references(seed, epochs)
    as_rows = scored(Alignment(window=6), losses, reference)
    as_observations = scored(Alignment(window=6, gaps="last_obs"), losses, reference)
    torch.testing.assert_close(as_observations, as_rows, atol=TOLERANCE, rtol=0, equal_nan=True)


def test_last_obs_of_an_unseen_sample_stands_still_while_paired_moves_on() -> None:
    losses, reference = history(0, 12, pruned=0.0), references(0, 12)
    for row in losses[8:]:
        row[0] = NAN
    before = scored(Alignment(window=6, gaps="last_obs"), losses[:8], reference[:9])[0]
    assert scored(Alignment(window=6, gaps="last_obs"), losses, reference)[0] == before
    assert scored(Alignment(window=6), losses, reference)[0].isnan()  # two of six epochs are left


@pytest.mark.parametrize("gaps", list(RULES))
def test_the_reference_before_an_epoch_is_that_after_the_one_before(gaps: Any) -> None:
    losses, reference = history(3, 15), references(3, 15)
    for timing, by_epoch in (("after", reference[1:]), ("before", reference[:-1])):
        score = scored(Alignment(window=6, gaps=gaps, reference_timing=timing), losses, reference)
        np.testing.assert_allclose(
            score.numpy(), expected_alignment(gaps, losses, by_epoch, 6, 3), atol=TOLERANCE, err_msg=timing
        )


def test_an_unknown_reference_leaves_its_epoch_out() -> None:
    losses, reference = history(4, 10, pruned=0.2), references(4, 10)
    for epoch in (0, 4, 7):
        reference[epoch] = NAN
    for gaps in RULES:
        expected = []
        for column in zip(*losses, strict=True):
            x, r = RULES[gaps](list(column), reference[1:], 8)
            known = [(a, b) for a, b in zip(x, r, strict=True) if not math.isnan(b)]
            expected.append(correlation([a for a, _ in known], [b for _, b in known], 3))
        score = scored(Alignment(window=8, gaps=gaps), losses, reference)
        np.testing.assert_allclose(score.numpy(), expected, atol=TOLERANCE, err_msg=gaps)


@pytest.mark.parametrize("gaps", list(RULES))
@pytest.mark.parametrize("pruned", [0.0, 0.4])
def test_negative_losses_are_correlated_like_others(gaps: Any, pruned: float) -> None:
    losses, reference = history(5, 20, pruned, low=-3), references(5, 20)
    score = scored(Alignment(window=8, gaps=gaps), losses, reference)
    np.testing.assert_allclose(score.numpy(), expected_alignment(gaps, losses, reference[1:], 8, 3), atol=TOLERANCE)


def test_cosine_is_not_centred() -> None:
    losses, reference = history(6, 10), references(6, 10)
    score = scored(Alignment(window=6, correlation="cosine"), losses, reference)
    for sample, column in enumerate(zip(*losses, strict=True)):
        x, r = paired(list(column), reference[1:], 6)
        if len(x) >= 3:
            expected = np.dot(x, r) / (np.linalg.norm(x) * np.linalg.norm(r))
            assert score[sample].item() == pytest.approx(expected, abs=TOLERANCE)
        else:
            assert score[sample].isnan()


@pytest.mark.parametrize("gaps", list(RULES))
def test_flat_trajectories_are_neutral_or_exempt(gaps: Any) -> None:
    losses, reference = history(7, 10, pruned=0.0), references(7, 10)
    for row in losses:
        row[2] = 0.7
    neutral = scored(Alignment(window=6, gaps=gaps), losses, reference)
    exempt = scored(Alignment(window=6, gaps=gaps, flat="exempt"), losses, reference)
    assert neutral[2] == 0
    assert exempt.isnan().tolist() == [sample == 2 for sample in range(SAMPLES)]


@pytest.mark.parametrize("spike", [1e3, 1e6])
def test_a_loss_that_once_exploded_does_not_spoil_later_scores(spike: float) -> None:
    losses, reference = history(8, 60, pruned=0.0), references(8, 60)
    losses = [[loss * 1e-2 for loss in row] for row in losses]
    losses[3] = [spike * (1 + sample) for sample in range(SAMPLES)]
    score = scored(Alignment(window=25), losses, reference)
    np.testing.assert_allclose(
        score.numpy(), expected_alignment("paired", losses, reference[1:], 25, 3), atol=TOLERANCE
    )


@given(seed=st.integers(0, 10_000), smoothing=st.integers(1, 5), epochs=st.integers(1, 14))
@settings(max_examples=50, deadline=None)
def test_second_difference_is_the_mean_of_the_last_bends(seed: int, smoothing: int, epochs: int) -> None:
    losses = history(seed, epochs, pruned=0.0)
    score = scored(SecondDifference(smoothing=smoothing), losses, [])
    for sample in range(SAMPLES):
        loss = [row[sample] for row in losses]
        bends = [abs(loss[t] - 2 * loss[t - 1] + loss[t - 2]) for t in range(2, epochs)]
        if len(bends) > smoothing:  # one more than are averaged: with 3, first after the 6th epoch
            assert score[sample].item() == pytest.approx(sum(bends[-smoothing:]) / smoothing, abs=1e-5)
        else:
            assert score[sample].isnan()


def test_second_difference_begins_after_the_sixth_epoch() -> None:
    losses = history(0, 7, pruned=0.0)
    begun = [not scored(SecondDifference(), losses[:epochs], []).isnan().any() for epochs in range(1, 8)]
    assert begun == [False] * 5 + [True] * 2


def test_second_difference_of_a_sample_with_a_gap_is_unknown() -> None:
    losses = history(0, 8, pruned=0.0)
    losses[5][3] = NAN
    assert scored(SecondDifference(), losses, []).isnan().tolist() == [sample == 3 for sample in range(SAMPLES)]


# The exposure loss, whose ledger has tests of its own.


def slow_exposure_loss(
    losses: list[list[float]], trained: list[list[bool]], exponent: float, onset: int
) -> list[float]:
    """The weighted mean of centred losses by the formula in the docstring, one sample after the other."""
    means = [np.mean([x for x, used in zip(*row, strict=True) if used]) for row in zip(losses, trained, strict=True)]
    found = []
    for i in range(SAMPLES):
        seen = [t for t in range(len(losses)) if not math.isnan(losses[t][i])]
        times = {t: sum(trained[s][i] for s in range(onset, t)) if t > onset else 0 for t in seen}
        weights = {t: (1 + times[t]) ** -exponent for t in seen}
        total = sum(weights[t] * (losses[t][i] - means[t]) for t in seen)
        found.append(total / sum(weights.values()) if seen else NAN)
    return found


@given(seed=st.integers(0, 10_000), exponent=st.sampled_from([0.0, 0.5, 2.0]), epochs=st.integers(3, 12))
@settings(max_examples=40, deadline=None)
def test_exposure_loss_is_its_formula(seed: int, exponent: float, epochs: int) -> None:
    rng, onset = np.random.default_rng(seed), 1
    losses = np.array(history(seed, epochs))
    losses[:, -1] = NAN  # never seen
    trained = (rng.random(losses.shape) < 0.7) & ~np.isnan(losses)
    losses[:, 0], trained[:, 0] = 1.0, True  # somebody is always trained on
    score = ExposureLoss(exponent=exponent)
    (spec,) = score.memories
    ledger = spec.make(Room(SAMPLES, epochs))
    for t in range(epochs):
        indices = torch.from_numpy(np.flatnonzero(~np.isnan(losses[t])))
        weights = torch.from_numpy(trained[t].astype(np.float32))[indices]
        said = Onset(onset) if t > onset else None
        ledger.write(Observed(t, torch.from_numpy(losses[t]), Selection(indices, weights, SAMPLES, onset=said)))
    found = score(History(torch.empty(0), (ledger,)))
    expected = slow_exposure_loss(losses.tolist(), trained.tolist(), exponent, onset)
    assert found.dtype == torch.float32
    assert found.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-5, nan_ok=True)


def test_exposure_loss_refuses_a_wrong_exponent() -> None:
    with pytest.raises(ValueError, match=r"exponent=-1 is out of range.*0 counts all"):
        ExposureLoss(exponent=-1)


# What a score says of itself.


def test_what_a_score_needs_is_said_by_its_class() -> None:
    assert (Loss().needs_reference, Loss().needs_pruned, Loss().memories) == (False, False, (BankSpec(1, "carry"),))
    assert (Alignment().needs_reference, Alignment().needs_pruned) == (True, False)
    assert Alignment(window=5, gaps="last_obs").memories == (BankSpec(5, "last_obs"),)
    assert SecondDifference(smoothing=2).memories == (BankSpec(5),)
    assert SecondDifference().needs_pruned
    assert (ExposureLoss(2.0).needs_reference, ExposureLoss(2.0).memories) == (False, (LedgerSpec(2.0),))
    assert (BatchLoss(0.7).needs_batches, BatchLoss(0.7).memories) == (True, (AverageSpec(0.7),))
    assert not Loss().needs_batches


def test_wrong_labels_gather_at_low_alignment_and_at_the_high_end_of_the_others() -> None:
    ends = {kind.__name__: kind.suspect for kind in (Loss, BatchLoss, Alignment, SecondDifference, ExposureLoss)}
    assert ends == {
        "Loss": "high",
        "BatchLoss": "high",
        "Alignment": "low",
        "SecondDifference": "high",
        "ExposureLoss": "high",
    }
    assert set(ends) | {"History", "Score"} == set(scores.__all__)


def test_a_score_is_refused_a_memory_that_it_did_not_declare() -> None:
    bank, ledger = BankSpec(3).make(Room(SAMPLES, 5)), LedgerSpec().make(Room(SAMPLES, 5))
    for score, given_memory, kind in ((ExposureLoss(), bank, Ledger), (Loss(), ledger, TrajectoryBank)):
        with pytest.raises(CallMistake, match=f"the score reads a {kind.__name__} that it did not declare"):
            score(History(torch.zeros(6), (given_memory,)))


def test_a_score_that_does_not_say_which_end_is_suspect_is_refused_when_the_class_is_made() -> None:
    with pytest.raises(
        TypeMistake, match=r"Silent.suspect=None is no end of the scores, expected 'high' or 'low': say"
    ):

        class Silent(Score):
            @property
            def memories(self) -> tuple[MemorySpec, ...]:
                return ()

            def __call__(self, history: History) -> Tensor:
                return torch.zeros(SAMPLES)


@pytest.mark.parametrize("end", ["up", "High", "", True, None, ("high",)])
def test_an_end_that_there_is_not_is_refused_when_the_class_is_made(end: Any) -> None:
    with pytest.raises(TypeMistake, match="Wrong.suspect=.* is no end of the scores, expected 'high' or 'low'"):

        class Wrong(Loss):
            suspect: ClassVar[Any] = end


def test_a_score_may_take_over_the_end_of_another() -> None:
    class Doubled(Alignment):
        def __call__(self, history: History) -> Tensor:
            return 2 * super().__call__(history)

    class Turned(Alignment):
        suspect: ClassVar[Any] = "high"

    assert (Doubled.suspect, Turned.suspect) == ("low", "high")


def test_a_call_of_another_signature_is_refused_when_the_class_is_made() -> None:
    message = r"Old\.__call__\(bank, reference\) has another signature, expected __call__\(self, history\)"
    with pytest.raises(TypeMistake, match=message):

        class Old(Loss):
            def __call__(self, bank: TrajectoryBank, reference: Tensor) -> Tensor:  # type: ignore[override]
                return bank.recent(1)[0]


def test_a_call_that_can_do_with_the_history_alone_is_accepted() -> None:
    losses = history(0, 3, pruned=0.0)

    class Default(Loss):
        def __call__(self, history: History, factor: float = 2.0) -> Tensor:
            return factor * super().__call__(history)

    class Anything(Loss):
        def __call__(self, *given: Any) -> Tensor:
            return super().__call__(given[0])

    class Wrapped(Loss):
        def __call__(self, history: History, *rest: Any, **more: Any) -> Tensor:
            return super().__call__(history)

    assert scored(Default(), losses, []).tolist() == pytest.approx([2 * loss for loss in losses[-1]])
    for score in (Anything(), Wrapped()):
        assert scored(score, losses, []).tolist() == pytest.approx(losses[-1])


@pytest.mark.parametrize(
    "settings, error, message",
    [
        ({"window": 1}, ValueError, "window=1 is out of range, expected an integer >= 2"),
        ({"window": 2.5}, TypeError, "window=2.5 is float, expected an integer"),
        ({"window": True}, TypeError, "window=True is bool"),
        ({"min_observations": 1}, ValueError, "min_observations=1 is out of range, expected an integer >= 2"),
        ({"correlation": "pearsn"}, ValueError, "correlation='pearsn' is unknown.*did you mean 'pearson'"),
        ({"gaps": "last-obs"}, ValueError, "gaps='last-obs' is unknown.*did you mean 'last_obs'"),
        ({"flat": "exampt"}, ValueError, "flat='exampt' is unknown.*did you mean 'exempt'"),
        ({"reference_timing": "befor"}, ValueError, "reference_timing='befor' is unknown.*did you mean 'before'"),
    ],
)
def test_a_wrong_setting_is_named(settings: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Alignment(**settings)


def test_second_difference_averages_at_least_one() -> None:
    with pytest.raises(ValueError, match="smoothing=0 is out of range"):
        SecondDifference(smoothing=0)
