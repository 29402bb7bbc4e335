"""The running average, against a loop over every sample's losses."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import alignprune as ap
from alignprune.memory import AverageSpec, Observed, Room, RunningAverage
from alignprune.scores import BatchLoss, History

N = 5
losses = st.one_of(st.just(math.nan), st.floats(0.015625, 64, width=32))
epochs = st.lists(st.lists(losses, min_size=N, max_size=N), min_size=1, max_size=8)


def filled(table: list[list[float]], decay: float) -> RunningAverage:
    average = RunningAverage(N, decay)
    for epoch, row in enumerate(table):
        average.write(Observed(epoch, torch.tensor(row), ap.Selection.full(N)))
    return average


def loop(column: list[float], decay: float) -> float:
    value = math.nan
    for loss in column:
        if not math.isnan(loss):
            value = loss if math.isnan(value) else decay * value + (1 - decay) * loss
    return value


@given(epochs, st.floats(0, 0.95))
def test_every_sample_has_the_exponential_average_of_the_losses_it_was_seen_with(
    table: list[list[float]], decay: float
) -> None:
    expected = [loop([row[i] for row in table], decay) for i in range(N)]
    assert filled(table, decay).losses.tolist() == pytest.approx(expected, rel=1e-5, nan_ok=True)


def test_a_state_goes_on_bit_for_bit_and_one_of_another_size_is_refused() -> None:
    table = torch.rand(6, N, generator=torch.Generator().manual_seed(0)).tolist()
    whole, first = filled(table, 0.7), filled(table[:3], 0.7)
    again = RunningAverage(N, 0.7)
    again.check_state_dict(first.state_dict())
    again.load_state_dict(first.state_dict())
    for epoch, row in enumerate(table[3:], 3):
        again.write(Observed(epoch, torch.tensor(row), ap.Selection.full(N)))
    assert torch.equal(again.losses, whole.losses)
    with pytest.raises(ValueError, match=r"average.losses=torch.float32 \(5,\) does not fit"):
        RunningAverage(N + 1, 0.7).check_state_dict(first.state_dict())


def test_the_batch_loss_score_is_the_average_that_it_asks_for() -> None:
    average = AverageSpec(0.5).make(Room(N, 3))
    average.write(Observed(0, torch.tensor([4.0, 2.0, math.nan, 1.0, 1.0]), ap.Selection.full(N)))
    average.write(Observed(1, torch.tensor([2.0, math.nan, math.nan, 1.0, 3.0]), ap.Selection.full(N)))
    scores = BatchLoss(0.5)(History(torch.zeros(4), (average,)))
    assert scores.tolist() == pytest.approx([3.0, 2.0, math.nan, 1.0, 2.0], nan_ok=True)


@pytest.mark.parametrize("decay", [-0.1, 1.0, math.nan, "much"])
def test_a_decay_out_of_range_is_refused(decay: float) -> None:
    with pytest.raises((ValueError, TypeError), match=r"decay=.*expected a number in \[0, 1\)"):
        BatchLoss(decay)
