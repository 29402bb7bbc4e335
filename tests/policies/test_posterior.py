"""Posterior: how probably a label is wrong, by the held-out losses of its neighbours and its own."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from alignprune.policies.posterior import contradicted, posterior, weight_of_predictions
from alignprune.policies.ranking import by_suspicion, slice_size

N = 4_000


def made(rate: float, seed: int, sure: float = 3.0) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Suspicions, log odds whose Bayes rule is exact, and which labels are wrong.

    Given wrong or right, a log odds is normal around +m or -m with variance 2m: then it is its own log likelihood
    ratio. The suspicion says the same, less exactly.
    """
    draw = np.random.default_rng(seed)
    wrong = draw.random(N) < rate
    side = np.where(wrong, 1.0, -1.0)
    odds = side * sure + math.sqrt(2 * sure) * draw.standard_normal(N)
    suspicion = odds + draw.standard_normal(N)
    return suspicion.astype(np.float32), odds.astype(np.float32), wrong


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.2, 0.4, 0.6])
def test_the_noise_rate_and_every_tenth_of_the_probabilities_are_as_they_should_be(rate: float) -> None:
    suspicion, odds, wrong = made(rate, 0)
    found = posterior(suspicion, odds)
    assert found is not None
    assert found.noise_rate == pytest.approx(wrong.mean(), abs=0.03)
    assert found.noise_rate == pytest.approx(found.p_wrong.mean())
    by_probability = np.array_split(np.argsort(found.p_wrong), 10)
    error = np.mean([abs(found.p_wrong[part].mean() - wrong[part].mean()) for part in by_probability])
    assert error < 0.05


@pytest.mark.parametrize("rate", [0.1, 0.4])
def test_a_few_looked_at_in_each_slice_speak_for_the_others(rate: float) -> None:
    suspicion, odds, wrong = made(rate, 1)
    odds[np.random.default_rng(2).random(N) < 0.7] = np.nan
    found = posterior(suspicion, odds)
    assert found is not None
    assert found.noise_rate == pytest.approx(wrong.mean(), abs=0.04)
    unseen = np.isnan(odds)
    assert found.p_wrong[unseen].mean() == pytest.approx(wrong[unseen].mean(), abs=0.04)


def test_without_a_look_a_probability_never_rises_as_the_suspicion_falls() -> None:
    suspicion, odds, _ = made(0.3, 3)
    odds[::2] = np.nan
    found = posterior(suspicion, odds)
    assert found is not None
    order = np.argsort(-suspicion)
    unseen = order[np.isnan(odds[order])]
    assert (np.diff(found.p_wrong[unseen]) <= 1e-12).all()


def test_right_labels_are_not_suspected() -> None:
    suspicion, odds, _ = made(0.0, 4)
    found = posterior(suspicion, odds)
    assert found is not None
    assert found.noise_rate < 0.01
    assert (found.p_wrong > 0.5).mean() < 0.005


def test_beyond_the_slices_that_were_looked_at_nothing_is_suspected() -> None:
    suspicion, odds, _ = made(0.4, 5)
    parts = np.split(np.argsort(-suspicion, kind="stable"), 40)
    for part in parts[10:]:
        odds[part] = np.nan
    found = posterior(suspicion, odds)
    assert found is not None
    assert found.judged == sum(len(part) for part in parts[:10])
    assert (found.p_wrong[np.concatenate(parts[14:])] == 0).all()


def test_where_the_losses_say_little_of_two_groups_the_slices_own_shares_are_taken() -> None:
    draw = np.random.default_rng(9)
    suspicion = draw.standard_normal(N)
    suspicion[: N // 3] += 8
    odds = np.full(N, -3.0, dtype=np.float32)
    odds[: N // 3] = 0.4  # hardly more probable wrong than right
    found = posterior(suspicion, odds)
    assert found is not None
    assert found.noise_rate == pytest.approx(1 / 3, abs=0.1)
    one_group = posterior(draw.standard_normal(N), odds)
    assert one_group is not None
    assert one_group.noise_rate < 0.1


def test_nothing_is_said_where_nobody_was_looked_at() -> None:
    suspicion, odds, _ = made(0.2, 6)
    assert posterior(suspicion, np.full_like(odds, np.nan)) is None
    assert posterior(np.full_like(suspicion, np.nan), odds) is None


def test_a_sample_without_a_suspicion_has_no_probability() -> None:
    suspicion, odds, _ = made(0.2, 7)
    suspicion[5] = np.nan
    found = posterior(suspicion, odds)
    assert found is not None
    assert np.flatnonzero(np.isnan(found.p_wrong)).tolist() == [5]


@given(values=st.lists(st.floats(width=32, allow_infinity=False), max_size=60), double=st.booleans())
@settings(max_examples=100, deadline=None)
def test_the_order_is_the_most_suspicious_first_and_equals_as_they_come(values: list[float], double: bool) -> None:
    suspicion = np.array(values, dtype=np.float64 if double else np.float32)
    known = [i for i, value in enumerate(values) if not math.isnan(value)]
    assert by_suspicion(suspicion).tolist() == sorted(known, key=lambda i: -values[i])


def test_a_slice_is_a_fortieth_of_the_data_and_never_very_small() -> None:
    assert [slice_size(n) for n in (10, 800, 840, 1_001, 40_000)] == [20, 20, 21, 25, 1_000]


# -- predictions beside losses -----------------------------------------------------------------------------


def slow_weight(p: list[float], agreement: list[float]) -> float:
    """The equation, solved by halving the range that the weight lies in."""
    looked = [i for i in range(len(p)) if not math.isnan(agreement[i])]

    def found(weight: float) -> float:
        return math.fsum(1 - (1 - p[i]) * (1 - weight * (1 - agreement[i])) for i in looked)

    expected = len(looked) - 2 * math.fsum(agreement[i] for i in looked)
    low, high = 0.0, 1.0
    if len(looked) < 20 or found(low) >= expected:
        return low
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if found(middle) < expected else (low, middle)
    return low


@given(seed=st.integers(0, 2**31), size=st.integers(0, 90), met=st.floats(0, 1), sure=st.floats(0, 1))
@settings(max_examples=80, deadline=None)
def test_predictions_weigh_as_much_as_makes_the_losses_find_as_many_wrong_as_are_hardly_met(
    seed: int, size: int, met: float, sure: float
) -> None:
    draw = np.random.default_rng(seed)
    p = sure * draw.random(size)
    agreement = np.where(draw.random(size) < 0.2, math.nan, met * draw.random(size))
    weight = weight_of_predictions(p, agreement)
    assert weight == pytest.approx(slow_weight(p.tolist(), agreement.tolist()), abs=1e-9)
    both = contradicted(p, agreement, weight)
    np.testing.assert_array_equal(both[np.isnan(agreement)], p[np.isnan(agreement)])
    assert ((both >= p) & (both <= 1)).all()
    if 0 < weight < 1:
        looked = ~np.isnan(agreement)
        assert both[looked].sum() == pytest.approx(looked.sum() - 2 * agreement[looked].sum())


def test_samples_of_which_nothing_is_known_change_no_weight() -> None:
    p, agreement = np.full(50, 0.1), np.full(50, 0.2)
    expected = pytest.approx((30 - 5) / (50 * 0.9 * 0.8))
    assert weight_of_predictions(p, agreement) == expected
    assert weight_of_predictions(np.append(p, [0.9] * 9), np.append(agreement, [math.nan] * 9)) == expected
    assert weight_of_predictions(np.append(p, [math.nan] * 9), np.append(agreement, [0.0] * 9)) == expected
