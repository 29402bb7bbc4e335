"""How probably labels are wrong: the flips against a double loop over the pairs of classes, the order of the scores."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from alignprune import audit
from alignprune.audit.facts import Facts
from alignprune.audit.judgement import excess_of_flips
from alignprune.policies.posterior import posterior
from alignprune.policies.robust import log_odds_of_wrong
from label_report import digits, made, made_facts

# -- flips that go one way only ----------------------------------------------------------------------------


def flips(counts: Any, weight: float = 1.0) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Given labels, alternatives and weights of a matrix that says how often which is said instead of which."""
    pairs = [(y, a) for (y, a), count in np.ndenumerate(counts) for _ in range(count)]
    labels, alternative = np.array(pairs, dtype=np.int32).reshape(-1, 2).T
    return labels, alternative, np.full(len(pairs), weight)


def slow_excess(labels: Any, alternative: Any, weight: Any, classes: int) -> list[float]:
    """The equations of the module, pair by pair and sample by sample."""
    found = [0.0] * len(labels)
    z = math.sqrt(2 * math.log(max(1, classes * (classes - 1)) / 0.05))
    for y, a in itertools.permutations(range(classes), 2):
        there = [i for i in range(len(labels)) if labels[i] == y and alternative[i] == a and weight[i] > 0]
        back = [i for i in range(len(labels)) if labels[i] == a and alternative[i] == y]
        count, reverse = sum(weight[i] for i in there), sum(weight[i] for i in back)
        spread = sum(weight[i] ** 2 for i in there + back)
        if there and count - reverse > z * math.sqrt(spread) + z * z / 3:
            for i in there:
                found[i] = 1 - reverse / count
    return found


@given(
    classes=st.integers(1, 4),
    counts=st.lists(st.integers(0, 40), min_size=16, max_size=16),
    unlabelled=st.integers(0, 9),
    silent=st.integers(0, 9),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=60, deadline=None)
def test_the_excess_is_that_of_a_double_loop(
    classes: int, counts: list[int], unlabelled: int, silent: int, seed: int
) -> None:
    draw = np.random.default_rng(seed)
    labels, alternative, _ = flips(np.array(counts).reshape(4, 4)[:classes, :classes])
    labels = np.concatenate([labels, np.full(unlabelled, -1), np.zeros(silent, dtype=int)]).astype(np.int32)
    alternative = np.concatenate([alternative, np.zeros(unlabelled, dtype=int), np.full(silent, -1)]).astype(np.int32)
    order = draw.permutation(len(labels))
    labels, alternative = labels[order], alternative[order]
    weight = draw.choice([0, 0.25, 0.5, 1], len(labels))  # their sums are exact, so the bound is met by both or none
    found = excess_of_flips(labels, alternative, weight, classes)
    np.testing.assert_allclose(found, slow_excess(labels, alternative, weight, classes), rtol=1e-12)


def test_a_class_that_is_often_given_for_its_neighbour_is_found_and_the_share_is_that_of_the_excess() -> None:
    # 100 of class 1 are given as 0; look-alikes go both ways, 20 and 20.
    labels, alternative, weight = flips([[0, 120, 0], [20, 0, 0], [0, 0, 0]])
    found = excess_of_flips(labels, alternative, weight, 3)
    assert found[labels == 0] == pytest.approx(100 / 120)
    assert (found[labels == 1] == 0).all()


def test_confusions_that_go_both_ways_as_chance_has_them_are_no_flips() -> None:
    draw = np.random.default_rng(0)
    flagged = 0
    for _ in range(50):
        labels, alternative, weight = flips(draw.poisson(60, (10, 10)) * (1 - np.eye(10, dtype=int)))
        flagged += (excess_of_flips(labels, alternative, weight, 10) > 0).any()
    assert flagged <= 5  # in one data set of ten, with 90 pairs each, one pair at most is taken for flips


def test_a_thousand_classes_cost_the_pairs_that_there_are() -> None:
    labels = np.arange(20_000, dtype=np.int32) % 20_000
    found = excess_of_flips(labels, np.roll(labels, 1), np.ones(20_000), 20_000)
    assert (found == 0).all()


def low_losses(size: int) -> NDArray[Any]:
    """Held-out losses that say of no label that it is wrong."""
    return np.full(size, 0.1, dtype=np.float32)


