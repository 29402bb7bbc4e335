"""The onset: a table of its signs, and how many suspects follow from two groups or from none."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import norm

from alignprune._ranks import Draws
from alignprune.memory.ledger import Ledger
from alignprune.policies import Evidence, mixture, onset
from alignprune.selection import Onset

NAN = math.nan
EPOCHS = 16
RAMP = 1


def evidence(epoch: int) -> Evidence:
    return Evidence(torch.zeros(1), "high", epoch, EPOCHS, Draws(0, epoch))


def ledger_of(memorisation: float, confirmed: bool = True) -> Ledger:
    ledger = Ledger(1)
    ledger.memorisation, ledger.confirmed = memorisation, confirmed
    return ledger


def two_groups(distance: float, n: int = 400, upper: float = 0.25) -> NDArray[np.float64]:
    """Quantiles of two normal distributions of deviation 1, so far apart."""
    high = round(upper * n)
    parts = [norm.ppf((np.arange(size) + 0.5) / size) for size in (n - high, high)]
    return np.concatenate([parts[0], parts[1] + distance])


# When.


@given(
    epoch=st.integers(1, EPOCHS),
    memorisation=st.sampled_from([NAN, -1.0, 0.0, 0.014, 0.016, 0.039, 0.041, 0.099, 0.101, 2.0]),
    distance=st.sampled_from([4.0, 5.0, 8.0]),
    seed=st.integers(0, 1_000),
)
@settings(max_examples=100, deadline=None)
def test_clear_groups_are_one_sign_and_memorisation_or_a_quarter_of_the_epochs_the_other(
    epoch: int, memorisation: float, distance: float, seed: int
) -> None:
    known = np.random.default_rng(seed).permutation(two_groups(distance))
    found = onset.sensed(evidence(epoch), known, ledger_of(memorisation), RAMP)
    if not memorisation < 0.015 and (memorisation > 0.04 or epoch >= EPOCHS / 4):
        assert found is not None
        assert found.epoch == epoch - 1  # the epoch that ended last
        assert found.separation == pytest.approx(distance, rel=0.1)
    else:
        assert found is None


@pytest.mark.parametrize("epoch", range(1, EPOCHS + 1))
@pytest.mark.parametrize("separation", [0.5, 0.99, 1.01, 1.5, 1.99, 2.01, 5.0])
@pytest.mark.parametrize("memorisation", [NAN, -0.2, 0.014, 0.016, 0.039, 0.041, 0.099, 0.101])
def test_the_onset_comes_with_confirmed_strong_memorisation_or_two_of_three_signs_or_late_with_less(
    epoch: int, separation: float, memorisation: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = onset.mixture.Mixture((0.0, separation), (1.0, 1.0), 0.3)
    monkeypatch.setattr(onset.mixture, "fit", lambda values: found)  # how it is fitted has tests of its own
    for ramp, confirmed in itertools.product((1, 2, 3), (False, True)):
        begins = {
            "strongly": memorisation > 0.1 and confirmed,
            "memorises and clear": memorisation > 0.04 and separation >= 2,
            "settled and clear": epoch >= 4 and separation >= 2 and not memorisation < 0.015,
            "settled, memorises and apart": epoch >= 4 and memorisation > 0.04 and separation >= 1,
            "late": 8 <= epoch <= 16 - 3 * ramp and memorisation >= 0.015 and separation >= 1,
        }
        expected = Onset(epoch - 1, found.separation) if any(begins.values()) else None
        ledger = ledger_of(memorisation, confirmed)
        assert onset.sensed(evidence(epoch), np.linspace(0, 1, 50), ledger, ramp) == expected


def test_a_network_that_learns_nothing_by_heart_has_no_onset_however_far_two_groups_are_apart() -> None:
    for epoch in range(1, EPOCHS + 1):
        assert onset.sensed(evidence(epoch), two_groups(8), ledger_of(0.01), RAMP) is None


def test_whether_a_network_memorises_is_known_once_it_was_measured() -> None:
    known = {math.nan: None, -0.1: False, 0.0151: False, 0.0399: False, 0.0401: True, 2.0: True}
    assert [onset.memorises(value) for value in known] == list(known.values())


def test_there_is_no_onset_before_the_first_epoch_or_without_a_score() -> None:
    assert onset.sensed(evidence(0), two_groups(8), ledger_of(2.0), RAMP) is None
    for epoch in range(1, EPOCHS + 1):
        assert onset.sensed(evidence(epoch), np.empty(0), ledger_of(2.0), RAMP) is None


def test_a_few_samples_are_no_two_groups() -> None:
    apart = np.tile([1.0, 5.0], 20)
    assert onset.sensed(evidence(8), apart[:39], ledger_of(NAN), RAMP) is None
    assert onset.sensed(evidence(8), apart, ledger_of(NAN), RAMP) is not None
    assert onset.sensed(evidence(8), apart[:39], ledger_of(0.2), RAMP) == Onset(7, None)  # memorises strongly


def test_equal_scores_are_no_two_groups() -> None:
    assert onset.sensed(evidence(8), np.ones(100), ledger_of(0.05), RAMP) is None
    assert onset.sensed(evidence(8), np.ones(100), ledger_of(0.2), RAMP) == Onset(7, None)


# How many.


def shared(known: NDArray[np.float64], num_samples: int, began: Onset, waited: int, ramp: int) -> onset.Share:
    return onset.share_of_suspects(known, mixture.fit(known), num_samples, began, waited, ramp)


@pytest.mark.parametrize("upper", [0.2, 0.4, 0.6])
@pytest.mark.parametrize("waited", [1, 3, 30])
def test_suspects_are_the_upper_group_where_the_groups_were_apart(upper: float, waited: int) -> None:
    share, rate, few = shared(two_groups(8, 1_000, upper), 1_000, Onset(2, 5.0), waited, ramp=5)
    assert not few
    assert share == pytest.approx(upper)
    assert rate == pytest.approx(upper, abs=0.01)


def test_samples_without_a_score_are_part_of_the_data_set_that_the_share_is_of() -> None:
    share, rate, _ = shared(two_groups(8, 1_000, 0.4), 2_000, Onset(2, 5.0), 3, ramp=5)
    assert share == pytest.approx(0.2)
    assert rate == pytest.approx(0.4, abs=0.01)  # of those that are known


@pytest.mark.parametrize("separation", [None, 0.0, 0.99])
def test_where_no_groups_were_apart_half_are_suspects_until_the_losses_have_moved(separation: float | None) -> None:
    known = two_groups(8, 1_000, 0.1)
    for ramp in (1, 5):
        for waited in range(20):
            found = shared(known, 1_000, Onset(2, separation), waited, ramp)
            if waited < ramp + 4:
                assert found == (0.5, None, False)
            else:
                assert found == (pytest.approx(0.1), pytest.approx(0.1, abs=0.01), False)


@pytest.mark.parametrize("separation", [0.5, 1.5, 1.99, 2.01, 4.0])
@pytest.mark.parametrize("upper", [0.05, 0.149, 0.151, 0.6])
@pytest.mark.parametrize("apart", [None, 1.5, 5.0])
def test_a_small_group_that_is_not_clearly_apart_is_the_tail_of_the_hard_samples(
    separation: float, upper: float, apart: float | None
) -> None:
    fitted = onset.mixture.Mixture((0.0, separation), (1.0, 1.0), upper)
    known = np.linspace(-3, 6, 900)
    share, rate, few = onset.share_of_suspects(known, fitted, 1_000, Onset(2, apart), 9, ramp=5)
    if upper < 0.15 and separation < 2 and apart is not None:  # without groups at the onset, the wait has moved them
        assert (share, rate, few) == (0.0, 0.0, True)
    else:
        assert not few
        assert (share, rate) == (np.count_nonzero(known > fitted.cut) / 1_000, upper)


def test_equal_scores_have_no_suspects() -> None:
    assert shared(np.ones(100), 100, Onset(2, 5.0), 9, ramp=5) == (0.0, 0.0, False)
