"""The prune ratio: epochs that save it, and budgets of training samples."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignprune.bench.run.budget import calibrated_epochs, equal_epochs, training_samples


def test_the_papers_default_run_stands_for_thirty_percent_and_the_others_are_shorter() -> None:
    # InfoBatch prunes 28.77 % of each epoch over 200 epochs (Table F of the paper)
    assert calibrated_epochs(200, 0.3, 0.2877) == 200  # 196.5, within the tolerance
    assert calibrated_epochs(200, 0.5, 0.2877) == 140
    assert calibrated_epochs(200, 0.7, 0.2877) == 84


@given(epochs=st.integers(20, 400), ratio=st.floats(0.0, 0.9), share=st.floats(0.0, 0.6))
def test_calibrated_epochs_spend_what_the_ratio_leaves(epochs: int, ratio: float, share: float) -> None:
    found = calibrated_epochs(epochs, ratio, share)
    # To the nearest epoch, and where that is within 2.5 % of the full length, which is kept, so much more.
    kept = 0.025 * epochs if found == epochs else 0.0
    assert abs(found - epochs * (1 - ratio) / (1 - share)) <= 0.5 + kept + 1e-9


@given(epochs=st.integers(5, 300), ratio=st.floats(0.0, 0.9), share=st.floats(0.0, 0.6), size=st.integers(10, 5_000))
def test_equal_epochs_always_reach_the_budget(epochs: int, ratio: float, share: float, size: int) -> None:
    forwards = equal_epochs(epochs, ratio, share) * (1 - share) * size
    assert forwards >= training_samples(epochs, ratio, size)


def test_training_samples_are_exact_where_floats_round_below() -> None:
    assert training_samples(10, 0.3, 100) == 700
    assert training_samples(30, 0.5, 4_001) == 60_015


@pytest.mark.parametrize("ratio", [-0.1, 1.0, float("nan")])
def test_a_ratio_out_of_range_is_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match="prune_ratio"):
        calibrated_epochs(200, ratio, 0.3)
    with pytest.raises(ValueError, match="prune_ratio"):
        training_samples(200, ratio, 100)