def test_labels_flipped_one_way_are_found_where_the_losses_say_nothing() -> None:
    size = 900
    true, labels = np.arange(size) % 3, np.arange(size, dtype=np.int32) % 3
    wrong = (true == 1) & (np.random.default_rng(1).random(size) < 0.4)
    labels[wrong] = 0  # 1 is given as 0
    # The network says the true class in 9 of 10 epochs, but expects the wrong label, so that its loss is low.
    agreeing = np.where(wrong, 1, 9).astype(np.int32)
    alternative = np.where(wrong, true, (true + 1 + np.arange(size) // 3 % 2) % 3).astype(np.int32)
    facts = made_facts(size, held_out=low_losses(size), agreeing=agreeing, alternative=alternative)
    found = audit.judge(facts, labels, 3)
    assert found.p_wrong[wrong].min() > 0.9
    assert found.p_wrong[~wrong].max() < 0.1
    assert found.noise_rate == pytest.approx(wrong.mean(), abs=0.02)
    # Where nobody was held out losses alone decide.
    assert audit.judge(dataclasses.replace(facts, held_out=low_losses(size) * np.nan), labels, 3).p_wrong.max() < 0.1


def test_what_was_said_in_less_than_a_quarter_of_the_epochs_is_no_flip() -> None:
    labels = np.repeat(np.arange(2, dtype=np.int32), 300)
    alternative = np.where(labels == 0, 1, -1).astype(np.int32)
    for agreeing, found in ((8, False), (2, True)):
        counts = np.where(labels == 0, agreeing, 10).astype(np.int32)
        p = audit.judge(
            made_facts(600, held_out=low_losses(600), agreeing=counts, alternative=alternative), labels, 2
        ).p_wrong
        assert (p[labels == 0] > 0.5).all() == found
        assert (p[labels == 1] < 0.01).all()


def test_of_a_flip_that_is_said_less_than_half_of_the_time_only_a_part_counts() -> None:
    labels = np.repeat(np.arange(2, dtype=np.int32), 300)
    facts = made_facts(
        600,
        held_out=low_losses(600),
        agreeing=np.where(labels == 0, 6, 10).astype(np.int32),
        alternative=np.where(labels == 0, 1, -1).astype(np.int32),
    )
    p = audit.judge(facts, labels, 2).p_wrong
    # All of these flips go one way; 4 of 10 predictions spoke for them, which is taken for 4.5 of 11.
    assert p[labels == 0] == pytest.approx(2 * 4.5 / 11, abs=0.01)


# -- the whole ---------------------------------------------------------------------------------------------


def judged(run: Any) -> audit.Judgement:
    return audit.judge(audit.facts(run.pruner), np.where(run.given < 0, -1, run.given).astype(np.int32), 3)


def confused(loss: float, agreement: float) -> tuple[Facts, NDArray[Any]]:
    """900 samples of 3 classes: the first 300 were held out and met so often, and contradicted in 9 of 10 epochs."""
    first = np.arange(900) < 300
    known = made_facts(
        900,
        suspicion=np.linspace(3, 0, 900, dtype=np.float32),
        held_out=np.where(first, loss, math.nan).astype(np.float32),
        agreement=np.where(first, agreement, math.nan).astype(np.float32),
        agreeing=np.where(first, 1, 10).astype(np.int32),
    )
    return known, np.arange(900, dtype=np.int32) % 3


def test_where_few_are_met_predictions_make_up_for_what_the_losses_miss() -> None:
    known, labels = confused(loss=0.2, agreement=0.1)
    by_losses = posterior(known.suspicion, log_odds_of_wrong(known.held_out, labels))
    assert by_losses is not None
    assert by_losses.p_wrong[:300].max() < 0.5  # so probable labels are right, as far as losses tell
    p_wrong = audit.judge(known, labels, 3).p_wrong
    assert p_wrong[:300].sum() == pytest.approx(300 - 2 * 0.1 * 300)
    weight = (240 - by_losses.p_wrong[:300].sum()) / ((1 - by_losses.p_wrong[:300]).sum() * 0.9)
    unmet = np.where(np.arange(900) < 300, 0.9, 0.0)
    np.testing.assert_allclose(p_wrong, 1 - (1 - by_losses.p_wrong) * (1 - weight * unmet), rtol=1e-6)


@pytest.mark.parametrize(
    "loss, agreement",
    [
        pytest.param(0.2, 0.5, id="half of them are met"),
        pytest.param(9.0, 0.1, id="the losses find them wrong as well"),
        pytest.param(0.2, math.nan, id="nothing was predicted"),
    ],
)
def test_else_the_losses_speak_alone(loss: float, agreement: float) -> None:
    known, labels = confused(loss, agreement)
    by_losses = posterior(known.suspicion, log_odds_of_wrong(known.held_out, labels))
    assert by_losses is not None
    np.testing.assert_allclose(audit.judge(known, labels, 3).p_wrong, by_losses.p_wrong, rtol=0, atol=1e-12)


def test_the_noise_rate_is_the_mean_and_the_bounds_hold_the_estimates_and_chance() -> None:
    run = made(size=900, rate=0.3)
    found = judged(run)
    p = found.p_wrong
    assert found.held_out
    assert found.noise_rate == pytest.approx(sum(p) / len(p))
    assert found.noise_rate == pytest.approx(run.wrong.mean(), abs=0.03)
    # Two groups are plain to see in these losses: their share, that of the wrong labels, is the other estimate.
    chance = 1.96 * math.sqrt(sum(one * (1 - one) for one in p)) / len(p)
    estimates = (found.noise_rate, run.wrong.mean())
    assert (found.low, found.high) == pytest.approx((min(estimates) - chance, max(estimates) + chance), abs=0.002)
    # Labels that are wrong with these probabilities are as many in 95 of 100 cases.
    drawn = (np.random.default_rng(0).random((1_000, len(p))) < p).mean(1)
    assert (np.abs(drawn - found.noise_rate) <= chance).mean() == pytest.approx(0.95, abs=0.025)


@pytest.mark.parametrize("few", [0, 5])
def test_where_too_few_samples_were_held_out_the_mean_losses_judge_and_this_is_said(few: int) -> None:
    run = made("full", size=600, epochs=6)
    facts = audit.facts(run.pruner)
    held_out = facts.mean_loss.copy()
    held_out[few:] = np.nan
    labels = run.given.astype(np.int32)
    found = audit.judge(dataclasses.replace(facts, held_out=held_out), labels, 3)
    silent = np.zeros(600, dtype=np.int32)  # without predictions no flip is counted
    heard = {"predictions": silent, "agreeing": silent, "alternative": silent - 1}
    expected = audit.judge(dataclasses.replace(facts, held_out=facts.mean_loss, **heard), labels, 3)
    assert (found.held_out, expected.held_out) == (False, True)
    np.testing.assert_allclose(found.p_wrong, expected.p_wrong, atol=1e-12)
    assert found.p_wrong[run.wrong].mean() > 0.5
    assert found.p_wrong[~run.wrong].mean() < 0.1


@pytest.mark.parametrize("labels", [[0] * 50, [-1] * 50, [2] * 49 + [-1]])
def test_of_labels_of_one_class_or_none_nothing_is_said(labels: list[int]) -> None:
    facts = made_facts(50, held_out=np.linspace(0.1, 5, 50, dtype=np.float32))
    found = audit.judge(facts, np.array(labels, dtype=np.int32), 3)
    assert np.isnan([found.noise_rate, found.low, found.high]).all()
    assert np.isnan(found.p_wrong).all()
    assert np.isnan(found.label_score).all()


def test_nothing_is_said_of_samples_without_a_label_or_never_seen_and_only_of_these() -> None:
    facts = audit.facts(made().pruner)
    labels = made().given.astype(np.int32)
    labels[:7] = -1
    suspicion = facts.suspicion.copy()
    suspicion[20:25] = np.nan
    found = audit.judge(dataclasses.replace(facts, suspicion=suspicion), labels, 3)
    silent = [*range(7), *range(20, 25)]
    assert np.flatnonzero(np.isnan(found.p_wrong)).tolist() == silent
    assert np.flatnonzero(np.isnan(found.label_score)).tolist() == silent
    assert found.noise_rate == pytest.approx(np.delete(found.p_wrong, silent).mean())


def test_another_order_of_the_samples_and_other_numbers_of_the_classes_change_nothing() -> None:
    run = digits()
    facts, labels = audit.facts(run.pruner), run.given.numpy().astype(np.int32)
    found = audit.judge(facts, labels, 10)
    draw = np.random.default_rng(0)
    order, number = draw.permutation(len(labels)), draw.permutation(10).astype(np.int32)
    columns = {n: v[order] for n, v in vars(facts).items() if isinstance(v, np.ndarray)}
    columns["alternative"] = np.where(columns["alternative"] < 0, -1, number[columns["alternative"]])
    other = audit.judge(dataclasses.replace(facts, **columns), number[labels[order]], 10)
    np.testing.assert_allclose(other.p_wrong, found.p_wrong[order], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(other.label_score, found.label_score[order], rtol=1e-9, atol=1e-12)


# A few values, so that there are ties of all kinds, and neighbours that differ by almost nothing.
suspicions = st.lists(st.sampled_from([-1.0, 0.0, 1e-7, 0.3, 2.0, 5.0, math.nan]), min_size=30, max_size=80)


@given(suspicions, st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_the_label_score_is_in_the_order_of_the_probability_and_then_of_the_suspicion(
    values: list[float], seed: int
) -> None:
    draw = np.random.default_rng(seed)
    size, suspicion = len(values), np.array(values, dtype=np.float32)
    facts = made_facts(
        size,
        suspicion=suspicion,
        held_out=draw.choice([0.1, 1.0, 1.0001, 4.0, np.nan], size).astype(np.float32),
        mean_loss=np.where(np.isnan(suspicion), np.nan, draw.choice([0.1, 3.0], size)).astype(np.float32),
    )
    labels = draw.integers(-1, 3, size).astype(np.int32)
    found = audit.judge(facts, labels, 3)
    known = np.flatnonzero(~np.isnan(found.p_wrong))
    if len(known):
        assert 0 <= found.low <= found.noise_rate <= found.high <= 1
    assert ((found.label_score[known] >= 0) & (found.label_score[known] <= 1)).all()
    assert np.abs(found.label_score - (1 - found.p_wrong))[known].max(initial=0) < 0.002
    for i, j in itertools.combinations(known, 2):
        one, other = (found.p_wrong[i], suspicion[i]), (found.p_wrong[j], suspicion[j])
        if one == other:
            assert found.label_score[i] == found.label_score[j]
        elif abs(one[0] - other[0]) > 1e-12 or one[0] == other[0]:
            assert (found.label_score[i] < found.label_score[j]) == (one > other)
        else:  # nearer than the steps between numbers: they may meet, but not cross
            assert (found.label_score[i] <= found.label_score[j]) or one < other
